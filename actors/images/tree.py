"""The merged file tree of an image: layers applied one on another, in memory and without their contents."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice

import msgspec

from actors.images.limits import Limits
from actors.images.problems import ImageRefused
from actors.images.tar_reader import Kind, Member, components, shown

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
#: As many as the kernel follows in one path.
_LINK_HOPS = 40
_NO_CHILDREN: dict[bytes, Node] = {}
#: A directory that only shows in other entries' paths.
_UNDESCRIBED = Member(b"", Kind.DIRECTORY, 0o755)
#: Sorting more at once would hold up every other thread.
_SORT_AT_ONCE = 20_000
_STEPS_BETWEEN_CHECKS = 10_000
_FIX = "build the image again with a current tool"
_HOSTILE = "only add images from sources that you trust"


class Node(msgspec.Struct, gc=False):
    """An inode of the merged tree. Hard links are several names of one node. ``children`` only for directories.

    ``entry`` of layer number ``layer`` describes it and says where its contents are; ``name`` is for whoever writes
    the tree out. Like `Member` unknown to the garbage collector, which is safe: nothing in a tree points upwards.
    """

    entry: Member
    layer: int
    name: bytes
    children: dict[bytes, Node]

    @property
    def kind(self) -> Kind:
        """What it is."""
        return self.entry.kind


def _directory(entry: Member, layer: int) -> Node:
    return Node(entry, layer, b"", {})


class Tree:
    """Applies layers, lowest first, and then lists what is left of them.

    Semantics are those of the OCI image specification: a whiteout hides what lower layers brought and never what its
    own layer brings, in whatever order the two stand. Where a path passes through a symbolic link, the link is
    followed inside the image's root, as containerd does. ``checkpoint`` is called now and then and may raise.
    """

    def __init__(self, limits: Limits, checkpoint: Callable[[], None] = lambda: None) -> None:
        self._checkpoint = checkpoint
        self.root = _directory(_UNDESCRIBED, -1)
        self._limits = limits
        self._steps = 0
        self._layer = -1

    def apply(self, members: Sequence[Member]) -> None:
        """Put one more layer on top. Raises `ImageRefused` for what no honest layer holds."""
        self._layer += 1
        additions: list[tuple[list[bytes], Member]] = []
        for member in members:
            parts = components(member.name)
            if parts and any(part.startswith(_WHITEOUT) for part in parts[:-1]):
                # Only aufs kept directories under its own marks; they are no part of the image.
                continue
            if parts and parts[-1].startswith(_WHITEOUT):
                self._whiteout(parts, member.name)
            else:
                additions.append((parts, member))
        for parts, member in additions:
            self._add(parts, member)

    def paths(self) -> Iterator[tuple[bytes, Node]]:
        """Yield every path below the root with its node, parents before children, in the order of names."""
        todo: list[tuple[bytes, Node]] = [(b"", self.root)]
        while todo:
            path, node = todo.pop()
            if path:
                yield path, node
            prefix = path + b"/" if path else b""
            todo.extend((prefix + name, node.children[name]) for name in _descending(node.children))

    def dismantle(self) -> None:
        """Free the tree bit by bit. Freed at once, a large one would hold up every other thread."""
        todo = [self.root]
        while todo:
            node = todo.pop()
            while node.children:
                _, child = node.children.popitem()
                if child.children:
                    todo.append(child)

    def _whiteout(self, parts: list[bytes], name: bytes) -> None:
        stack = self._walk(parts[:-1], create=False)
        base = parts[-1]
        if base == _OPAQUE:
            if stack:
                stack[-1].children.clear()
            return
        if base.startswith(_WHITEOUT + _WHITEOUT):
            return  # other marks of aufs
        hidden = base[len(_WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise ImageRefused(f"the image holds the whiteout {shown(name)}, which names nothing", fix=_FIX)
        if stack:
            stack[-1].children.pop(hidden, None)

    def _add(self, parts: list[bytes], member: Member) -> None:
        if member.kind in (Kind.CHARACTER, Kind.BLOCK_DEVICE):
            raise ImageRefused(
                f"the image holds a {member.kind.value}, {shown(member.name)}",
                fix="remove it: devices do not belong into images, the guest makes its own /dev",
            )
        if not parts:
            if member.kind is not Kind.DIRECTORY:
                raise ImageRefused(f"the image's root is a {member.kind.value}", fix=_FIX)
            self.root.entry = member
            return
        stack = self._walk(parts[:-1], create=True)
        assert stack is not None
        children, base = stack[-1].children, parts[-1]
        if member.kind is Kind.HARDLINK:
            children[base] = self._target(member)
            return
        if member.kind is Kind.SYMLINK:
            _check_symlink(member, len(stack) - 1)
        existing = children.get(base)
        if member.kind is Kind.DIRECTORY and existing is not None and existing.kind is Kind.DIRECTORY:
            existing.entry, existing.layer = member, self._layer
            return
        if member.kind is Kind.DIRECTORY:
            children[base] = _directory(member, self._layer)
        else:
            children[base] = Node(member, self._layer, b"", _NO_CHILDREN)  # not the default, which would be copied

    def _target(self, member: Member) -> Node:
        parts = components(member.link, "hard link target")
        stack = self._walk(parts[:-1], create=False) if parts else None
        node = stack[-1].children.get(parts[-1]) if stack else None
        if node is None:
            raise ImageRefused(
                f"the hard link {shown(member.name)} leads to {shown(member.link)}, which the image does not hold",
                fix=_FIX,
            )
        if node.kind is Kind.DIRECTORY:
            raise ImageRefused(f"the hard link {shown(member.name)} leads to a directory", fix=_FIX)
        return node

    def _walk(self, parts: Sequence[bytes], *, create: bool) -> list[Node] | None:
        """Return the directories from the root to ``parts``, links followed inside the root; None when not there."""
        stack = [self.root]
        todo = list(reversed(parts))
        hops = 0
        while todo:
            self._steps += 1
            if self._steps % _STEPS_BETWEEN_CHECKS == 0:
                self._checkpoint()
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if len(stack) > 1:
                    stack.pop()
                continue
            children = stack[-1].children
            child = children.get(part)
            if child is not None and child.kind is Kind.SYMLINK:
                hops += 1
                if hops > _LINK_HOPS or self._steps > self._limits.path_steps:
                    raise ImageRefused(
                        f"the path {shown(b'/'.join(parts))} in the image goes round in symbolic links", fix=_FIX
                    )
                if child.entry.link.startswith(b"/"):
                    stack = [self.root]
                todo.extend(reversed(child.entry.link.split(b"/")))
                continue
            if child is None or child.kind is not Kind.DIRECTORY:
                if not create:
                    return None
                if child is not None and child.layer == self._layer:
                    raise ImageRefused(
                        f"the path {shown(b'/'.join(parts))} in the image passes through a {child.kind.value}", fix=_FIX
                    )
                child = children[part] = _directory(_UNDESCRIBED, self._layer)
            stack.append(child)
        return stack


def _check_symlink(member: Member, depth: int) -> None:
    """Refuse a link that climbs above the root. An absolute target is fine: it starts at the image's own root."""
    link = member.link
    if not link or len(link) > 4095:
        raise ImageRefused(f"the symbolic link {shown(member.name)} has no usable target", fix=_FIX)
    if link.startswith(b"/"):
        depth = 0
    for part in link.split(b"/"):
        if part == b"..":
            depth -= 1
            if depth < 0:
                raise ImageRefused(
                    f"the symbolic link {shown(member.name)} leads out of the image's root ({shown(link)})",
                    fix=_HOSTILE,
                )
        elif part not in (b"", b"."):
            depth += 1


def _descending(names: Collection[bytes]) -> Iterable[bytes]:
    if len(names) <= _SORT_AT_ONCE:
        return sorted(names, reverse=True)
    everything = iter(names)
    parts = []
    while part := sorted(islice(everything, _SORT_AT_ONCE), reverse=True):
        parts.append(part)
    return merge(*parts, reverse=True)
