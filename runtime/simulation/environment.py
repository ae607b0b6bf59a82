"""The clocks and the chance of one simulated host."""

from __future__ import annotations

import trio

from runtime.environment import SimulatedEnvironment


class HostEnvironment(SimulatedEnvironment):
    """`runtime.environment.Environment` of a host whose wall clock may be stepped and whose processes may be held.

    Its monotonic clock never steps and goes on while it is held, as CLOCK_BOOTTIME does.
    """

    def __init__(self, seed: int = 0, epoch: float = 1_800_000_000.0) -> None:
        super().__init__(seed, epoch)
        self._steps = 0.0
        self._released: trio.Event | None = None

    def now(self) -> float:
        """Return the time of day as this host believes it to be."""
        return super().now() + self._steps

    def step_clock(self, seconds: float) -> None:
        """Set the wall clock forward, or back where ``seconds`` is negative."""
        self._steps += seconds

    def entropy(self, count: int) -> bytes:
        """Return ``count`` bytes that depend on the seed only."""
        return self.random.randbytes(count)

    async def sleep_until(self, when: float) -> None:
        """Sleep on trio's clock, and for as long as the host is held."""
        await trio.sleep_until(when)
        await self.going_on()

    # --- held: SIGSTOP of its processes, or a machine that is suspended

    @property
    def held(self) -> bool:
        """Whether its processes stand still."""
        return self._released is not None

    def hold(self) -> None:
        """Let its processes stand still. Harmless when they do."""
        if self._released is None:
            self._released = trio.Event()

    def release(self) -> None:
        """Let them go on. Harmless when they do."""
        if self._released is not None:
            self._released.set()
            self._released = None

    async def going_on(self) -> None:
        """Wait until its processes go on; return at once when they do."""
        while self._released is not None:
            await self._released.wait()
