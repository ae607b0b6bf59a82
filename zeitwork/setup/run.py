"""Setup from end to end: look, plan, show, ask, do. And the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from actors.model.errors import Problem
from zeitwork.setup import network
from zeitwork.setup import plan as planning
from zeitwork.setup.execute import Executor, as_problem
from zeitwork.setup.facts import look
from zeitwork.setup.manifest import Entry, Manifest
from zeitwork.setup.options import SetupOptions, SetupResult, SetupUi
from zeitwork.setup.remove import Remover, plan_removal, refuse_while_used
from zeitwork.setup.step import Step
from zeitwork.setup.tools import SystemTools, Tools

T = TypeVar("T")


def run_setup(
    options: SetupOptions, ui: SetupUi, *, yes: bool = False, tools: Tools | None = None, command: str = "setup"
) -> SetupResult:
    """Bring what this machine lacks, after showing it and asking (``yes`` does not ask).

    ``command`` is what the person typed, for the ``sudo`` line. Raises `NotRoot` before anything changes,
    `WrongMachine` when this machine can't be set up, and a `Problem` when a step failed: what was done until then is
    in the manifest, and another run goes on from there.
    """
    tools = tools or SystemTools()
    facts = look(options, tools)
    steps = planning.plan(facts, options)
    if not steps:
        if facts.uid == 0:
            Manifest(options.manifest).settle()
        ui.show("Nothing to do: this machine has all that a host needs.")
        return SetupResult()
    ui.show("This machine lacks something that a Zeitwork host needs. Setup would:\n\n" + planning.describe(steps))
    planning.require_root(facts.uid, command)
    if not yes and not ui.confirm("Make these changes?"):
        return SetupResult(declined=True)
    return _carry_out(steps, options, ui, tools)


def _carry_out(steps: tuple[Step, ...], options: SetupOptions, ui: SetupUi, tools: Tools) -> SetupResult:
    manifest = open_manifest(options)
    executor = Executor(options, tools, manifest)
    done: list[str] = []
    warnings: list[str] = []
    for number, step in enumerate(steps, 1):
        ui.begin(step.name, number, len(steps))
        try:
            _translated(lambda step=step: executor.do(step.action, ui.progress))  # type: ignore[misc]
        except Problem as problem:
            if not step.optional:
                raise
            warnings.append(f"{step.name} was left out: {problem}")
            ui.end(warnings[-1])
        else:
            done.append(step.name)
            ui.end(None)
    if not warnings:
        manifest.settle()
    return SetupResult(tuple(done), tuple(warnings))


def run_remove(
    options: SetupOptions,
    ui: SetupUi,
    *,
    purge: bool = False,
    yes: bool = False,
    tools: Tools | None = None,
    command: str = "setup --remove",
) -> SetupResult:
    """Take back what setup did on this machine, and with ``purge`` the data too, after showing it and asking.

    Raises `NotRoot`, `Conflict` while a host, its Postgres or a VM uses the data directory, and a `Problem` when
    something can't be removed: what is left stays in the manifest, and another run goes on from there.
    """
    tools = tools or SystemTools()
    manifest = Manifest(options.manifest)
    removals = plan_removal(manifest, options, purge=purge, network_left=network.left(options, tools))
    if not removals:
        ui.show(f"Nothing to remove: setup changed nothing that is written down in {options.manifest}.")
        return SetupResult()
    ui.show("This would:\n\n" + "\n".join(f"{number}. {item.text}" for number, item in enumerate(removals, 1)))
    planning.require_root(look(options, tools).uid, command)
    refuse_while_used(options)
    if not yes and not ui.confirm("Delete the data for good?" if purge else "Take these back?"):
        return SetupResult(declined=True)
    remover = Remover(options, tools, manifest, purge=purge)
    done: list[str] = []
    notes: list[str] = []
    for number, removal in enumerate(removals, 1):
        ui.begin(removal.name, number, len(removals))
        kept = _translated(lambda removal=removal: remover.undo(removal, ui.progress))  # type: ignore[misc]
        notes += kept
        done.append(removal.name)
        ui.end("; ".join(kept) or None)
    return SetupResult(tuple(done), tuple(notes))


def open_manifest(options: SetupOptions) -> Manifest:
    """Return the manifest of a data directory; makes that directory, and writes it down, when it is missing."""
    fresh = not options.home.is_dir()
    try:
        options.home.mkdir(mode=0o755, parents=True, exist_ok=True)
        manifest = Manifest(options.manifest)
        if fresh:
            manifest.intend(Entry("directory", str(options.home), done=True))
    except OSError as error:
        raise as_problem(error) from error
    return manifest


def _translated(work: Callable[[], T]) -> T:
    try:
        return work()
    except OSError as error:
        raise as_problem(error) from error
