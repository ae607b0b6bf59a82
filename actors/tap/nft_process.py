"""Running ``nft``: one transaction for each call, with a deadline and its own words when it refuses."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from actors.model.errors import Failed, Unavailable
from actors.tap import nfnetlink
from actors.tap.nft import render_elements

#: Seconds that one call may take; it usually takes ten milliseconds.
DEADLINE = 15.0


@dataclass(frozen=True, slots=True)
class Nft:
    """The ``nft`` command. Acts in the network namespace of the calling process.

    ``direct``: elements of sets are told to the kernel without it, where the kernel takes them.
    """

    binary: str = "nft"
    direct: bool = True

    async def change(self, table: str, changes: Sequence[nfnetlink.Change]) -> None:
        """Add and delete elements of sets in one transaction: all of it happens or nothing. Raises `Problem`.

        Adding what is there does no harm; deleting what is not is refused.
        """
        if self.direct and await trio.to_thread.run_sync(nfnetlink.apply, table, changes):
            return
        await self.apply("".join(render_elements(verb, table, {name: items}) for verb, name, items in changes))

    async def apply(self, script: str) -> None:
        """Run a script as one transaction: all of it happens or nothing. Raises `Problem`."""
        status, _, words = await self._run("-f", "-", given=script)
        if status != 0:
            raise Failed(f"nft refused the rules: {words}", fix="see what is there: nft list ruleset")

    async def list_table(self, family: str, table: str) -> str | None:
        """Return one table as JSON, None when there is none. Raises `Problem`."""
        status, output, words = await self._run("-j", "list", "table", family, table)
        if status == 0:
            return output
        if "No such file or directory" in words:
            return None
        raise Failed(f"nft can't list the table {family} {table}: {words}")

    async def _run(self, *arguments: str, given: str = "") -> tuple[int, str, str]:
        # In a thread of its own from begin to end: pipes and a child watched on the loop take longer than nft itself.
        try:
            done = await trio.to_thread.run_sync(_run, [self.binary, *arguments], given.encode())
        except FileNotFoundError:
            raise Failed(f"the program {self.binary} is missing", fix="apt-get install nftables") from None
        except subprocess.TimeoutExpired:
            raise Unavailable(f"nft did not answer within {DEADLINE:g} s") from None
        except (OSError, subprocess.SubprocessError) as error:
            raise Failed(f"nft can't be run: {error}") from error
        words = done.stderr.decode(errors="replace").strip().splitlines()
        return done.returncode, done.stdout.decode(errors="replace"), words[0] if words else f"status {done.returncode}"


def _run(command: list[str], given: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=given, capture_output=True, check=False, timeout=DEADLINE)
