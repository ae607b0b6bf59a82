"""What a host says of itself when it starts."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from zeitwork import tree
from zeitwork.config import load


async def test_labels_come_from_file_environment_and_flags(tmp_path: Path) -> None:
    file = tmp_path / "zeitwork.toml"
    file.write_text('region = "eu"\n[label]\nzone = "a"\ndisk = "ssd"\n')
    said = await tree._registration(load({}, {}, file), UUID(int=1))
    assert (said.region, said.labels, said.architecture) == ("eu", {"zone": "a", "disk": "ssd"}, "x86_64")
    said = await tree._registration(load({}, {"ZEITWORK_LABEL": "zone=b,gpu="}, file), UUID(int=1))
    assert said.labels == {"zone": "b", "gpu": ""}
    said = await tree._registration(load({"label": ["zone=c", "rack=r 1"]}, {"ZEITWORK_LABEL": "zone=b"}), UUID(int=1))
    assert said.labels == {"zone": "c", "rack": "r 1"}


@pytest.mark.parametrize("labels", [{}, None])
async def test_a_host_without_labels_says_none(labels: object) -> None:
    assert (await tree._registration(load({"label": labels}, {}), UUID(int=1))).labels == {}
