"""A cluster on hosts of their own, cut into parts and healed, with what became of it by the clock.

Three servers with exactly what `keydist store config` writes, TLS and all, and agents, each on a host of a `Network`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from integration import history
from integration.fleet import Fleet
from integration.network import Network
from integration.secured import Secured
from keydist.core.accept import Held

SERVERS: Final = ("nats-1", "nats-2", "nats-3")
OVERDUE: Final = "overdue"


@dataclass(kw_only=True)
class Cut:
    """One cut: who was cut off, when (unix seconds), and after how many seconds what happened."""

    hosts: tuple[str, ...]
    began: float
    healed: float = 0.0
    converged: float = 0.0
    alarmed: dict[str, float] = field(default_factory=dict)
    """After the cut, who alarmed of anything but what is overdue."""
    quiet: float = 0.0
    """After the healing, when nothing was overdue any more either."""

    def __str__(self) -> str:
        """Return one line."""
        alarms = f"{len(self.alarmed)} alarmed"
        if self.alarmed:
            alarms += f" after {min(self.alarmed.values()):.1f} to {max(self.alarmed.values()):.1f} s"
        return (
            f"cut for {self.healed - self.began:.1f} s, {alarms}, converged {self.converged:.1f} s after the healing"
            f" (nothing overdue after {self.quiet:.1f} s)"
        )


def spread(values: Collection[float]) -> str:
    """Return the least, the median and the most of some seconds."""
    return f"{min(values):.1f} / {median(values):.1f} / {max(values):.1f} s"


class Parted:
    """The cluster."""

    def __init__(self, network: Network, secured: Secured, fleet: Fleet[Secured]) -> None:
        self.network = network
        self.secured = secured
        self.fleet = fleet

    @classmethod
    @contextmanager
    def made(
        cls, directory: Path, *, leaders: Collection[str], followers: Collection[str], settings: dict[str, object]
    ) -> Iterator[Parted]:
        """Start the servers and all agents, and return once each agent has confirmed an epoch."""
        nodes = (*leaders, *followers)
        with Network((*SERVERS, *nodes)) as network:
            hosts = {network.address(name): name for name in SERVERS}
            with (
                Secured(
                    directory,
                    leaders=leaders,
                    followers=followers,
                    hosts=hosts,
                    enter=lambda host: network.enter(hosts[host]),
                ) as secured,
                Fleet(secured, settings=settings, places={name: network.place(name) for name in nodes}) as fleet,
            ):
                fleet.start([next(iter(leaders))])
                fleet.start()
                yield cls(network, secured, fleet)

    # --- looking -------------------------------------------------------------------------------

    def stream_leader(self) -> str:
        """Return the server that leads the keyset's stream, once there is one."""
        found: list[str] = []

        def look() -> bool:
            host = self.secured.stream_leader()
            found.extend(name for name in SERVERS if host == self.network.address(name))
            return bool(found)

        self.fleet.until(look, "a stream leader")
        return found[0]

    def acting_leader(self) -> str:
        """Return the leader that rotated last."""
        leaders = self.secured.leaders
        return max(leaders, key=lambda name: max(self.rotations_since(0, [name]), default=0.0))

    def rotations_since(self, began: float, names: Collection[str]) -> Iterator[float]:
        """Yield when (unix seconds) these leaders rotated since then."""
        for name in names:
            for event in self.fleet.members[name].events():
                if event.get("how") == "rotate" and (at := _at(event)) >= began:
                    yield at

    def held(self, name: str) -> Held:
        """Return the keyset that a node has."""
        held = self.fleet.load(name).held
        assert held is not None
        return held

    def stored(self) -> bytes:
        """Return what the store's leader holds."""

        async def read() -> bytes:
            async with self.secured.client("operator") as operator:
                return (await history.stored(operator))[0]

        return asyncio.run(read())

    def alarms_since(self, began: float) -> Iterator[tuple[str, str, float]]:
        """Yield who alarmed of what (its code) after how many seconds since then."""
        for name, member in self.fleet.members.items():
            for event in member.events():
                if event["event"] == "alarm" and (at := _at(event)) >= began:
                    yield name, event["code"], at - began

    def command(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a command on a node's host; its standard output is kept."""
        line = [*self.network.enter(name), sys.executable, "-m", "keydist", *arguments, "--json"]
        line += ["--config", str(self.fleet.members[name].node.config)]
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    # --- cutting -------------------------------------------------------------------------------

    def cut(self, *hosts: str, until: Callable[[float], bool], least: float, most: float) -> Cut:
        """Cut hosts off together for at least so many seconds and until something holds; then heal.

        `until` is told when the cut began (unix seconds).
        """
        self.network.cut(*hosts)
        made = Cut(hosts=hosts, began=time.time())
        try:
            self.fleet.until(
                lambda: time.time() >= made.began + least and until(made.began),
                f"all that a cut of {hosts} waits for",
                most,
            )
        finally:
            self.network.heal()
            made.healed = time.time()
        for name, code, after in self.alarms_since(made.began):
            if code != OVERDUE:
                made.alarmed.setdefault(name, after)
        return made

    def wait_converged(self, made: Cut, *, patience: float) -> None:
        """Return when all is well, and note when it was.

        Converged: every node has the newest epoch, confirmed since the healing, and no alarm but of what is overdue,
        which a cut holds up and the next rotation ends.
        """
        newest = max(self.fleet.epochs().values())

        def look() -> bool:
            for name, member in self.fleet.members.items():
                local, alarms = self.fleet.load(name), member.alarms()
                held, confirmed = local.held, local.confirmation
                if held is None or held.keyset.epoch < newest or confirmed is None or confirmed.at < made.healed:
                    return False
                if alarms.keys() - {OVERDUE}:
                    return False
            return True

        try:
            self.fleet.until(look, f"convergence after {made.hosts} were cut off", patience)
        except AssertionError as exc:
            found = {name: dict(member.alarms()) for name, member in self.fleet.members.items()}
            raise AssertionError(f"{exc}; alarms: {found}") from exc
        made.converged = time.time() - made.healed
        self.fleet.wait_quiet(patience)
        made.quiet = time.time() - made.healed

    def wait_one(self, before: Held) -> Held:
        """Return the keyset that all disks and the store hold, which descends from the one before."""
        found: list[Held] = []

        def look() -> bool:
            found[:] = [self.fleet.wait_same()]
            return self.stored() == found[0].envelope

        self.fleet.until(look, "one keyset on all disks and in the store")
        assert history.descends(found[0], before)
        return found[0]


def _at(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["ts"]).timestamp()
