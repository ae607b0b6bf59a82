"""Lists come in pages: a limit, and a cursor that asks for the rest."""

from __future__ import annotations

from typing import Annotated

import msgspec

from zeitwork.api.decode import Input

Limit = Annotated[int, msgspec.Meta(ge=1, le=500, description="most items in one page")]
Cursor = Annotated[str, msgspec.Meta(min_length=1, max_length=512, description="next_cursor of the page before")]


class PageQuery(Input):
    """Parameters of every list."""

    limit: Limit = 100
    cursor: Cursor | None = None
