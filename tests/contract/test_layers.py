"""The walls between packages, read from the source's own imports."""

from __future__ import annotations

import ast
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP_LEVEL = {"zeitwork", "actors", "runtime", "tests", "bench", "pyproject.toml", "README.md", "LICENSE"}
SHARED_BY_SIBLINGS = {"messages", "store"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    """Yield dotted names that ``file`` imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def offenders(package: str, forbidden: set[str]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in modules(package)
        for name in imports(file)
        if name.split(".")[0] in forbidden
    ]


def test_there_is_something_to_check() -> None:
    for package in ("runtime", "actors", "zeitwork"):
        assert len(modules(package)) > 5


def test_runtime_knows_nobody() -> None:
    assert offenders("runtime", {"actors", "zeitwork", "tests", "psycopg"}) == []


def test_actors_know_only_the_runtime() -> None:
    assert offenders("actors", {"zeitwork", "tests", "psycopg", "starlette", "click"}) == []


def test_the_product_never_imports_its_tests() -> None:
    assert offenders("zeitwork", {"tests", "bench"}) == []


def test_the_model_imports_only_the_standard_library_and_itself() -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sorted((ROOT / "actors/model").rglob("*.py"))
        for name in imports(file)
        if name.startswith(("runtime", "zeitwork")) or (name.startswith("actors") and name.split(".")[1] != "model")
    ]
    assert wrong == []


def test_siblings_in_actors_share_only_messages_and_protocols() -> None:
    wrong = []
    for file in modules("actors"):
        own = file.relative_to(ROOT / "actors").parts[0]
        for name in imports(file):
            parts = name.split(".")
            if parts[0] != "actors" or len(parts) < 2 or parts[1] in (own, "model"):
                continue
            if len(parts) < 3 or parts[2] not in SHARED_BY_SIBLINGS:
                wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_only_the_composition_root_puts_actors_together() -> None:
    """Actor classes are constructed in ``zeitwork/tree.py`` and, as children, inside ``actors``: nowhere else."""
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in modules("zeitwork")
        if file.name != "tree.py"
        for name in imports(file)
        if name.startswith("actors.") and ".actor." in name + "."
    ]
    assert wrong == []


@pytest.mark.parametrize("word", ["utils", "util", "common", "manager", "helpers", "misc"])
def test_no_drawers_for_everything(word: str) -> None:
    found = [
        f for p in ("runtime", "actors", "zeitwork", "bench") for f in modules(p) if word in (f.stem, f.parent.name)
    ]
    assert found == []


def test_the_top_level_holds_what_was_agreed_and_nothing_else() -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    if listed.returncode:
        pytest.skip("not a git checkout, so what belongs to the project can't be told from what was left here")
    names = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


def test_every_test_folder_is_a_package() -> None:
    missing = {f.parent for f in modules("tests") if not (f.parent / "__init__.py").exists()}
    assert missing == set()
