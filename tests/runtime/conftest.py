"""Every test runs under another order of trio's tasks; ``ZEITWORK_TEST_SCHEDULE=N`` repeats one."""

from __future__ import annotations

import os
import random

import pytest
import trio


@pytest.fixture(autouse=True)
def schedule(monkeypatch: pytest.MonkeyPatch, record_property: pytest.RecordProperty) -> int:
    """Seed the order in which trio runs tasks that are ready together."""
    seed = int(os.environ.get("ZEITWORK_TEST_SCHEDULE") or random.randrange(2**32))
    record_property("schedule", seed)
    print(f"ZEITWORK_TEST_SCHEDULE={seed}")  # noqa: T201 - shown with a failure
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    monkeypatch.setattr(trio._core._run, "_r", random.Random(seed))
    return seed
