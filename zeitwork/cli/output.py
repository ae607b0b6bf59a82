"""Tables, ages and errors for people; JSON for programs."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from actors.model.errors import Problem

if TYPE_CHECKING:
    import rich.progress


def print_json(value: Any) -> None:
    """Write one JSON document to standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write aligned columns to standard output. Piped output is never wrapped or cut, so that it can be searched."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        grid.add_column(heading, overflow="fold")
    for row in rows:
        grid.add_row(*("-" if cell is None or cell == "" else escape(str(cell)) for cell in row))
    terminal = sys.stdout.isatty()
    # Written to memory first: rich itself would meet the errors of standard output in its own ways.
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=shutil.get_terminal_size().columns if terminal else 4000
    )
    with console.capture() as captured:
        console.print(grid)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def age(timestamp: str | None, now: datetime | None = None) -> str:
    """Return how long ago an RFC 3339 time was, in its largest unit: ``5s``, ``12m``, ``3h``, ``9d``."""
    if not timestamp:
        return "-"
    then = datetime.fromisoformat(timestamp)
    return span(((now or datetime.now(UTC)) - then).total_seconds())


def span(seconds: float) -> str:
    """Return a time in its largest unit: ``5s``, ``12m``, ``3h``, ``9d``."""
    whole = max(0, int(seconds))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if whole >= size:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def urls(instance: Any) -> list[str]:
    """Return where an instance answers, IPv6 first."""
    port = instance["default_port"]
    found = []
    if instance.get("ipv6"):
        found.append(f"http://[{instance['ipv6']}]:{port}")
    if instance.get("ipv4"):
        found.append(f"http://{instance['ipv4']}:{port}")
    return found


def report_problem(problem: Problem, *, as_json: bool = False) -> None:
    """Write a refusal to standard error: what, where, and what to do."""
    if as_json:
        body = {"code": problem.code, "detail": problem.detail, "field": problem.field, "fix": problem.fix}
        click.echo(json.dumps({"error": {k: v for k, v in body.items() if v is not None}}), err=True)
        return
    where = f"{problem.field}: " if problem.field else ""
    click.echo(f"error: {where}{problem.detail}", err=True)
    if problem.fix:
        click.echo(f"  fix: {problem.fix}", err=True)


def problem_of(error: BaseException) -> Problem:
    """Return the first `Problem` in an error or group of errors; anything else is raised again."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, BaseExceptionGroup):
        found, rest = error.split(Problem)
        if found is not None and rest is None:
            return problem_of(found.exceptions[0])
    raise error


class Progress:
    """A spinner, a sentence and a bar on a terminal; a line for each new sentence elsewhere. On standard error."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._last = ""
        self._live: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None
        if sys.stderr.isatty() and not quiet:
            import rich.console
            import rich.progress as parts

            console = rich.console.Console(stderr=True)
            columns = (parts.SpinnerColumn(), parts.TextColumn("{task.description}"), parts.BarColumn(24))
            self._live = parts.Progress(*columns, parts.TimeElapsedColumn(), console=console, transient=True)

    def show(self, text: str, percent: int | None = None) -> None:
        """Show where the work is; ``percent`` None means that nobody knows how much is left."""
        if self._quiet:
            return
        if self._live is None:
            if text != self._last:
                click.echo(text, err=True)
        elif self._task is None:
            self._live.start()
            self._task = self._live.add_task(escape(text), total=None if percent is None else 100)
        if self._live is not None and self._task is not None:
            total = None if percent is None else 100
            self._live.update(self._task, description=escape(text), total=total, completed=percent or 0)
        self._last = text

    def done(self) -> None:
        """Clear the line."""
        if self._live is not None:
            self._live.stop()
        self._last = ""
