"""Which version a program says it is, asked once for each file."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import trio

from actors.model.errors import Unavailable

_known: dict[tuple[str, int, int, int], str] = {}


async def program_version(binary: Path, pattern: str) -> str:
    """Return the first group of ``pattern`` in what ``binary --version`` prints.

    The answer is kept until the file changes. Raises `Unavailable` when it can't be run or says something else.
    """
    try:
        stat = binary.stat()  # noqa: ASYNC240 - one system call is not worth a thread
    except OSError as error:
        raise Unavailable(f"{binary} can't be used: {error.strerror}", fix="run zeitwork setup") from error
    key = (str(binary), stat.st_ino, stat.st_mtime_ns, stat.st_size)
    if key in _known:
        return _known[key]
    try:
        with trio.fail_after(10):
            result = await trio.run_process(
                [str(binary), "--version"], capture_stdout=True, stderr=subprocess.DEVNULL, check=False
            )
    except (OSError, trio.TooSlowError) as error:
        raise Unavailable(f"{binary} can't be run: {error}", fix="run zeitwork setup") from error
    found = re.search(pattern, result.stdout.decode("utf-8", "replace"))
    if result.returncode != 0 or found is None:
        raise Unavailable(f"{binary} --version failed with status {result.returncode}", fix="run zeitwork setup")
    _known[key] = found[1]
    return found[1]
