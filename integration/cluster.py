"""A JetStream cluster of real nats-servers on loopback, with the recommended accounts, to be killed and wiped.

    with Cluster(tmp_path, leaders=["lead-1", "lead-2"], followers=["a", "b"]) as cluster:
        asyncio.run(cluster.make_buckets())
        cluster.node("lead-1").run()
        cluster.kill(cluster.stream_leader("keydist"))

Servers are numbered from 0. They keep their ports and what they stored over `kill` and `start_server`, and die with
the process. Calls that wait (`start`, `start_server`, `stop`, `wait_…`) block: in a coroutine that must go on
meanwhile, `await asyncio.to_thread(cluster.start_server, 1)`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import nats.errors
from nats.aio.client import Client

from integration import monitor
from integration.accounts import OPERATOR, Ports, write_users
from integration.nodes import Node
from integration.opened import Opened
from integration.server_process import ReservedPort, ServerProcess
from integration.user import User, connect
from keydist.adapters.nats.accounts import KEYS, accounts
from keydist.adapters.nats.bucket import keyset_stream, records_stream, stream_name, trail_stream
from keydist.adapters.nats.connection import REQUEST_SECONDS, Connection, Server
from keydist.adapters.nats.permissions import subjects
from keydist.adapters.nats.server_config import ServerPlace, server_configuration
from keydist.adapters.nats.store import NatsKeysetStore

_PATIENCE_SECONDS: Final = 30.0
_ASK_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.05


class Cluster(Opened):
    """So many servers with one operator (`op`), leaders and followers; `directory` holds all that they keep.

    `sync_interval` is nats-server's: "always" syncs every write, None leaves it to the server (two minutes).
    """

    def __init__(
        self,
        directory: Path,
        *,
        leaders: Iterable[str] = ("lead-1",),
        followers: Iterable[str] = (),
        servers: int = 3,
        bucket: str = "keydist",
        entry: str = "signing-key",
        sync_interval: str | None = None,
    ) -> None:
        self.directory = directory
        self.bucket = bucket
        self.entry = entry
        self.leaders = tuple(leaders)
        self.followers = tuple(followers)
        self._sync_interval = sync_interval
        self._count = servers
        self._reserved: list[ReservedPort] = []
        self._ports: list[Ports] = []
        self._servers = [ServerProcess(self._of(number) / "nats.conf") for number in range(servers)]

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all servers at once and return when JetStream can be used; once more after `stop` is fine."""
        if not self._ports:
            self._configure()
        for server, ports in zip(self._servers, self._ports, strict=True):
            server.start()
            if server.binary is not None:  # 2.10 loses a route between two that start at the same moment, for good
                self._until(lambda ports=ports: monitor.is_up(ports.monitor), "a server to be up")  # type: ignore[misc]
        self.wait_ready()

    def stop(self) -> None:
        """End all servers and keep what they stored."""
        for server in self._servers:
            server.signal(signal.SIGTERM)
        for server in self._servers:
            server.wait()

    def close(self) -> None:
        """Kill all servers and let go of their ports: the end."""
        for number in range(self._count):
            self.kill(number)
        for port in self._reserved:
            port.release()
        self._reserved, self._ports = [], []

    def _configure(self) -> None:
        self._reserved = [ReservedPort() for _ in range(3 * self._count)]
        numbers = iter([port.number for port in self._reserved])
        self._ports = [Ports(*three) for three in zip(numbers, numbers, numbers, strict=True)]
        users = write_users(self.directory / "users", leaders=self.leaders, followers=self.followers)
        made = accounts(users, subjects(self.bucket, self.entry))
        for number, ports in enumerate(self._ports):
            directory = self._of(number)
            directory.mkdir(parents=True, exist_ok=True)
            place = ServerPlace(
                name=self._name(number),
                store_dir=str(self.store_dir(number)),
                listen=f"127.0.0.1:{ports.client}",
                route_listen=f"127.0.0.1:{ports.route}",
                monitor=f"127.0.0.1:{ports.monitor}",
                routes=tuple(f"127.0.0.1:{peer.route}" for peer in self._ports if peer != ports),
                log_file=str(self.log_file(number)),
            )
            text = server_configuration(place, made, cluster="keydist", tls=None, sync_interval=self._sync_interval)
            (directory / "nats.conf").write_text(text, encoding="utf-8")

    def _of(self, number: int) -> Path:
        return self.directory / self._name(number)

    @staticmethod
    def _name(number: int) -> str:
        return f"server-{number}"

    # --- one server ----------------------------------------------------------------------------

    def kill(self, number: int) -> None:
        """Kill a server with SIGKILL and return when it is gone. One that is down stays so."""
        self._servers[number].signal(signal.SIGKILL)
        self._servers[number].wait()

    def use(self, number: int, binary: str | None) -> None:
        """Let the next start of a server run another nats-server; None: the installed one."""
        self._servers[number].binary = binary

    def stop_server(self, number: int) -> None:
        """End a server as a service manager does, and return when it is gone."""
        self._servers[number].signal(signal.SIGTERM)
        self._servers[number].wait()

    def start_server(self, number: int) -> None:
        """Start one server again and return when it takes clients and its JetStream runs (leader or none)."""
        self._servers[number].start()
        self._until(lambda: monitor.is_up(self._ports[number].monitor), f"server {number} to be up")

    def wipe(self, number: int) -> None:
        """Kill a server and remove all that it stored, as a lost disk does. It stays down."""
        self.kill(number)
        shutil.rmtree(self.store_dir(number), ignore_errors=True)

    def wipe_all(self) -> None:
        """Kill all servers, remove all that they stored, and start them: a cluster without buckets."""
        for number in range(self._count):
            self.kill(number)
        for number in range(self._count):
            self.wipe(number)
        self.start()

    # --- waiting -------------------------------------------------------------------------------

    def wait_ready(self) -> None:
        """Return when the running servers are up, with one JetStream leader that sees all of them."""
        self._until(self._is_ready, "a JetStream leader that sees every running server")

    def wait_healthy(self, number: int, *, seconds: float = _PATIENCE_SECONDS) -> None:
        """Return when a server has caught up with JetStream's leader and with every stream that it keeps a copy of."""
        port = self._ports[number].monitor
        self._until(lambda: monitor.is_healthy(port), f"server {number} to be healthy", seconds)

    def wait_stream_leader(self, bucket: str | None = None, *, other_than: int | None = None) -> int:
        """Return the number of the bucket's stream leader as soon as there is one, `other_than` that one."""
        found: list[int] = []

        def look() -> bool:
            leader = self.stream_leader(bucket)
            if leader is None or leader == other_than:
                return False
            found.append(leader)
            return True

        self._until(look, "a stream leader")
        return found[0]

    def _until(self, holds: Callable[[], bool], what: str, seconds: float = _PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            ended = [number for number, server in enumerate(self._servers) if server.has_ended()]
            if ended or time.monotonic() > deadline:
                why = f"servers {ended} ended" if ended else f"not within {seconds:g} s"
                raise AssertionError(f"waiting for {what}: {why}; see {self.directory}/server-*/nats.log and nats.err")
            time.sleep(_LOOK_SECONDS)

    def _is_ready(self) -> bool:
        running = {self._name(number): self._ports[number].monitor for number in self._running()}
        if not all(monitor.is_up(port) for port in running.values()):
            return False
        if self._count == 1:
            return True
        views = {name: monitor.meta_group(port) for name, port in running.items()}
        leader = next((name for name in views if all(view.get("leader") == name for view in views.values())), None)
        if leader is None:
            return False
        peers = views[leader].get("replicas") or []
        seen = {peer["name"] for peer in peers if peer.get("current") and not peer.get("offline")}
        return set(running) <= {leader, *seen}

    def _running(self) -> list[int]:
        return [number for number, pid in enumerate(self.server_pids) if pid is not None]

    # --- who connects --------------------------------------------------------------------------

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients connect: every server, running or not."""
        return tuple(f"nats://127.0.0.1:{ports.client}" for ports in self._ports)

    def nkey_file(self, name: str) -> str:
        """Return the path of a user's seed (mode 0600)."""
        return str(self.directory / "users" / f"{name}.nk")

    def server(self, name: str, *, at: int | None = None) -> Server:
        """Return as whom and where (one server, or all) keydist's own `Connection` connects."""
        urls = self.urls if at is None else (self.urls[at],)
        return Server(urls=urls, node=name, nkey_file=self.nkey_file(name))

    def node(self, name: str, *, directory: Path | None = None, role: str | None = None) -> Node:
        """Return a keydist node with this user's credentials; the last part of `directory` must be `name`."""
        return Node(
            directory=directory or self.directory / "nodes" / name,
            url=self.urls[0],
            bucket=self.bucket,
            role=role or ("leader" if name in self.leaders else "follower"),
            nats={"servers": list(self.urls), "nkey_file": self.nkey_file(name)},
        )

    @asynccontextmanager
    async def store(
        self, name: str, *, at: int | None = None, request_seconds: float = REQUEST_SECONDS
    ) -> AsyncIterator[NatsKeysetStore]:
        """Open the keyset's entry as one user, with keydist's own adapter."""
        connection = Connection(self.server(name, at=at), connect_seconds=10, request_seconds=request_seconds)
        store = NatsKeysetStore(connection, bucket=self.bucket, entry=self.entry)
        try:
            yield store
        finally:
            await store.close()

    def client(self, name: str, *, at: int | None = None, **options: Any) -> AbstractAsyncContextManager[User]:  # noqa: ANN401 - those of nats-py
        """Connect as one user with nats-py; `client.denied` fills with what the server says is forbidden."""
        return connect(self.server(name, at=at), **options)

    def operator(self) -> AbstractAsyncContextManager[User]:
        """Connect as the operator, who makes the streams and reads them."""
        return self.client(OPERATOR)

    async def make_buckets(self, *, replicas: int | None = None) -> None:
        """Make buckets and audit trail, as `keydist store init` does, and wait for the leaders of the buckets.

        Without `replicas` there are as many as servers, up to three. Buckets that are there with this configuration
        stay as they are.
        """
        copies = replicas or min(3, self._count)
        wanted = (
            keyset_stream(self.bucket, replicas=copies),
            records_stream(f"{self.bucket}-nodes", replicas=copies),
            trail_stream(self.bucket, replicas=copies),
        )
        async with self.operator() as operator:
            for stream in wanted:
                await self._make_stream(operator, stream)
        for bucket in (self.bucket, f"{self.bucket}-nodes"):
            await asyncio.to_thread(self.wait_stream_leader, bucket)

    async def _make_stream(self, operator: Client, stream: dict[str, Any]) -> None:
        """Make one stream; a cluster that elects its leader at that moment answers nobody, so it is asked again."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            with suppress(nats.errors.TimeoutError):
                reply = await operator.request(
                    f"$JS.API.STREAM.CREATE.{stream['name']}", json.dumps(stream).encode(), timeout=_ASK_SECONDS
                )
                assert "error" not in json.loads(reply.data), reply.data
                return
            assert time.monotonic() < deadline, f"no answer to the making of {stream['name']}"

    # --- looking -------------------------------------------------------------------------------

    @property
    def server_pids(self) -> tuple[int | None, ...]:
        """The process ids; None for a server that was killed or stopped."""
        return tuple(server.pid for server in self._servers)

    def store_dir(self, number: int) -> Path:
        """Return where a server stores."""
        return self._of(number) / "store"

    def log_file(self, number: int) -> Path:
        """Return where a server logs."""
        return self._of(number) / "nats.log"

    def monitor(self, number: int, path: str) -> dict[str, Any]:
        """Return what a running server answers over HTTP: `monitor(0, "connz")`."""
        answer = monitor.ask(self._ports[number].monitor, path)
        assert answer is not None, f"server {number} does not answer"
        return answer

    def stream_leader(self, bucket: str | None = None) -> int | None:
        """Return the server that leads a bucket's stream (the keyset's, unless named); None while there is none."""
        name = stream_name(bucket or self.bucket)
        return next((number for number, stream in self._led_streams() if stream["name"] == name), None)

    def consumers(self) -> int:
        """Return how many consumers all streams have together; a fleet of followers must need none."""
        return sum(stream["state"]["consumer_count"] for _, stream in self._led_streams())

    def connections(self, number: int) -> int:
        """Return how many clients a server has."""
        return int(self.monitor(number, "varz")["connections"])

    def cpu_seconds(self, number: int) -> float:
        """Return the processor time that a running server has used since it started."""
        return self._servers[number].cpu_seconds()

    def _led_streams(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in self._running():
            for stream in monitor.streams(self._ports[number].monitor, KEYS):
                leader = stream["cluster"].get("leader") if "cluster" in stream else self._name(number)
                if leader == self._name(number):
                    yield number, stream
