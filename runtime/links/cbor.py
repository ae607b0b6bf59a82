"""CBOR from peers: looked through before it is decoded, so that a few bytes can't become much memory or much work.

Only what frames are made of passes: integers of 64 bits, floats, text, bytes, lists, maps, true, false and null, all of
definite length. Tags do not: they make big numbers, regular expressions and references.
"""

from __future__ import annotations

from typing import Any

import cbor2

from runtime.links.errors import Garbage

#: Levels of lists and maps.
DEEPEST = 16
#: Items in one frame, the keys of maps included.
MOST_ITEMS = 8192
_FALSE, _TRUE, _NULL, _HALF, _DOUBLE = 20, 21, 22, 25, 27


def measure(data: bytes, start: int = 0, *, most: int = MOST_ITEMS) -> int:
    """Return where the item that begins at ``start`` ends; it may hold ``most`` items. Raises `Garbage`."""
    position, size = start, len(data)
    left, items = 1, 0
    outer: list[int] = []
    while True:
        if left == 0:
            if not outer:
                return position
            left = outer.pop()
            continue
        left -= 1
        items += 1
        if items > most:
            raise Garbage(f"more than {most} items in one frame")
        if position >= size:
            raise Garbage("a frame ends in its middle")
        first = data[position]
        position += 1
        major, value = first >> 5, first & 31
        if major == 7:
            if _HALF <= value <= _DOUBLE:
                position += 1 << (value - 24)
            elif value not in (_FALSE, _TRUE, _NULL):
                raise Garbage("a simple value other than true, false and null")
        else:
            if value >= 24:
                if value > 27:
                    raise Garbage("a length that is not definite")
                width = 1 << (value - 24)
                value = int.from_bytes(data[position : position + width], "big")
                position += width
            if major == 2 or major == 3:
                position += value
            elif major == 4 or major == 5:
                if len(outer) >= DEEPEST:
                    raise Garbage(f"nested deeper than {DEEPEST}")
                outer.append(left)
                left = value << (major - 4)
                if left > most:
                    raise Garbage(f"more than {most} items in one frame")
            elif major == 6:
                raise Garbage("a tag")
        if position > size:
            raise Garbage("a frame ends in its middle")


def decode(data: bytes) -> Any:
    """Decode one item that `measure` has passed. Raises `Garbage`."""
    try:
        return cbor2.loads(data)
    except Exception as error:
        # The decoder's own error for most, but others for keys that can't be keys and text that is none.
        raise Garbage(f"not CBOR: {type(error).__name__}") from error


def encode(value: Any) -> bytes:
    """Encode what `decode` can read. Raises `ValueError` or `TypeError` for what can't be."""
    try:
        return cbor2.dumps(value)
    except cbor2.CBOREncodeError as error:
        raise ValueError(str(error)) from error
