"""A cluster in memory and virtual time in which a person gives commands: one node that is asked, and peers."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from keydist.core.accept import Accepted, Held, accept
from keydist.core.local import Local
from keydist.core.record import Minted
from keydist.core.restart import Role
from keydist.core.token import BootstrapToken
from keydist.errors import KeydistError, WrongTokenError
from keydist.services.command import Command
from keydist.services.node import Node
from tests.fakes.clock import VirtualClock
from tests.fakes.entropy import NumberedEntropy
from tests.fakes.memory_disk import MemoryKeysetDisk
from tests.fakes.memory_records import MemoryRecordBucket, MemoryRecords
from tests.fakes.memory_store import MemoryBucket, MemoryKeysetStore
from tests.material import TOKEN, chain, demands, make_record, notes_of, sealed_record

HEARTBEAT = 20
D = 900


class Cluster:
    """What everybody shares: time, the bucket of the keyset, the bucket of records."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.bucket = MemoryBucket()
        self.records = MemoryRecordBucket()

    def held(self, *tokens: BootstrapToken) -> Held:
        """Return what the store holds."""
        content = self.bucket.content()
        assert content is not None
        found = accept(content, demands(tokens=tokens or (TOKEN,)))
        assert isinstance(found, Accepted)
        return found.held


class Operator:
    """A person on a leader node that durably held the last of a history for `since` seconds."""

    def __init__(
        self,
        cluster: Cluster | None = None,
        *history: Held,
        role: Role = Role.LEADER,
        tokens: tuple[BootstrapToken, ...] = (TOKEN,),
        since: int = D,
        sealed: bool = False,
    ) -> None:
        self.cluster = cluster or Cluster()
        self.clock = self.cluster.clock
        self.store = MemoryKeysetStore(self.cluster.bucket, self.clock)
        self.records = MemoryRecords(self.cluster.records, self.clock)
        self.disk = MemoryKeysetDisk(sealed=sealed)
        self.entropy = NumberedEntropy("command")
        self.role = role
        self.tokens = tokens
        self.told: list[str] = []
        epochs = history or chain(1)
        for held in epochs:
            self.install(held)
        self.disk.folder.notes = notes_of(epochs[-1], at=self.clock.now() - since)
        if self.cluster.bucket.content() is None:
            self.cluster.bucket.put(epochs[-1].envelope)

    def install(self, held: Held) -> None:
        """Let the node hold a keyset from now on."""
        self.disk.install(held, based_on=self.disk.load(self.tokens), now=self.clock.now())

    @property
    def local(self) -> Local:
        return self.disk.load(self.tokens)

    @property
    def held(self) -> Held:
        held = self.local.held
        assert held is not None
        return held

    @property
    def command(self) -> Command:
        """The command that is given, with all its ports."""
        return Command(
            node=Node(
                store=self.store,
                disk=self.disk,
                clock=self.clock,
                demands=demands(tokens=self.tokens),
                role=self.role,
            ),
            records=self.records,
            entropy=self.entropy,
            heartbeat=HEARTBEAT,
            told=lambda what, left: self.told.append(what),
        )

    def state(self) -> object:
        """Return all that a command may change, by value."""
        folder, bucket = self.disk.folder, self.cluster.bucket
        return (
            (folder.live, folder.floor, folder.notes, folder.changes, folder.confirmations, tuple(folder.refused)),
            (bucket.exists, bucket.writes, bucket.content()),
            dict(self.cluster.records.records),
        )


class Peer:
    """Another node: it writes its record at each heartbeat, and follows the store at each, or never."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        held: Held | None = None,
        *,
        tokens: tuple[BootstrapToken, ...] = (TOKEN,),
        follows: bool = True,
        dead: bool = False,
        minted: dict[str, Minted] | None = None,
    ) -> None:
        self.cluster, self.name, self.tokens = cluster, name, tokens
        self.follows = follows
        self.held = held or cluster.held(*tokens)
        self.counter = 0
        self.refusals: list[KeydistError] = []
        self._minted = minted or {}
        self.beat()
        if not dead:
            self._later()

    def beat(self, **members: Any) -> None:  # noqa: ANN401 - those of a record
        """Follow, and say how it stands."""
        if self.follows:
            self.follow()
        self.counter += 1
        said = {"counter": self.counter, "heartbeat": HEARTBEAT, "minted": self._minted} | members
        said["tokens"] = tuple(token.token_id for token in self.tokens)
        record = make_record(self.held, node=self.name, **said)
        own = [token for token in self.tokens if token.token_id == self.held.token_id]
        self.cluster.records.put(self.name, sealed_record(record, token=next(iter((*own, *self.tokens)))))

    def follow(self) -> None:
        """Take what the store holds, as a follower does."""
        content = self.cluster.bucket.content()
        if content is None:
            return
        try:
            found = accept(content, demands(self.held, tokens=self.tokens))
        except WrongTokenError as exc:
            self.refusals.append(exc)
        else:
            if isinstance(found, Accepted):
                self.held = found.held

    def _later(self) -> None:
        def turn() -> None:
            self.beat()
            self._later()

        self.cluster.clock.at(self.cluster.clock.monotonic() + HEARTBEAT / 2, turn)


async def failure(work: Awaitable[object]) -> KeydistError:
    """Return how work fails, and check that it can be told: a fix, lower case, no secret."""
    with pytest.raises(KeydistError) as caught:
        await work
    assert caught.value.fix, caught.value.message
    assert not caught.value.message[0].isupper() or caught.value.message.startswith(("EdDSA", "ES256", "NATS"))
    return caught.value
