"""Setup on a terminal or in a script's log, all of it on standard error: standard output is for results."""

from __future__ import annotations

import shutil
import sys

import click


class TerminalUi:
    """Shows the plan, asks, and shows one line for each step, with what its program says now on a terminal."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Show a paragraph."""
        click.echo(text + "\n", err=True)

    def confirm(self, question: str) -> bool:
        """Ask. Where nobody can answer, the answer is no, and the reader is told of ``--yes``."""
        if not sys.stdin.isatty():
            click.echo(f"{question} Nobody can answer here: give --yes to agree beforehand.", err=True)
            return False
        return click.confirm(question, default=False, err=True)

    def begin(self, title: str, number: int, count: int) -> None:
        """Say that a step starts."""
        click.echo(f"[{number}/{count}] {title}", err=True)

    def progress(self, line: str) -> None:
        """Show the last line of a step's program, over the one before."""
        if self._live:
            width = shutil.get_terminal_size().columns
            click.echo(f"\r\x1b[K  {line[: width - 4]}", nl=False, err=True)

    def end(self, warning: str | None) -> None:
        """Say that a step ended."""
        if self._live:
            click.echo("\r\x1b[K", nl=False, err=True)
        if warning is not None:
            click.echo(f"  warning: {warning}", err=True)
