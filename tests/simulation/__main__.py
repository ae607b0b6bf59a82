"""``python -m tests.simulation``: worlds from seeds or from a file; what was broken, looked at and found."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.simulation.crowd import PLANS, cores, run_all, shrunk
from tests.simulation.generate import FOCI, generate
from tests.simulation.plan import Plan
from tests.simulation.store import Bug
from tests.simulation.world import Result, simulate


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 1 when a rule was broken, else 0."""
    options = _parser().parse_args(arguments)
    bugs = frozenset(Bug(bug) for bug in options.bug)
    if options.plan is not None:
        return _one(options.plan, bugs, verbose=options.verbose)
    seeds = range(options.first, options.first + options.seeds)
    least, most = _hosts(options.hosts)
    focus = tuple(options.focus)
    plans = [generate(seed, least + seed % (most - least + 1), options.minutes, focus=focus) for seed in seeds]
    began = time.perf_counter()
    faults: Counter[str] = Counter()
    looks: Counter[str] = Counter()
    figures: Counter[str] = Counter()
    failed: list[Result] = []
    simulated = 0.0
    for result in run_all([(plan, bugs) for plan in plans], options.jobs):
        faults.update(result.faults)
        looks.update(result.looks)
        figures.update(result.figures)
        simulated += result.seconds
        mark = "ok" if not result.violations else "VIOLATION"
        _say(
            f"seed {result.plan.seed}: {result.plan.hosts} hosts, {len(result.plan.items)} items, "
            f"{result.seconds:.0f} s in {result.took:.1f} s: {mark}",
        )
        if result.violations:
            failed.append(result)
            _show(result)
    took = time.perf_counter() - began
    _table("faults and requests, and what came of them", faults)
    _table("rules looked at", looks)
    _table("figures", figures)
    _say(f"\n{len(plans)} worlds, {simulated:.0f} simulated seconds in {took:.1f} s: {simulated / took:.0f} per second")
    _say(f"violations: {sum(len(result.violations) for result in failed)} in {len(failed)} worlds")
    for result in failed[: options.keep]:
        _keep(result, bugs, options.into)
    return 1 if failed else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description="Whole worlds, broken on purpose. Exits with 1 on a violation."
    )
    parser.add_argument("--seeds", type=_positive, default=20, metavar="N", help="how many worlds (20)")
    parser.add_argument("--first", type=int, default=1, metavar="S", help="the first seed (1)")
    parser.add_argument("--hosts", default="3-12", metavar="M", help="hosts of each world, a number or a range (3-12)")
    parser.add_argument("--minutes", type=float, default=3.0, metavar="T", help="simulated minutes (3)")
    parser.add_argument(
        "--focus",
        action="append",
        default=[],
        choices=sorted(FOCI),
        help="only trouble of this kind, and of others that are given: may be repeated",
    )
    parser.add_argument("--jobs", type=_positive, default=cores(), metavar="J", help="worlds at once (all processors)")
    parser.add_argument("--plan", type=Path, metavar="FILE", help="run this plan instead")
    parser.add_argument("--keep", type=int, default=3, metavar="N", help="failing plans that are shrunk and kept (3)")
    parser.add_argument("--into", type=Path, default=PLANS, metavar="DIR", help="where they are kept")
    parser.add_argument(
        "--bug",
        action="append",
        default=[],
        choices=[bug.value for bug in Bug],
        help="plant this bug: it should be found",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="with --plan: tell all that happens")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _hosts(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    least = int(match[1]) if match else 0
    most = int(match[2] or match[1]) if match else 0
    if not 1 <= least <= most:
        raise SystemExit(f"--hosts: {text!r} is not a number or a range such as 3-12")
    return least, most


def _one(path: Path, bugs: frozenset[Bug], *, verbose: bool) -> int:
    log: list[str] = []
    try:
        plan = Plan.read(path)
    except (OSError, ValueError) as error:
        raise SystemExit(f"--plan: {error}") from error
    result = simulate(plan, bugs, log=log)
    if verbose:
        _say("\n".join(log))
    _show(result)
    _say(f"{path}: {len(result.violations)} violations in {result.seconds:.0f} s, trace {result.trace[:16]}")
    return 1 if result.violations else 0


def _show(result: Result) -> None:
    for violation in result.violations[:5]:
        _say(f"    {violation}")
    if len(result.violations) > 5:
        _say(f"    and {len(result.violations) - 5} more")


def _table(title: str, found: Counter[str]) -> None:
    _say(f"\n{title}:")
    for name, count in sorted(found.items()):
        _say(f"  {name:45} {count:>9}")


def _keep(result: Result, bugs: frozenset[Bug], into: Path) -> None:
    _say(f"shrinking the plan of seed {result.plan.seed} ...")
    small = shrunk(result.plan, bugs)
    first = result.violations[0]
    small = replace(small, note=f"{first.rule}: {first.what}")
    into.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", first.rule.lower()).strip("-")
    path = into / f"{name}-{result.plan.seed}-{result.plan.hosts}.json"
    path.write_text(small.to_json())
    _say(f"kept as {path}: {len(small.items)} items; again with --plan {path}")


if __name__ == "__main__":
    sys.exit(main())
