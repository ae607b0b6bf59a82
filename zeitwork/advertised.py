"""Where others reach this host: what it was told last, remembered, so that it need not be told at every start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from actors.model.errors import Failed
from zeitwork.config import Config, link_address

if TYPE_CHECKING:
    from zeitwork.cluster import Membership


def advertise_file(data: Path) -> Path:
    """Return where a first host's address is remembered; one that joined has it with the rest of its membership."""
    return data / "trust" / "advertise"


def advertised(config: Config, membership: Membership | None) -> str | None:
    """Return the address (HOST:PORT) at which others reach this host: the given one, else the last one.

    None for a host that was never told: it has no links. Raises `Failed` when what was kept can't be read.
    """
    if config.advertise is not None:
        return config.advertise
    if membership is not None:
        return membership.advertise
    path = advertise_file(config.data_dir)
    try:
        return link_address(path.read_text().strip())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Failed(
            f"{path} can't be read: {error}", field="advertise", fix=f"rm {path}, and start with --advertise ADDRESS"
        ) from error


def remember(config: Config, membership: Membership | None, address: str) -> None:
    """Keep an address that this host was started with for starts that name none. Raises `OSError`."""
    # Whoever keeps one has links: what is imported here is there already, and a host that is alone needs none of it.
    if membership is None:
        from zeitwork.trust.files import replace_file

        replace_file(advertise_file(config.data_dir), f"{address}\n")
    elif membership.advertise != address:
        from zeitwork.cluster import MembershipFile

        MembershipFile(config.data_dir).save(replace(membership, advertise=address))
