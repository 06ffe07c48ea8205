"""How soon a rotation is everywhere: 50 agents as processes, crowds of followers as tasks, and what idling costs.

Agents: from the leader's write until each node's record says that the epoch is durable and in use. Crowds: from the
write until each follower has it, by notices and by polling alone. Idle: what the server, and an agent, spend while
nothing happens. Target: one rotation acknowledged by all 50 agents within 1 s.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from bench.crowd import PLACE, crowd
from keydist.adapters.clock import SystemClock
from keydist.adapters.config import load_config
from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.entropy import SystemEntropy
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.store import NatsKeysetStore
from keydist.core.accept import Demands, Held, open_held
from keydist.core.envelope import seal
from keydist.core.fleet import holds
from keydist.core.plaintext import serialise_keyset
from keydist.core.policy import Policy
from keydist.core.restart import Role
from keydist.core.successor import rotated
from keydist.core.token import BootstrapToken, format_token, generate_token
from keydist.services.advance import advance
from keydist.services.fleet import FleetReader
from keydist.services.genesis import Beginning, first_envelope, fresh_keys
from keydist.services.node import Node
from keydist.wiring import Machine, machine, open_ports

T = TypeVar("T")
AGENTS = int(os.environ.get("BENCH_AGENTS", "50"))
ROTATIONS = int(os.environ.get("BENCH_ROTATIONS", "20"))
CROWD = int(os.environ.get("BENCH_CROWD", "2000"))
POLLED = 50
IDLE_SECONDS = float(os.environ.get("BENCH_IDLE_SECONDS", "60"))
TARGET_SECONDS = 1.0
TICKS = os.sysconf("SC_CLK_TCK")
POLICY = {
    "propagation": 2, "freshness": 1, "stale_read": 1, "jwks_max_age": 0, "mint_lease": 1, "max_lifetime": 1,
    "leeway": 0, "skew": 0, "rotate_every": 0,
}  # fmt: skip


class Spent(NamedTuple):
    """What a process has used: CPU seconds and resident MiB."""

    cpu: float
    mib: float


def spent(pid: int) -> Spent:
    """Return what a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    kib = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    return Spent(cpu=(int(fields[11]) + int(fields[12])) / TICKS, mib=kib / 1024)


def percentiles(times: list[float]) -> str:
    """Return p50, p99 and the last, in ms."""
    times = sorted(times)
    p99 = times[min(len(times) - 1, round(0.99 * len(times)))]
    return f"p50 {statistics.median(times) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, last {times[-1] * 1000:.0f} ms"


# --- agents as processes ------------------------------------------------------------------------


def configured(root: Path, name: str, role: Role, url: str, *, heartbeat: str) -> Path:
    """Write a node's configuration and return its path."""
    directory = root / name
    directory.mkdir()
    settings = {
        "cluster": PLACE.cluster,
        "node": name,
        "role": role.value,
        "token_file": str(root / "token"),
        "state_dir": str(directory / "state"),
        "runtime_dir": str(directory / "run"),
        "http": {"listen": None},
        "nats": {"servers": [url]},
        "heartbeat": heartbeat,
        "policy": {key: value for key, value in POLICY.items() if key != "rotate_every"},
        "rotation": {"every": "0"},
    }
    path = directory / "keydist.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def start(path: Path) -> subprocess.Popen[bytes]:
    """Start an agent."""
    with (path.parent / "log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-m", "keydist", "agent", "--config", str(path)], stderr=log)


async def rotate_agents(node: Machine) -> tuple[list[float], list[float]]:
    """Rotate; return the seconds until each agent had acknowledged, and until the last had, a rotation each."""
    store, records = open_ports(node.config)[:2]
    ports = Node(store=store, disk=node.disk, clock=node.clock, demands=node.demands, role=Role.LEADER)
    reader = FleetReader(records, node.clock, place=PLACE, tokens=node.tokens)
    each: list[float] = []
    last: list[float] = []
    told: dict[str, float] = {}
    current: list[Held] = []

    def heard(name: str, raw: bytes) -> None:
        reader.hear(name, raw)
        for record in reader.records():
            if record.node == name and current and holds(record, current[-1]):
                told.setdefault(name, time.monotonic())

    records.listen(heard=heard, answer=None)
    try:
        while len(reader.live()) < AGENTS:
            await reader.refresh()
            await asyncio.sleep(0.2)
        for _ in range(ROTATIONS):
            fresh = await fresh_keys("RS256", 3072, SystemEntropy())
            local = node.load()
            told.clear()
            begun = time.monotonic()
            done = await advance(
                ports,
                local,
                lambda held, now, fresh=fresh: rotated(held, now=now, alg="RS256", fresh=fresh),  # type: ignore[misc]
                entropy=SystemEntropy(),
            )
            current.append(done.held)
            for record in reader.records():
                if holds(record, done.held):
                    told.setdefault(record.node, time.monotonic())
            while len(told) < AGENTS:  # noqa: ASYNC110 - what is heard sets no event
                await asyncio.sleep(0.005)
            each += [at - begun for at in told.values()]
            last.append(max(told.values()) - begun)
            await asyncio.sleep(1.0)
            if len(done.held.keyset.keys) > 30:
                break
    finally:
        await store.close()
    return each, last


def agents(root: Path, url: str, server_pid: int) -> bool:
    """Measure agents as processes; tell whether the target was met."""
    (root / "token").write_text(format_token(generate_token(os.urandom)) + "\n", encoding="ascii")
    (root / "token").chmod(0o400)
    leader = configured(root, "leader", Role.LEADER, url, heartbeat="30s")
    paths = [configured(root, f"node-{n}", Role.FOLLOWER, url, heartbeat="30s") for n in range(AGENTS - 1)]
    processes = [start(path) for path in (leader, *paths)]
    try:
        node = machine(load_config(str(leader), environ={}, overrides={}), {})
        while node.load().held is None:
            time.sleep(0.2)
        each, last = asyncio.run(rotate_agents(node))
        worst = max(last)
        met = statistics.median(last) <= TARGET_SECONDS
        print(f"{AGENTS} agents, {len(last)} rotations, acknowledged: {percentiles(each)}")
        print(
            f"  all of them: median {statistics.median(last) * 1000:.0f} ms, worst {worst * 1000:.0f} ms"
            f" (target {TARGET_SECONDS} s, {'met' if met else 'MISSED'})"
        )
        time.sleep(5)
        before, at_server = [spent(process.pid) for process in processes], spent(server_pid)
        time.sleep(IDLE_SECONDS)
        after, then = [spent(process.pid) for process in processes], spent(server_pid)
        cpu = [(later.cpu - sooner.cpu) / IDLE_SECONDS * 100 for sooner, later in zip(before, after, strict=True)]
        mib = [later.mib for later in after]
        print(
            f"idle agent: {statistics.median(mib[1:]):.1f} MiB resident (largest {max(mib):.1f}, leader {mib[0]:.1f}), "
            f"{statistics.median(cpu[1:]):.3f} % of a core (largest {max(cpu[1:]):.3f}, leader {cpu[0]:.3f})"
        )
        print(f"  the server meanwhile: {(then.cpu - at_server.cpu) / IDLE_SECONDS * 100:.2f} % of a core")
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)
    return met


# --- crowds as tasks ----------------------------------------------------------------------------


class Writer:
    """A leader reduced to its writes."""

    def __init__(self, server: Server, token: BootstrapToken) -> None:
        self.store = NatsKeysetStore(Connection(server), bucket="keydist", entry="signing-key")
        self._token = token
        self._entropy = SystemEntropy()
        self._held: Held | None = None
        self._revision = 0

    @property
    def epoch(self) -> int:
        """The last epoch that was written; 0 before the first."""
        return 0 if self._held is None else self._held.keyset.epoch

    async def first(self) -> None:
        """Write a first key."""
        beginning = Beginning(place=PLACE, token=self._token, policy=Policy(), alg="RS256", bits=3072)
        envelope = await first_envelope(beginning, entropy=self._entropy, clock=SystemClock())
        await self.store.create_bucket()
        self._revision = await self.store.write_first(envelope)
        self._held = open_held(envelope, Demands(place=PLACE, tokens=(self._token,)))

    async def rotate(self) -> tuple[int, float]:
        """Write a rotation; return its epoch and when the write began."""
        assert self._held is not None
        fresh = await fresh_keys("RS256", 3072, self._entropy)
        keyset = rotated(self._held, now=int(time.time()), alg="RS256", fresh=fresh)
        envelope = seal(
            serialise_keyset(keyset),
            token=self._token,
            place=PLACE,
            lineage=keyset.lineage,
            epoch=keyset.epoch,
            issued=keyset.issued,
            rnd=os.urandom(32),
            iv=os.urandom(12),
        )
        begun = time.monotonic()
        self._revision = await self.store.replace(envelope, revision=self._revision)
        self._held = open_held(envelope, Demands(place=PLACE, tokens=(self._token,)))
        return keyset.epoch, begun


async def crowded(root: Path, url: str, *, count: int, resync: float, polls: bool, rotations: int) -> list[float]:
    """Return the seconds from each write until each follower of a crowd had it."""
    token, times = generate_token(os.urandom), list[float]()
    writer = Writer(Server(urls=(url,), node="leader"), token)
    await writer.first()
    async with crowd(count, root, url, token, resync=resync, polls=polls) as followers:
        await asyncio.gather(*(follower.has(1) for follower in followers))
        await asyncio.sleep(2)
        for _ in range(rotations):
            epoch, begun = await writer.rotate()
            times += [await follower.has(epoch) - begun for follower in followers]
            await asyncio.sleep(2)
    await writer.store.close()
    return times


async def idle(root: Path, url: str, server_pid: int, *, count: int) -> float:
    """Return the share of a core (in %) that a server spends on a crowd while nothing changes."""
    token = generate_token(os.urandom)
    writer = Writer(Server(urls=(url,), node="leader"), token)
    await writer.first()
    async with crowd(count, root, url, token, resync=45.0, polls=False) as followers:
        await asyncio.gather(*(follower.has(1) for follower in followers))
        await asyncio.sleep(10)
        before = spent(server_pid)
        await asyncio.sleep(IDLE_SECONDS)
        after = spent(server_pid)
    await writer.store.close()
    return (after.cpu - before.cpu) / IDLE_SECONDS * 100


def main() -> None:
    """Measure and print; exit 1 where the target is missed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8 * CROWD)), hard))
    met = with_server(agents)
    cases = (
        (POLLED, 45.0, False, 10, "told by notices"),
        (POLLED, 2.0, True, 10, "polling alone, every 2 s"),
        (POLLED, 45.0, True, 1, "polling alone, every 45 s"),
        (CROWD, 45.0, False, 3, "told by notices"),
    )
    for count, resync, polls, rotations, what in cases:
        times = with_server(
            lambda root, url, _pid, case=(count, resync, polls, rotations): asyncio.run(  # type: ignore[misc]
                crowded(root, url, count=case[0], resync=case[1], polls=case[2], rotations=case[3])
            )
        )
        print(f"{count} followers as tasks, {what}: {percentiles(times)}")
    share = with_server(lambda root, url, pid: asyncio.run(idle(root, url, pid, count=CROWD)))
    print(f"{CROWD} idle followers: the server spends {share:.2f} % of a core, {share / CROWD:.5f} % a follower")
    sys.exit(0 if met else 1)


def with_server(work: Callable[[Path, str, int], T]) -> T:
    """Run a measurement on a server of its own."""
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedServer(Path(directory) / "nats")
        server.start()
        try:
            return work(Path(directory), server.url, server.pid or 0)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
