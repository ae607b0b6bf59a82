"""``python -m bench [QUESTION …] [--json] [--quick]``: ask, and print each answer beside what it is compared with."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
from typing import Any

import structlog

from bench.question import Question, load, names


def main() -> int:
    """Run what the command line names. Returns 1 when a target was missed and ``--strict`` was given."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure, beside what others reach here.")
    parser.add_argument("names", nargs="*", metavar="QUESTION", help="which to ask (all, if none is named)")
    parser.add_argument("--json", action="store_true", help="print one JSON object for programs")
    parser.add_argument("--quick", action="store_true", help="measure briefly; the figures mean little")
    parser.add_argument("--list", action="store_true", help="only list the questions")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    known = names()
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no such question: {', '.join(unknown)} (there are: {', '.join(known)})")
    chosen = [load(name) for name in options.names or known]
    if options.list:
        for question in chosen:
            print(f"{question.name:<14} {question.title}, {question.unit}")
        return 0
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    results = []
    for question in chosen:
        result = ask(question, options.quick)
        results.append(result)
        if not options.json:
            show(result)
    if options.json:
        print(json.dumps({"machine": machine(), "quick": options.quick, "questions": results}, indent=2))
    else:
        print("\n" + ", ".join(f"{key} {value}" for key, value in machine().items()))
    return int(options.strict and any(result["met"] is False for result in results))


def ask(question: Question, quick: bool) -> dict[str, Any]:
    """Return the answers to one question; ``ratio`` is each subject's figure over ours."""
    answers = list(question.ask(quick))
    ours = answers[0].value
    return {
        "name": question.name,
        "title": question.title,
        "unit": question.unit,
        "better": question.better,
        "target": question.target,
        "met": question.met(ours) if ours is not None else None,
        "answers": [
            {
                "subject": answer.subject,
                "value": answer.value,
                "ratio": answer.value / ours if answer.value is not None and ours and not answer.apart else None,
                "note": answer.note,
            }
            for answer in answers
        ],
    }


def show(result: dict[str, Any]) -> None:
    """Print one question's table."""
    target = ""
    if result["target"] is not None:
        sign = "≤" if result["better"] == "lower" else "≥"
        verdict = {True: "met", False: "MISSED", None: "not measured"}[result["met"]]
        target = f"; target {sign} {result['target']:,.10g}: {verdict}"
    print(f"\n{result['title']} ({result['unit']}, {result['better']} is better{target})")
    for answer in result["answers"]:
        value = "-" if answer["value"] is None else f"{answer['value']:,.1f}"
        ratio = "" if answer["ratio"] is None else f"x {answer['ratio']:.2f}"
        print(f"  {answer['subject']:<44} {value:>14} {ratio:>10}  {answer['note']}".rstrip())
    sys.stdout.flush()


def machine() -> dict[str, Any]:
    """Say what was measured on."""
    return {
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "kernel": platform.release(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
