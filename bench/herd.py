"""A herd on one server: agents with mutual TLS, a user and a certificate each, as tasks of a few processes.

The server runs with exactly what `keydist store config` writes. Measured: until all have the first key, who start at
once where it is there, and who wait for it; a rotation; and a rotation right after the server was killed and started,
when all connect at once. Agents and server share the machine: with two cores it is the agents that take the time.
`BENCH_HERD` agents in `BENCH_HERD_PROCESSES` processes; their states in `BENCH_HERD_STATES`, by default in memory, as
thousands of nodes do not share one disk. `BENCH_HERD_CASES` is "waiting", "starting" or both. Target: each time all of
them, whatever fails on the way.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from bench.crowd import PLACE
from bench.herd_member import Herd, Seen, be_members
from bench.herd_site import LEADER, Site
from bench.propagation import Writer, percentiles, spent
from keydist.adapters.nats import bucket as streams
from keydist.adapters.nats.connection import Connection
from keydist.adapters.nats.ensure import ensure_bucket
from keydist.core.token import generate_token

HERD = int(os.environ.get("BENCH_HERD", "5000"))
PROCESSES = int(os.environ.get("BENCH_HERD_PROCESSES", "4"))
STATES = os.environ.get("BENCH_HERD_STATES", "/dev/shm")
IDLE_SECONDS = float(os.environ.get("BENCH_HERD_IDLE_SECONDS", "60"))
HEARTBEAT = 30
RESYNC = 45.0
CASES = os.environ.get("BENCH_HERD_CASES", "waiting starting").split()
PATIENCE_SECONDS = 400.0


class Members:
    """The processes of a herd."""

    def __init__(self, parts: list[tuple[BaseProcess, Pipe]]) -> None:
        self._parts = parts

    def asked(self, what: int | str) -> Seen:
        """Ask all processes and return what they tell together; leave the program where one does not in time."""
        for _, pipe in self._parts:
            pipe.send(what)
        deadline, told = time.monotonic() + PATIENCE_SECONDS, list[Seen]()
        for process, pipe in self._parts:
            if not pipe.poll(max(0.0, deadline - time.monotonic())):
                sys.exit(f"not all agents {what!r} within {PATIENCE_SECONDS:g} s (process {process.pid})")
            told.append(pipe.recv())
        return Seen(
            at=[at for one in told for at in one.at],
            dialled=sum(one.dialled for one in told),
            failures=sum((one.failures for one in told), Counter()),
            alarms=sum((one.alarms for one in told), Counter()),
            cpu=sum(one.cpu for one in told),
        )


@contextmanager
def members(herd: Herd, names: list[str]) -> Iterator[Members]:
    """Make agents, to be started; they end when the block is left."""
    parts = list[tuple[BaseProcess, Pipe]]()
    context = multiprocessing.get_context("spawn")
    try:
        for number in range(PROCESSES):
            mine, theirs = context.Pipe()
            process: BaseProcess = context.Process(target=be_members, args=(theirs, herd, names[number::PROCESSES]))
            process.start()
            parts.append((process, mine))
        yield Members(parts)
    finally:
        for process, _ in parts:
            process.kill()
            process.join()


class Spell(NamedTuple):
    """A measured time: when it began, and what was used before."""

    begun: float
    server: float
    agents: Seen


def begin(site: Site, agents: Members) -> Spell:
    """Begin to measure."""
    return Spell(time.monotonic(), spent(site.pid).cpu, agents.asked("now"))


def told(what: str, spell: Spell, seen: Seen, site: Site, *, since: float | None = None) -> None:
    """Print what a measured time came to."""
    begun = spell.begun if since is None else since
    times = [at - begun for at in seen.at]
    used = spent(site.pid)
    failures = seen.failures - spell.agents.failures
    print(f"{what}: {percentiles(times)}")
    print(
        f"  {seen.dialled - spell.agents.dialled} connections tried, {failures.total()} failed {dict(failures)};"
        f" alarms {dict(seen.alarms - spell.agents.alarms)}"
    )
    print(
        f"  CPU until the last: server {used.cpu - spell.server:.1f} s, agents {seen.cpu - spell.agents.cpu:.1f} s;"
        f" server {used.mib:.0f} MiB"
    )


async def make_streams(site: Site) -> None:
    """Make the buckets as the operator."""
    connection = Connection(site.as_user("operator"))
    await ensure_bucket(connection, "keydist", streams.keyset_stream, replicas=1)
    await ensure_bucket(connection, "keydist-nodes", streams.records_stream, replicas=1)
    await connection.close()


async def write(writer: Writer) -> tuple[int, float]:
    """Write the first epoch or the next one; return it and when (monotonic) that began."""
    if writer.epoch:
        found = await writer.rotate()
    else:
        begun = time.monotonic()
        await writer.first()
        found = (1, begun)
    await writer.store.close()
    return found


def waiting(site: Site, herd: Herd, names: list[str], writer: Writer) -> None:
    """Measure a herd that waits for the first key."""
    with members(herd, names) as agents:
        spell = begin(site, agents)
        agents.asked("start")
        told(f"{HERD} agents connect at once, no key is there", spell, agents.asked("linked"), site)
        time.sleep(5)  # all are in their longest pauses
        spell = begin(site, agents)
        epoch, at = asyncio.run(write(writer))
        told(f"{HERD} agents that wait for the first key", spell, agents.asked(epoch), site, since=at)


def starting(site: Site, herd: Herd, names: list[str], writer: Writer) -> None:
    """Measure a herd that starts where a key is, then rotations, a killed server, and idling."""
    with members(herd, names) as agents:
        spell = begin(site, agents)
        agents.asked("start")
        told(f"{HERD} agents start at once, the key is there", spell, agents.asked(writer.epoch), site)
        time.sleep(5)
        spell = begin(site, agents)
        epoch, at = asyncio.run(write(writer))
        told("a rotation", spell, agents.asked(epoch), site, since=at)
        idle(site, agents)
        site.kill()
        time.sleep(3)
        site.start()
        spell = Spell(time.monotonic(), 0.0, agents.asked("now"))
        epoch, at = asyncio.run(write(writer))
        seen = agents.asked(epoch)
        told("a rotation when the server is back after a crash", spell, seen, site)
        linked = agents.asked("linked")
        print(f"  all connected {max(linked.at) - spell.begun:.1f} s after the server was back")


def idle(site: Site, agents: Members) -> None:
    """Print what a herd costs while nothing happens."""
    time.sleep(HEARTBEAT)
    spell, before = begin(site, agents), site.asked("varz") or {}
    time.sleep(IDLE_SECONDS)
    used, after, seen = spent(site.pid), site.asked("varz") or {}, agents.asked("now")
    took = time.monotonic() - spell.begun
    counts = {name: (after[name] - before[name]) / took for name in ("in_bytes", "out_bytes", "in_msgs", "out_msgs")}
    print(
        f"idle, heartbeat {HEARTBEAT} s, resync {RESYNC:g} s: server {(used.cpu - spell.server) / took * 100:.1f} % of"
        f" a core, {used.mib:.0f} MiB with {after['connections']} connections; agents"
        f" {(seen.cpu - spell.agents.cpu) / took * 100:.0f} % of a core together"
    )
    print("  a second: " + ", ".join(f"{name} {value:.0f}" for name, value in counts.items()))


def main() -> None:
    """Measure and print; exit 1 where not all agents get there."""
    names = [f"node-{number}" for number in range(HERD)]
    with tempfile.TemporaryDirectory(dir=STATES) as directory:
        root = Path(directory)
        site, token = Site(root, names), generate_token(os.urandom)
        try:
            site.start()
            asyncio.run(make_streams(site))
            print(f"the server, nobody connected: {spent(site.pid).mib:.0f} MiB")
            writer = Writer(site.as_user(LEADER), token)
            herd = Herd(site.files, root / "waiting", site.url, token, PLACE, HEARTBEAT, RESYNC)
            if "waiting" in CASES:
                waiting(site, herd, names, writer)
            if "starting" in CASES:
                if not writer.epoch:
                    asyncio.run(write(writer))
                starting(site, herd._replace(states=root / "starting"), names, writer)
        finally:
            site.kill()


if __name__ == "__main__":
    main()
