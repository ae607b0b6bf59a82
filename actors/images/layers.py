"""Layers to one tar stream, without unpacking anything on the host: index them all, then copy what survived.

Blocking and heavy: use it in a worker thread. ``checkpoint`` is called at least once for every half MiB with the
count of stored bytes read since the last call; it may raise to stop the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from actors.images.decompress import Budget, Slice, Unpacked
from actors.images.limits import DEFAULT_LIMITS, Limits
from actors.images.problems import ImageRefused
from actors.images.tar_reader import BLOCK, Kind, Member, TarReader
from actors.images.tar_writer import END, header
from actors.images.tree import Node, Tree

Checkpoint = Callable[[int], None]
#: What squashfs can store. ACLs (``system.``) it can't.
_XATTRS = (b"user.", b"trusted.", b"security.")
#: Would change how the guest's own overlay reads its lower layer.
_OVERLAY = (b"trusted.overlay.", b"user.overlay.")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: where its bytes are and the digest of what they decompress to."""

    data: Slice
    diff_id: str


def merge(layers: Sequence[Layer], checkpoint: Checkpoint, limits: Limits = DEFAULT_LIMITS) -> Tree:
    """Return the merged tree of the layers, every layer verified. Raises `ImageRefused`."""
    tree = Tree(limits, lambda: checkpoint(0))
    budget = Budget(limits)
    entries = metadata = 0
    for number, layer in enumerate(layers, 1):
        sha = hashlib.sha256()
        members: list[Member] = []
        with Unpacked(layer.data, budget, _deltas(checkpoint)) as unpacked:

            def source(unpacked: Unpacked = unpacked, sha: hashlib._Hash = sha) -> bytes:
                data = unpacked.chunk()
                sha.update(data)
                return data

            reader = TarReader(source, limits)
            for member in reader:
                members.append(member)
                entries += 1
                metadata += len(member.name) + len(member.link)
                metadata += sum(len(key) + len(value) for key, value in member.xattrs.items())
                if entries > limits.entries or metadata > limits.metadata:
                    raise ImageRefused(
                        f"the image has more than {limits.entries} files or {limits.metadata} bytes of names",
                        fix="make the image smaller",
                    )
            reader.drain()
        if f"sha256:{sha.hexdigest()}" != layer.diff_id:
            raise ImageRefused(
                f"layer {number} of {len(layers)} does not match the digest in the image's configuration",
                fix="the image is damaged or was changed: push or save it again",
                code="digest-mismatch",
            )
        tree.apply(members)
    return tree


def stream(
    layers: Sequence[Layer], tree: Tree, checkpoint: Checkpoint, limits: Limits = DEFAULT_LIMITS
) -> Iterator[bytes | memoryview]:
    """Yield the merged tree as one tar archive: directories and links first, then contents, then hard links."""
    wanted: list[list[Node]] = [[] for _ in layers]
    yield _entry(b"./", tree.root)
    hard_links: list[tuple[bytes, Node]] = []
    for path, node in tree.paths():
        if node.kind is not Kind.FILE:
            yield _entry(path, node)
            continue
        if node.name:
            hard_links.append((path, node))
        else:
            wanted[node.layer].append(node)
            node.name = path
    budget = Budget(limits)
    for layer, nodes in zip(layers, wanted, strict=True):
        yield from _contents(layer, nodes, budget, checkpoint)
    for path, node in hard_links:
        yield header(path, Kind.HARDLINK, link=node.name)
    yield END


def _contents(layer: Layer, nodes: list[Node], budget: Budget, checkpoint: Checkpoint) -> Iterator[bytes | memoryview]:
    nodes.sort(key=lambda node: node.entry.offset)
    with Unpacked(layer.data, budget, _deltas(checkpoint)) as unpacked:
        chunk, start = memoryview(b""), 0  # of the unpacked layer, from `start`
        for node in nodes:
            yield _entry(node.name, node)
            at, end = node.entry.offset, node.entry.offset + node.entry.size
            while at < end:
                while start + len(chunk) <= at:
                    start += len(chunk)
                    chunk = memoryview(unpacked.chunk())
                    if not chunk:
                        raise ImageRefused("a layer changed while it was read", fix="add the image again")
                piece = chunk[at - start : end - start]
                yield piece
                at += len(piece)
            if node.entry.size % BLOCK:
                yield bytes(-node.entry.size % BLOCK)
        checkpoint(layer.data.size - unpacked.consumed)


def _entry(path: bytes, node: Node) -> bytes:
    entry = node.entry
    xattrs = {
        key: value
        for key, value in entry.xattrs.items()
        if key.startswith(_XATTRS) and not key.startswith(_OVERLAY) and len(key) < 256 and len(value) <= 65536
    }
    return header(
        path,
        node.kind,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size,
        mtime=entry.mtime,
        link=entry.link if node.kind is Kind.SYMLINK else b"",
        xattrs=xattrs,
    )


def _deltas(checkpoint: Checkpoint) -> Checkpoint:
    """Turn running totals into differences."""
    last = 0

    def report(total: int) -> None:
        nonlocal last
        checkpoint(total - last)
        last = total

    return report
