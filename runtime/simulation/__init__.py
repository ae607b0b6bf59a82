"""A clock and a network for many hosts in one process. Seeded: the same seed gives the same run. Knows no domain."""

from runtime.simulation.environment import HostEnvironment
from runtime.simulation.loop import Spun, run
from runtime.simulation.network import Delay, Lost, Network, Pipe
from runtime.simulation.stream import Listeners, SimulatedListener, SimulatedStream, connect, dial, listen

__all__ = [
    "Delay",
    "HostEnvironment",
    "Listeners",
    "Lost",
    "Network",
    "Pipe",
    "SimulatedListener",
    "SimulatedStream",
    "Spun",
    "connect",
    "dial",
    "listen",
    "run",
]
