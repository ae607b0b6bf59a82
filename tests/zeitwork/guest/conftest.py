"""The agent on this machine, for the tests of what it does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.zeitwork.guest.agent_host import AgentClient, agent_host, connected


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with agent_host(tmp_path_factory.mktemp("agent")) as path:
        yield path


@pytest.fixture
def host(agent: Path) -> Iterator[AgentClient]:
    with connected(agent) as client:
        client.hello()
        yield client
