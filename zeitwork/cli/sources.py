"""What ``deploy`` and ``images add`` accept: a reference, an archive file, an OCI layout folder, standard input."""

from __future__ import annotations

import os
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from actors.model.errors import InvalidInput
from zeitwork.cli.client import Client

CHUNK = 1 << 20


def add_image(client: Client, source: str) -> Any:
    """Make the host fetch or receive the image ``source`` and return the image as the host first answers.

    ``-`` is an archive on standard input; an existing path is an archive file or an OCI layout directory; anything
    else is a registry reference.
    """
    if source == "-":
        if sys.stdin.isatty():
            raise InvalidInput(
                "standard input is a terminal", field="source", fix="docker save IMAGE | zeitwork deploy -"
            )
        return client.upload("/api/v1/images", _pieces(sys.stdin.buffer), name="stdin")
    path = Path(source)
    try:
        if path.exists() and not path.is_dir():  # a pipe too: deploy <(docker save web)
            with path.open("rb") as file:
                return client.upload("/api/v1/images", _pieces(file), name=path.name)
    except OSError as error:
        raise InvalidInput(
            f"{source} can't be read: {error.strerror or error}", field="source", fix="check its permissions"
        ) from None
    if path.is_dir():
        if not (path / "oci-layout").is_file():
            raise InvalidInput(
                f"{source} is a folder without an oci-layout file", field="source", fix="give an OCI layout or archive"
            )
        return client.upload("/api/v1/images", _folder(path), name=path.name)
    if source.startswith(("/", "./", "../")) or source.endswith((".tar", ".tar.gz", ".tgz")):
        raise InvalidInput(f"there is no file {source}", field="source", fix="check the path")
    return client.post("/api/v1/images", {"reference": source})


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """Return a file's content in pieces; the first is there already when this returns.

    `docker save` may take minutes before it says anything, and no host waits that long for a request's body.
    """
    first = file.read(CHUNK)
    return chain([first] if first else [], iter(partial(file.read, CHUNK), b""))


def _folder(path: Path) -> Iterator[bytes]:
    """Yield an OCI layout directory as a tar stream: written by a thread into a pipe, so that nothing is held whole."""
    read_end, write_end = os.pipe()
    failure: list[BaseException] = []

    def write() -> None:
        try:
            with os.fdopen(write_end, "wb") as sink, tarfile.open(fileobj=sink, mode="w|") as tar:
                tar.add(path, arcname=".")
        except BrokenPipeError:
            pass  # The reader gave up and says why itself.
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=write, name="archive an OCI layout", daemon=True)
    thread.start()
    with os.fdopen(read_end, "rb") as source:
        yield from _pieces(source)
    thread.join()
    if failure:
        raise InvalidInput(f"{path} can't be read: {failure[0]}", field="source", fix="check its permissions")
