"""One finding about this machine: what `zeitwork doctor` shows, a line each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """``name`` is stable and kebab-case, ``detail`` one sentence, ``fix`` a command or what to do (None when ok).

    ``required`` is False for what only limits Zeitwork: the host runs, with less.
    """

    name: str
    ok: bool
    detail: str
    fix: str | None = None
    required: bool = True
