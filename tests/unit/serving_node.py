"""What one agent serves, on real sockets in a thread of its own: its disk is in memory, its clock stands still."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from keydist.adapters.clock import SystemClock
from keydist.adapters.config_serve import Rule
from keydist.adapters.http.guard import Limits
from keydist.adapters.http.listener import TcpAddress, UnixAddress
from keydist.core.accept import Held
from keydist.core.audit import Mint
from keydist.core.local import Confirmation
from keydist.core.report import Report
from keydist.ports import Mints, MintTrail
from keydist.services.insight import Insight
from keydist.services.present import Present
from keydist.serving.local import Local
from keydist.serving.policy import MintPolicy
from keydist.serving.public import Public
from keydist.serving.published import Published
from keydist.serving.servers import Served, Servers
from keydist.serving.signer import PeerSigner
from keydist.signing import Verifier
from tests.fakes.clock import VirtualClock
from tests.fakes.entropy import NumberedEntropy
from tests.fakes.journal import RecordingJournal
from tests.fakes.memory_disk import MemoryKeysetDisk
from tests.material import NOW, TOKEN, demands, first
from tests.reports import LEADER
from tests.unit.agent_host import eventually

ISSUER = "https://issuer.example/keys/"


class Answered(NamedTuple):
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.body)
        return told

    @property
    def error(self) -> tuple[int, str]:
        return self.status, self.json["error"]["code"]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, as any client would speak it."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self._path)


class Minted(Mints):
    """Counts in memory."""

    def __init__(self) -> None:
        self.expiries: list[int] = []
        self.is_closed = False

    def minted(self, kid: str, expires: int) -> None:
        self.expiries.append(expires)

    def close(self) -> None:
        self.is_closed = True


class Trail(MintTrail):
    """Keeps in memory what is told to the audit trail."""

    def __init__(self) -> None:
        self.mints: list[Mint] = []

    def minted(self, mint: Mint) -> None:
        self.mints.append(mint)

    def close(self) -> None:
        """Nothing is open."""


class ServingNode:
    """Use it as a context manager."""

    def __init__(
        self,
        directory: Path,
        held: Held | None = None,
        *,
        rules: tuple[Rule, ...] = (),
        own_uid: int | None = None,
        issuer: str | None = ISSUER,
        limits: Limits | None = None,
        report: Report | None = LEADER,
        certificate: tuple[str, str] | None = None,
        metrics_apart: bool = False,
        is_empty: bool = False,
    ) -> None:
        self.path = str(directory / "agent.sock")
        self.disk = MemoryKeysetDisk()
        self.clock = VirtualClock(NOW)
        self.journal = RecordingJournal()
        self.minted = Minted()
        self.disbelieved = Counter[str]()
        self.insight = Insight()
        self.looked: Callable[[], object] = lambda: None
        """What a look at the store does."""
        self.looks = 0
        if not is_empty:
            self.install(held or first())
        tokens, wanted = (TOKEN,), demands()
        self.trail = Trail()
        signer = PeerSigner(
            self.disk, self.clock, tokens, issuer=issuer, mints=self.minted, trail=self.trail, demands=wanted
        )
        self.local = Local(
            signer=signer,
            verifier=Verifier(self.disk, self.clock, tokens, demands=wanted),
            policy=MintPolicy(rules, own_uid=os.geteuid() if own_uid is None else own_uid, issuer=issuer),
            insight=self.insight,
            status=lambda: {"node": "n"},
            disbelieved=self.disbelieved,
            clock=SystemClock(),
        )
        published = Published(self.disk, self.clock, tokens, wanted, entropy=NumberedEntropy("http"), issuer=issuer)
        self.public = Public(published=published, keys=self.disk, report=lambda: report)
        log, tcp = self.journal, TcpAddress("127.0.0.1", 0, *(certificate or ()))
        served = [
            Served("socket", UnixAddress(self.path, 0o666), self.local.app(log)),
            Served("http", tcp, self.public.app(log, with_metrics=not metrics_apart)),
        ]
        if metrics_apart:
            served.append(Served("metrics", tcp, self.public.metrics_app(log)))
        self._served = len(served)
        self.servers = Servers(tuple(served), clock=SystemClock(), log=log, limits=limits)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def install(self, held: Held, *, confirmed: int | None = NOW) -> None:
        """Make a keyset live, as the agent does."""
        self.disk.install(held, based_on=self.disk.load((TOKEN,)), now=NOW)
        if confirmed is not None:
            self.disk.confirm(Confirmation(epoch=held.keyset.epoch, digest=held.digest, at=confirmed))

    # --- its thread ----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        eventually(lambda: len(self.journal.named("serving")) == self._served)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _run(self) -> None:
        self._task = self._loop.create_task(self._work())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.run_until_complete(asyncio.sleep(0))  # noqa: TID251 - what was dropped is let go
        self._loop.close()

    async def _work(self) -> None:
        present = Present(clock=self.clock, disk=self.disk, journal=self.journal)

        async def look() -> None:
            self.looks += 1
            self.looked()
            present.take(self.disk.load((TOKEN,)), found=None, how="from-disk")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.insight.run(present, look, SystemClock()))
            tasks.create_task(self.servers.run())

    # --- clients -------------------------------------------------------------------------------

    def port(self, what: str = "http") -> int:
        """Return where something is served."""
        [event] = [event for event in self.journal.named("serving") if event["what"] == what]
        return int(str(event["at"]).rpartition(":")[2])

    def get(self, path: str, *, method: str = "GET", at: str = "http", **headers: str) -> Answered:
        """Ask by HTTP."""
        return ask(http.client.HTTPConnection("127.0.0.1", self.port(at), timeout=10), method, path, None, headers)

    def post(self, path: str, asked: object, *, method: str = "POST") -> Answered:
        """Ask at the socket; bytes go as they are."""
        body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        return ask(UnixConnection(self.path), method, path, body, {})

    def mint(self, **changes: object) -> Answered:
        """Ask for a JWT."""
        asked: dict[str, object] = {"subject": "someone", "audience": "api", "claims": {"role": "reader"}}
        return self.post("/v1/mint", asked | changes)

    def verify(self, jwt: str, **changes: object) -> Answered:
        """Ask whether a JWT is valid."""
        asked: dict[str, object] = {"jwt": jwt, "audience": "api", "issuer": ISSUER}
        return self.post("/v1/verify", asked | changes)

    def raw(self, what: str = "socket") -> socket.socket:
        """Connect, and say nothing yet."""
        if what == "socket":
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(self.path)
        else:
            connection = socket.create_connection(("127.0.0.1", self.port(what)))
        connection.settimeout(10)
        return connection


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
) -> Answered:
    """Ask once over a connection of its own."""
    try:
        connection.request(method, path, body, dict(headers))
        found = connection.getresponse()
        named = {name.lower(): value for name, value in found.getheaders()}
        return Answered(found.status, named, found.read())
    finally:
        connection.close()


def heard(connection: socket.socket) -> bytes:
    """Return everything until the other side ends."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def one_answer(connection: socket.socket) -> bytes:
    """Return one whole answer, and leave the connection open."""
    found = http.client.HTTPResponse(connection)
    found.begin()
    return b"%d %s" % (found.status, found.read())
