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
import http.client
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from bench.crowd import PLACE
from bench.herd_member import Herd, Seen, be_members
from bench.propagation import Writer, percentiles, spent
from keydist.adapters.clock import SystemClock
from keydist.adapters.config import TlsConfig
from keydist.adapters.embedded import find_server
from keydist.adapters.nats import bucket as streams
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.ensure import ensure_bucket
from keydist.adapters.store_files import Layout, Named, dev_files, seeds_of, wanted_files
from keydist.adapters.store_files import Server as Placed
from keydist.core.token import generate_token

HERD = int(os.environ.get("BENCH_HERD", "5000"))
PROCESSES = int(os.environ.get("BENCH_HERD_PROCESSES", "4"))
STATES = os.environ.get("BENCH_HERD_STATES", "/dev/shm")
IDLE_SECONDS = float(os.environ.get("BENCH_HERD_IDLE_SECONDS", "60"))
HEARTBEAT = 30
RESYNC = 45.0
CASES = os.environ.get("BENCH_HERD_CASES", "waiting starting").split()
PATIENCE_SECONDS = 400.0
HOST = "127.0.0.1"
LEADER = "leader"


class Site:
    """The server's files and the server; everything a user needs is in a folder of its name."""

    def __init__(self, root: Path, names: list[str]) -> None:
        self.files = root / "files"
        self._process: subprocess.Popen[bytes] | None = None
        self.port, self.monitor = free_port(), free_port()
        layout = Layout(
            cluster=PLACE.cluster,
            bucket="keydist",
            entry="signing-key",
            servers=(Placed("server", HOST, self.port),),
            operator=Named("operator", None),
            leaders=(Named(LEADER, None),),
            followers=tuple(Named(name, None) for name in names),
            listen=f"{HOST}:{self.port}",
            routes=f"{HOST}:{free_port()}",
            monitor=f"{HOST}:{self.monitor}",
            files_dir=str(self.files / "{name}"),
            store_dir=str(root / "store"),
            client_certificates=True,
        )
        seeds = seeds_of(layout, lambda _path, _secret: None, os.urandom)
        wanted = wanted_files(layout, seeds) + dev_files(layout, lambda _path, _secret: None, SystemClock().now())
        for one in wanted:
            path = self.files / one.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(one.data)
            path.chmod(0o600)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"tls://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The running server."""
        assert self._process is not None
        pid: int = self._process.pid
        return pid

    def start(self) -> None:
        """Start the server and return when it takes connections."""
        command = [find_server(), "-c", str(self.files / "server" / "nats-server.conf")]
        with (self.files / "server" / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while self.asked("healthz") is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                sys.exit((self.files / "server" / "log").read_text("utf-8", "replace")[-2000:])
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server as a crash does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def asked(self, path: str) -> dict[str, Any] | None:
        """Return what the server tells about itself; None where it does not answer."""
        connection = http.client.HTTPConnection(HOST, self.monitor, timeout=10)
        try:
            connection.request("GET", f"/{path}")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        return found

    def as_user(self, name: str) -> Server:
        """Return where and as whom a user connects."""
        place = self.files / name
        tls = TlsConfig(*(str(place / file) for file in ("server-ca.pem", "client.pem", "client.key")))
        return Server(urls=(self.url,), node=name, nkey_file=str(place / "user.nk"), tls=tls)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


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
