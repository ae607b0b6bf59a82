"""The aggregates together, as `zeitwork.store.store.Store` has them."""

from __future__ import annotations

from tests.simulation.store.commands import Commands
from tests.simulation.store.election import Election
from tests.simulation.store.groups import Groups
from tests.simulation.store.images import Images
from tests.simulation.store.instances import Instances
from tests.simulation.store.invitations import Invitations, Trust
from tests.simulation.store.leases import Leases
from tests.simulation.store.nodes import Nodes
from tests.simulation.store.placements import Placements
from tests.simulation.store.presence import Presence
from tests.simulation.store.scheduling import Scheduling
from tests.simulation.store.snapshots import Snapshots
from tests.simulation.store.units import Units


class Store:
    """The aggregates over one way to the database."""

    def __init__(self, units: Units) -> None:
        self.units = units
        self.election = Election(units)
        self.nodes = Nodes(units)
        self.invitations = Invitations(units)
        self.trust = Trust(units)
        self.presence = Presence(units)
        self.images = Images(units)
        self.groups = Groups(units)
        self.instances = Instances(units)
        self.placements = Placements(units)
        self.snapshots = Snapshots(units)
        self.scheduling = Scheduling(units)
        self.commands = Commands(units)
        self.leases = Leases(units)
