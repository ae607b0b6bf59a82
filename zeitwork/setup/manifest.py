"""What setup changed, written before each change: ``--remove`` undoes these entries and nothing more.

An entry that is written but not ``done`` means that setup was cut short: the change may have happened, so removal
looks at it too. A change that was there before setup has no entry, so nobody else's work is ever undone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from actors.model.errors import Failed

Kind = Literal["directory", "package", "group", "user", "tree", "file", "sysctl", "module", "service"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One change.

    ``subject`` is a path or a name. ``before`` is the value that removal restores (sysctl) or None. ``mark`` tells
    our own thing from one that replaced it since: the sum of a file, the uid of a user, whether a package was asked
    for (``requested``) or came along (``dependency``).
    """

    kind: Kind
    subject: str
    before: str | None = None
    mark: str | None = None
    done: bool = False


class Manifest:
    """The entries of one data directory, on disk after each change of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[tuple[Kind, str], Entry] = {}
        try:
            content = json.loads(path.read_text())
            entries = [Entry(**entry) for entry in content["entries"]]
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise Failed(
                f"{path} can't be read: {error}",
                fix="it lists what setup changed; restore it from a backup, or move it away and run zeitwork setup",
            ) from error
        self._entries = {(entry.kind, entry.subject): entry for entry in entries}

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Return the changes in the order in which they were made."""
        return tuple(self._entries.values())

    def find(self, kind: Kind, subject: str) -> Entry | None:
        """Return one change, or None when setup did not make it."""
        return self._entries.get((kind, subject))

    def intend(self, *entries: Entry) -> None:
        """Write down changes that come next. What is written already stays: its ``before`` is the older truth."""
        for entry in entries:
            self._entries.setdefault((entry.kind, entry.subject), entry)
        self._save()

    def finish(self, kind: Kind, subject: str, *, mark: str | None = None) -> None:
        """Mark a change as made."""
        entry = self._entries[kind, subject]
        self._entries[kind, subject] = replace(entry, done=True, mark=mark if mark is not None else entry.mark)
        self._save()

    def finish_all(self, entries: Iterable[Entry]) -> None:
        """Mark changes as made that were made together."""
        for entry in entries:
            key = (entry.kind, entry.subject)
            self._entries[key] = replace(self._entries[key], done=True)
        self._save()

    def settle(self) -> None:
        """Mark everything as made: nothing is missing any more, whoever cut an earlier setup short."""
        if not all(entry.done for entry in self.entries):
            self.finish_all(self.entries)

    def forget(self, *keys: tuple[Kind, str]) -> None:
        """Drop changes that are undone. The file goes with the last one."""
        for key in keys:
            self._entries.pop(key, None)
        if self._entries:
            self._save()
        else:
            self.path.unlink(missing_ok=True)

    def _save(self) -> None:
        content = {"version": 1, "entries": [asdict(entry) for entry in self._entries.values()]}
        part = self.path.with_suffix(".part")
        with part.open("w") as file:
            file.write(json.dumps(content, indent=1))
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
