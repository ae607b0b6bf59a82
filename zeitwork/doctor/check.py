"""One thing that doctor looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from zeitwork.config import Config
from zeitwork.setup.options import SetupOptions
from zeitwork.setup.tools import Tools

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was found. ``fail``: a host can't run here; ``warn``: it can, less well. ``fix`` mends it."""

    name: str
    status: Status
    detail: str
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Patient:
    """The machine as checks reach it: the host's configuration, where things are, and programs to ask."""

    config: Config
    options: SetupOptions
    tools: Tools


#: Looks at one thing, in well below a second; several run at once, in threads.
Look = Callable[[Patient], list[Check]]


def ok(name: str, detail: str) -> list[Check]:
    """Return that all is well."""
    return [Check(name, "ok", detail)]


def warn(name: str, detail: str, fix: str | None = None) -> list[Check]:
    """Return that something works less well than it could."""
    return [Check(name, "warn", detail, fix)]


def fail(name: str, detail: str, fix: str | None = None) -> list[Check]:
    """Return that a host can't run."""
    return [Check(name, "fail", detail, fix)]
