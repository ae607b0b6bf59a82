"""The system user that the embedded server runs as: Postgres refuses to run as root."""

from __future__ import annotations

import pwd
import subprocess

from actors.model.errors import Failed, Unavailable

POSTGRES_USER = "zeitwork-postgres"

#: Seconds that useradd and userdel may take (they wait for a lock on the password file).
_DEADLINE = 30


def useradd_command(name: str = POSTGRES_USER) -> list[str]:
    """Return the command that makes the user, for `zeitwork setup` to show before it runs it."""
    return [
        "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
        "--shell", "/usr/sbin/nologin", "--comment", "Zeitwork embedded PostgreSQL", name,
    ]  # fmt: skip


def find_user(name: str = POSTGRES_USER) -> pwd.struct_passwd | None:
    """Return the user's entry, None when there is no such user."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def require_user(name: str = POSTGRES_USER) -> pwd.struct_passwd:
    """Return the user's entry. Raises `Unavailable` that names `zeitwork setup` when there is no such user."""
    entry = find_user(name)
    if entry is None:
        raise Unavailable(
            f"the system user {name}, which the embedded database runs as, does not exist",
            code="setup-needed",
            fix="run `zeitwork setup`, or give --database-url",
        )
    return entry


def create_user(name: str = POSTGRES_USER) -> pwd.struct_passwd:
    """Make the user when it does not exist yet, and return its entry. Raises `Failed` with useradd's words."""
    entry = find_user(name)
    if entry is None:
        _run(useradd_command(name))
        entry = require_user(name)
    return entry


def remove_user(name: str = POSTGRES_USER) -> None:
    """Remove the user when it exists. Raises `Failed` with userdel's words."""
    if find_user(name) is not None:
        _run(["userdel", name])


def _run(argv: list[str]) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_DEADLINE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{argv[0]} could not be run: {error}") from error
    # 9: the name exists already, made by someone else between our look and our call.
    if done.returncode not in (0, 9):
        raise Failed(f"{argv[0]} failed: {done.stderr.strip() or f'status {done.returncode}'}")
