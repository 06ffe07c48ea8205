"""One process of a herd: agents as tasks, each with a connection, a user, a certificate and a state directory."""

from __future__ import annotations

import asyncio
import resource
import time
from collections import Counter
from collections.abc import Iterable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import ClassVar, NamedTuple

from bench.crowd import Silence, Taker, never, nobody
from keydist.adapters.clock import SystemClock
from keydist.adapters.config import TlsConfig
from keydist.adapters.disk.archive import Layout
from keydist.adapters.disk.keyset_disk import PosixKeysetDisk
from keydist.adapters.entropy import SystemEntropy
from keydist.adapters.nats.connection import LONGEST_CONNECT, Connection, Server
from keydist.adapters.nats.link import Link
from keydist.adapters.nats.records import NatsNodeRecords
from keydist.adapters.nats.store import NatsKeysetStore
from keydist.core.accept import Demands
from keydist.core.envelope import Place
from keydist.core.local import Local, Start
from keydist.core.restart import Role
from keydist.core.token import BootstrapToken
from keydist.errors import KeydistError
from keydist.services.agent import Agent, run_agent
from keydist.services.announce import Self
from keydist.services.node import Node
from keydist.services.reconcile import Genesis

MEMORY = "keydist-herd"


class Herd(NamedTuple):
    """What all agents of a herd have in common. `files` holds a folder a user, as `keydist store config` wrote it."""

    files: Path
    states: Path
    url: str
    token: BootstrapToken
    place: Place
    heartbeat: int
    resync: float


class Seen(NamedTuple):
    """What a process tells: when (monotonic) each agent had what was asked for, and what it took until then."""

    at: list[float]
    dialled: int
    failures: Counter[str]
    alarms: Counter[str]
    cpu: float


class CountedConnection(Connection):
    """A connection, as agents have it, that counts how often it was dialled and why that failed."""

    dialled: ClassVar[int] = 0
    failures: ClassVar[Counter[str]] = Counter()
    linked_at = 0.0

    async def _dial(self) -> Link:
        CountedConnection.dialled += 1
        try:
            link = await super()._dial()
        except KeydistError as exc:
            CountedConnection.failures[f"{exc.code}: {exc.found[:60]}"] += 1
            raise
        self.linked_at = time.monotonic()
        return link


class ServiceManager(Silence):
    """A service manager that nobody runs."""

    watchdog_seconds = None

    def ready(self, status: str) -> None:
        """Say nothing."""

    def status(self, text: str) -> None:
        """Say nothing."""

    def watchdog(self) -> None:
        """Say nothing."""


class Journal(Silence):
    """A journal that counts alarms."""

    def __init__(self, counted: Counter[str]) -> None:
        self._counted = counted

    def event(self, name: str, /, *, level: str = "info", **fields: object) -> None:
        """Count an alarm."""
        del level
        alarm = fields.get("alarm")
        if name == "alarm" and isinstance(alarm, KeydistError):
            self._counted[alarm.code] += 1


class Member(Taker):
    """One agent."""

    def __init__(self, name: str, herd: Herd, alarms: Counter[str]) -> None:
        super().__init__()
        files = herd.files / name
        tls = TlsConfig(*(str(files / file) for file in ("server-ca.pem", "client.pem", "client.key")))
        server = Server(urls=(herd.url,), node=name, nkey_file=str(files / "user.nk"), tls=tls)
        self.name = name
        self._herd = herd
        self._connection = CountedConnection(server, longest_connect=LONGEST_CONNECT)
        self._journal = Journal(alarms)
        self._disk = PosixKeysetDisk(
            str(herd.states / name), str(herd.states / "run"), Layout(sealed=False, gid=None, place=herd.place)
        )

    async def run(self) -> None:
        """Run the agent for ever."""
        herd = self._herd
        node = Node(
            store=NatsKeysetStore(self._connection, bucket="keydist", entry="signing-key"),
            disk=self._disk,
            clock=SystemClock(),
            demands=Demands(place=herd.place, tokens=(herd.token,)),
            role=Role.FOLLOWER,
        )
        agent = Agent(
            node=node,
            records=NatsNodeRecords(self._connection, bucket="keydist"),
            entropy=SystemEntropy(),
            journal=self._journal,
            manager=ServiceManager(),
            genesis=Genesis(ask_living=nobody, first_envelope=never),
            self_=Self(
                name=self.name,
                machine="0" * 32,
                start=Start("0" * 32, 1),
                version="bench",
                heartbeat=herd.heartbeat,
                minted=dict,
            ),
            resync=herd.resync,
            rehearse_every=0,
            listeners=(self,),
        )
        try:
            await run_agent(agent, Local(), stays=lambda: True)
        finally:
            await self._connection.close()

    @property
    def is_linked(self) -> bool:
        """Whether its connection stands."""
        return self._connection._link is not None and self._connection._link.is_usable

    @property
    def linked_at(self) -> float:
        """When (monotonic) it was made last."""
        return self._connection.linked_at


async def _work(pipe: Pipe, herd: Herd, names: Iterable[str]) -> None:
    alarms: Counter[str] = Counter()
    members = [Member(name, herd, alarms) for name in names]
    tasks = list[asyncio.Task[None]]()
    loop = asyncio.get_running_loop()
    while (asked := await loop.run_in_executor(None, pipe.recv)) is not None:
        if asked == "start":
            tasks = [loop.create_task(member.run()) for member in members]
            at = []
        elif asked == "linked":
            while not all(member.is_linked for member in members):  # noqa: ASYNC110 - a look from outside
                await asyncio.sleep(0.1)
            at = [member.linked_at for member in members]
        elif asked == "now":
            at = []
        else:
            at = list(await asyncio.gather(*(member.has(asked) for member in members)))
        used = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send(
            Seen(at, CountedConnection.dialled, CountedConnection.failures, alarms, used.ru_utime + used.ru_stime)
        )
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def be_members(pipe: Pipe, herd: Herd, names: list[str]) -> None:
    """Run agents and answer what the pipe asks ("start", an epoch, "linked", "now"), until it says None."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    herd.states.mkdir(exist_ok=True)
    asyncio.run(_work(pipe, herd, names))
