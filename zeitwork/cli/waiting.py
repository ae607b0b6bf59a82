"""Waiting for the host to reach what was asked for, with progress, a deadline and the host's own reason."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from actors.model.errors import Failed, Problem
from zeitwork.cli.client import Client
from zeitwork.cli.output import Progress

#: Seconds between looks: short at first because a warm start takes a fraction of a second, longer later.
FIRST_PAUSE, LAST_PAUSE = 0.1, 1.0
#: Seconds that an app has to run before a start counts as done: a wrong argument or a missing key ends most at once.
STAYS = 1.5
#: Seconds for which a host or its database may be away while somebody waits: restarts and recoveries take less.
PATIENCE = 30.0


def wait_for_image(client: Client, image: Any, progress: Progress, deadline: float) -> Any:
    """Return the image once it is ready. Raises `Failed` with its error, or at ``deadline`` (monotonic seconds)."""
    pause = FIRST_PAUSE
    while image["status"] != "ready":
        if image["status"] == "failed":
            raise Failed(
                str(image.get("error") or "the image failed"),
                field=image.get("error_field"),
                fix=image.get("error_fix"),
                code="image-failed",
            )
        if image["status"] == "building":
            progress.show(str(image.get("progress_message") or "preparing the image"), image.get("progress"))
        else:
            progress.show("waiting for the image")
        pause = pause_until(pause, deadline, f"the image was {image['status']}", f"zeitwork images ls  # {image['id']}")
        image = look(client, f"/api/v1/images/{image['id']}", progress, deadline)
    return image


def wait_for_state(
    client: Client,
    instance: Any,
    wanted: set[str],
    progress: Progress,
    deadline: float,
    *,
    again: Callable[[], Any] | None = None,
) -> Any:
    """Return the instance once its state is in ``wanted``.

    ``again`` repeats the request that is waited for. It is used when the instance's host turns out to be down: nobody
    knows when that one is back, so that the answer, which says so, is returned as it is then.

    Raises `Failed` when it settles in another state, or at ``deadline`` (monotonic seconds) with its last reason.
    """
    generation = instance["generation"]
    pause = FIRST_PAUSE
    while True:
        state, reason = instance["state"], instance.get("reason") or ""
        # Nothing comes after the end, whichever generation it was told of.
        fresh = state == "terminated" or instance.get("observed_generation", generation) >= generation
        if fresh and state in wanted:
            return instance
        if fresh and state in ("failed", "crash_loop", "terminated", "stopped"):
            raise Failed(
                f"{instance['name']} is {state}: {reason or 'no reason was given'}",
                fix=f"zeitwork logs {instance['name']}",
                code=f"instance-{state}",
            )
        progress.show(f"{instance['name']} is {state}" + (f": {reason}" if reason else ""))
        if again is not None and instance.get("node_id") is not None:
            node = look(client, f"/api/v1/nodes/{instance['node_id']}", progress, deadline)
            if node["state"] == "down":
                return again()
        fix = f"it goes on by itself: zeitwork ps; zeitwork rm {instance['name']} gives up"
        pause = pause_until(pause, deadline, f"{instance['name']} is still {state}: {reason}".rstrip(": "), fix)
        instance = look(client, f"/api/v1/instances/{instance['id']}", progress, deadline)


def wait_for_snapshot(client: Client, snapshot: Any, wanted: str, progress: Progress, deadline: float) -> Any:
    """Return the snapshot once it is ``wanted`` (``ready`` or ``deleted``).

    Raises `Failed` when it can't become that any more, or at ``deadline`` (monotonic seconds).
    """
    pause = FIRST_PAUSE
    while (state := snapshot["state"]) != wanted:
        reason = f": {snapshot['reason']}" if snapshot.get("reason") else ""
        if state != ("creating" if wanted == "ready" else "deleting"):
            raise Failed(f"the snapshot is {state}{reason}", code=f"snapshot-{state}")
        progress.show(
            f"the snapshot of {snapshot['instance']} is being {'taken' if state == 'creating' else 'removed'}"
        )
        fix = f"it goes on by itself: zeitwork snapshots  # {snapshot['id']}"
        pause = pause_until(pause, deadline, f"the snapshot is still {state}{reason}", fix)
        snapshot = look(client, f"/api/v1/snapshots/{snapshot['id']}", progress, deadline)
    return snapshot


def wait_until_up(client: Client, instance: Any, progress: Progress, deadline: float) -> Any:
    """Return the instance once it has run for `STAYS` seconds: an app that ends at once is told as the failure it is.

    Raises what `wait_for_state` raises.
    """
    instance = wait_for_state(client, instance, {"running"}, progress, deadline)
    stays = time.monotonic() + STAYS
    while time.monotonic() < stays:
        progress.show(f"{instance['name']} is running; seeing that it stays up")
        time.sleep(LAST_PAUSE / 4)
        instance = look(client, f"/api/v1/instances/{instance['id']}", progress, deadline)
        if instance["state"] != "running":
            instance = wait_for_state(client, instance, {"running"}, progress, deadline)
            stays = time.monotonic() + STAYS  # it was started again: this start must stay up too
    return instance


def look(client: Client, path: str, progress: Progress, deadline: float) -> Any:
    """Return what is at ``path``; a host that restarts meanwhile is waited for, since the work goes on without us."""
    given_up = min(deadline, time.monotonic() + PATIENCE)
    while True:
        try:
            return client.get(path)
        except Problem as problem:
            if problem.status != 503 or time.monotonic() >= given_up:
                raise
            progress.show(problem.detail)
        time.sleep(LAST_PAUSE / 2)


def pause_until(pause: float, deadline: float, said: str, fix: str) -> float:
    """Sleep for ``pause`` seconds and return the next pause. Raises `Failed` with what was ``said`` at ``deadline``."""
    if time.monotonic() > deadline:
        raise Failed(f"not done in time; {said}", fix=fix, code="timeout")
    time.sleep(pause)
    return min(pause * 1.5, LAST_PAUSE)
