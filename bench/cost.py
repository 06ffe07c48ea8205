"""What a fleet costs its NATS servers, from measured figures: the tables of docs/scaling.md. Measures nothing itself.

`MEASURED` holds what `herd` and single requests came to on one machine; everything else is arithmetic on it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

REGION_NODES = 10_000


class Measured(NamedTuple):
    """Per node or per request: microseconds of one core, bytes, KiB."""

    direct_us: float = 130.0
    leader_read_us: float = 250.0
    forward_us: float = 180.0
    record_us: float = 450.0
    record_forward_us: float = 130.0
    direct_bytes: float = 8_300.0
    leader_read_bytes: float = 11_100.0
    record_bytes: float = 1_200.0
    connection_kib: float = 140.0
    connect_us: float = 4_300.0
    rotation_us: float = 1_300.0
    rotation_bytes: float = 23_500.0
    open_record_us: float = 300.0
    connected_us: float = 26.0
    """Each second, beside requests: what an idle herd of 5,000 took more than these."""
    pinged_us: float = 33.0
    """Each second, where a region's servers ask who is there."""


MEASURED = Measured()


class Cost(NamedTuple):
    """What some servers bear: connections, GiB, cores and MB/s while nothing happens, core-seconds of an event."""

    connections: int
    memory_gib: float
    idle_cores: float
    idle_mb: float
    start_core_seconds: float
    rotation_core_seconds: float
    rotation_mb: float


def looks(nodes: int, resync: float) -> float:
    """Return how often a second a fleet looks."""
    return nodes / resync


def site(nodes: int, *, resync: float, heartbeat: float, one: Measured = MEASURED) -> Cost:
    """Return what a site without regions bears."""
    idle = looks(nodes, resync) * (one.direct_us + one.leader_read_us) + nodes / heartbeat * one.record_us
    idle += nodes * one.connected_us
    told = looks(nodes, resync) * (one.direct_bytes + one.leader_read_bytes) + nodes / heartbeat * one.record_bytes
    return Cost(
        connections=nodes,
        memory_gib=nodes * one.connection_kib / 2**20,
        idle_cores=idle / 1e6,
        idle_mb=told / 1e6,
        start_core_seconds=nodes * one.connect_us / 1e6,
        rotation_core_seconds=nodes * one.rotation_us / 1e6,
        rotation_mb=nodes * one.rotation_bytes / 1e6,
    )


def region(nodes: int, *, resync: float, heartbeat: float, one: Measured = MEASURED) -> Cost:
    """Return what a region bears: it answers direct gets, passes on what goes home, and asks who is there."""
    whole = site(nodes, resync=resync, heartbeat=heartbeat, one=one)
    idle = looks(nodes, resync) * (one.direct_us + one.forward_us) + nodes / heartbeat * one.record_forward_us
    idle += nodes * (one.connected_us + one.pinged_us)
    return whole._replace(idle_cores=idle / 1e6)


def home(nodes: int, regions: int, *, resync: float, heartbeat: float, one: Measured = MEASURED) -> Cost:
    """Return what home bears for all the regions' nodes: leader reads and records, by a link a region."""
    idle = looks(nodes, resync) * one.leader_read_us + nodes / heartbeat * one.record_us
    told = looks(nodes, resync) * one.leader_read_bytes + nodes / heartbeat * one.record_bytes
    # In a rotation each node asks the stream's leader once, and writes its record once.
    return Cost(
        connections=regions,
        memory_gib=regions * one.connection_kib / 2**20,
        idle_cores=idle / 1e6,
        idle_mb=told / 1e6,
        start_core_seconds=nodes * (one.leader_read_us + one.record_us) / 1e6,
        rotation_core_seconds=nodes * (one.leader_read_us + one.record_us) / 1e6,
        rotation_mb=nodes * (one.leader_read_bytes + one.record_bytes) / 1e6,
    )


def leader_cores(nodes: int, *, heartbeat: float, one: Measured = MEASURED) -> float:
    """Return what each leader's agent spends on the records that it hears, in cores."""
    return nodes / heartbeat * one.open_record_us / 1e6


def row(name: str, cost: Cost, leader: str = "") -> str:
    """Return a row of the table."""
    return (
        f"| {name} | {cost.connections:,} | {cost.memory_gib:.1f} GiB | {cost.idle_cores:.2f} | {cost.idle_mb:.1f} MB/s"
        f" | {cost.start_core_seconds:.0f} s | {cost.rotation_core_seconds:.0f} s, {cost.rotation_mb:.0f} MB"
        f" | {leader} |"
    )


def main() -> None:
    """Print the tables."""
    print("| servers | connections | memory | idle cores | idle out | all start | a rotation | each leader |")
    print("|---|---|---|---|---|---|---|---|")
    for nodes, resync, heartbeat in ((10_000, 45.0, 30.0), (100_000, 45.0, 30.0), (1_000_000, 90.0, 600.0)):
        regions = math.ceil(nodes / REGION_NODES)
        leader = f"{leader_cores(nodes, heartbeat=heartbeat):.2f} cores"
        settings = f"{nodes:,} nodes (resync {resync:g} s, heartbeat {heartbeat:g} s)"
        print(row(f"{settings}: one site", site(nodes, resync=resync, heartbeat=heartbeat), leader))
        if regions > 1:
            print(
                row(
                    f"- each of {regions} regions of {REGION_NODES:,}",
                    region(REGION_NODES, resync=resync, heartbeat=heartbeat),
                )
            )
            print(row("- home of these regions", home(nodes, regions, resync=resync, heartbeat=heartbeat), leader))


if __name__ == "__main__":
    main()
