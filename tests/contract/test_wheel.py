"""The wheel holds exactly the three packages, and runs from a directory full of traps."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = out.glob("*.whl")
    return file


def test_the_wheel_holds_the_three_packages_and_what_they_need(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"zeitwork", "actors", "runtime"}
    assert "zeitwork/guest/init.x86_64" in names
    assert any(name.startswith("zeitwork/store/migrations/0001") for name in names)
    assert {"zeitwork/py.typed", "actors/py.typed", "runtime/py.typed"} <= set(names)


def test_hostile_folders_beside_the_user_are_not_imported(wheel: Path, tmp_path: Path) -> None:
    """Installed into a virtualenv of its own, the CLI must not pick up packages from where it runs."""
    home = tmp_path / "venv"
    venv.create(home, system_site_packages=False, with_pip=False)
    site = next((home / "lib").glob("python*/site-packages"))
    # The dependencies are this environment's; Zeitwork itself comes from the wheel, first on the path.
    here = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    (site / "dependencies.pth").write_text(f"{here}\n")
    zipfile.ZipFile(wheel).extractall(site)
    trap = tmp_path / "trap"
    for package in ("runtime", "actors", "zeitwork"):
        (trap / package).mkdir(parents=True)
        (trap / package / "__init__.py").write_text("raise SystemExit('the trap was imported')\n")
    script = home / "bin/zeitwork"
    script.write_text(f"#!{home}/bin/python\nimport sys\nfrom zeitwork.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    for command in (["version"], ["doctor", "--help"], ["run", "--help"], ["demo", "--help"]):
        done = subprocess.run([str(script), *command], cwd=trap, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "trap" not in done.stdout + done.stderr
    where = subprocess.run(
        [str(home / "bin/python"), "-I", "-c", "import zeitwork, actors, runtime; print(zeitwork.__file__)"],
        cwd=trap, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert str(site) in where.stdout, where.stderr
