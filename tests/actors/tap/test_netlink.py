from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from actors.model.errors import Conflict, Failed, Unavailable
from actors.tap.netlink import code
from actors.tap.refusals import refusal

ROOT = Path(__file__).parents[3]


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_of_pyroute2_is_loaded_until_it_is_needed() -> None:
    program = "import sys, actors.tap.network; print([name for name in sys.modules if name.startswith('pyroute2')])"
    assert run(program) == "[]"


def test_only_the_route_part_is_loaded_and_the_whole_can_be_had_later() -> None:
    program = """
import sys
from actors.tap.netlink import netlink
with netlink() as connection:
    assert [link.get("IFLA_IFNAME") for link in connection.get_links()]
loaded = [name for name in sys.modules if name.startswith("pyroute2")]
assert "pyroute2" not in loaded
assert not [name for name in loaded if name.startswith(("pyroute2.ndb", "pyroute2.ipdb", "pyroute2.ethtool"))], loaded
import pyroute2
assert pyroute2.NDB
with pyroute2.IPRoute() as connection:
    assert list(connection.get_links())
with netlink() as connection:
    assert list(connection.get_links())
print("fine")
"""
    assert run(program) == "fine"


def test_a_process_that_has_the_whole_uses_it() -> None:
    program = """
import pyroute2
from actors.tap.netlink import netlink
with netlink() as connection:
    assert isinstance(connection, pyroute2.IPRoute)
print("fine")
"""
    assert run(program) == "fine"


@pytest.mark.parametrize(
    ("number", "kind", "word"),
    [
        (errno.EPERM, Failed, "root"),
        (errno.EACCES, Failed, "root"),
        (errno.ENOSPC, Unavailable, "space"),
        (errno.EMFILE, Unavailable, "descriptors"),
        (errno.ENOMEM, Unavailable, "memory"),
        (errno.EEXIST, Conflict, "ip link"),
        (errno.EBUSY, Conflict, "ip link"),
    ],
)
def test_refusals_say_what_to_do(number: int, kind: type[Exception], word: str) -> None:
    problem = refusal("make the TAP zwx", OSError(number, "words of the kernel"))
    assert type(problem) is kind
    assert problem.detail.startswith("can't make the TAP zwx: ")
    assert word in (problem.fix or "")


def test_other_errors_keep_their_words() -> None:
    assert "Invalid argument" in refusal("x", OSError(errno.EINVAL, "")).detail
    assert "strange" in refusal("x", RuntimeError("strange")).detail
    assert code(ValueError()) is None
    assert code(OSError(errno.EINVAL, "")) == errno.EINVAL
