"""Telling the fleet how this node stands: its sealed record, at each change and each heartbeat, and when it leaves."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from keydist.core.crypto import IV_BYTES
from keydist.core.envelope import RND_BYTES
from keydist.core.keyset import State
from keydist.core.record import MAX_ALARMS, MAX_TOKENS, Record, seal_record, seal_sign
from keydist.core.restart import OnDisk, Role
from keydist.core.token import ID_BYTES, SECRET_BYTES, BootstrapToken
from keydist.errors import BucketMissingError
from keydist.services.defect import defect
from keydist.services.observe import on_disk
from keydist.services.pace import Backoff, jittered, woken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from keydist.core.accept import Held
    from keydist.core.local import Start
    from keydist.core.record import Minted
    from keydist.ports import Entropy, NodeRecords
    from keydist.services.node import Node
    from keydist.services.present import Present

_SPREAD: Final = 0.1
_FIRST_PAUSE: Final = 0.2
_LEAVE_SECONDS: Final = 1.0
_STARTS_AT: Final = 1 << 20
"""How far the counters of two starts are apart: a start has fewer records than this for each of its seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Self:
    """Who this node is to the fleet; `heartbeat` in seconds, `minted` tells what was signed on this node."""

    name: str
    machine: str
    start: Start
    version: str
    heartbeat: int
    minted: Callable[[], Mapping[str, Minted]]


class Announcer:
    """Makes this node's records. Their counter rises with each, and over restarts."""

    def __init__(self, node: Node, present: Present, self_: Self, *, entropy: Entropy) -> None:
        self._node = node
        self._present = present
        self._self = self_
        self._entropy = entropy
        self._counter = self_.start.number * _STARTS_AT

    def answer(self) -> bytes | None:
        """Return a record for who asks `keydist.who`; None without a sign of a keyset, and where none can be made.

        Without a token it is sealed under one that nobody has, and so is what stands for a keyset that cannot be used:
        that forbids a first key as any answer does.
        """
        with suppress(Exception):  # it is told where the record is written: who asks can do nothing about it
            held = self._present.held
            if held is not None:
                return self._sealed(held, self._token() or self._nobodys(), leaving=False)
            if on_disk(self._present.local) is OnDisk.DAMAGED:
                return self._sign()
        return None

    def record(self, *, leaving: bool = False) -> bytes | None:
        """Return a sealed record of this moment; None without a keyset, or without a token to seal it."""
        held, token = self._present.held, self._token()
        return None if held is None or token is None else self._sealed(held, token, leaving=leaving)

    def _sealed(self, held: Held, token: BootstrapToken, *, leaving: bool) -> bytes:
        self._counter += 1
        return seal_record(
            self._record(held, leaving=leaving),
            token=token,
            place=self._node.demands.place,
            now=self._node.clock.now(),
            rnd=self._entropy.random(RND_BYTES),
            iv=self._entropy.random(IV_BYTES),
        )

    def _sign(self) -> bytes:
        return seal_sign(
            self._self.name,
            floor=self._present.local.floor,
            token=self._nobodys(),
            place=self._node.demands.place,
            now=self._node.clock.now(),
            rnd=self._entropy.random(RND_BYTES),
            iv=self._entropy.random(IV_BYTES),
        )

    def _nobodys(self) -> BootstrapToken:
        return BootstrapToken(token_id=self._entropy.random(ID_BYTES).hex(), secret=self._entropy.random(SECRET_BYTES))

    def _token(self) -> BootstrapToken | None:
        held, tokens = self._present.held, self._node.demands.tokens
        current = [token for token in tokens if held is not None and token.token_id == held.token_id]
        return next(iter((*current, *tokens)), None)

    def _record(self, held: Held, *, leaving: bool) -> Record:
        keyset, present, own = held.keyset, self._present, self._self
        listed = {key.kid for key in keyset.keys}
        return Record(
            node=own.name,
            instance=own.start.instance,
            machine=own.machine,
            role=self._node.role,
            counter=self._counter,
            heartbeat=own.heartbeat,
            lineage=keyset.lineage,
            epoch=keyset.epoch,
            digest=held.digest,
            kid=keyset.active.kid,
            token=held.token_id,
            tokens=tuple(token.token_id for token in self._node.demands.tokens[:MAX_TOKENS]),
            persisted=present.notes().since(keyset.active.kid, State.ACTIVE, now=present.loaded),
            loaded=present.loaded,
            minted={kid: minted for kid, minted in own.minted().items() if kid in listed},
            version=own.version,
            alarms=tuple(dict.fromkeys(alarm.code for alarm in present.alarms))[:MAX_ALARMS],
            leaving=leaving,
        )


async def announce(
    announcer: Announcer, node: Node, records: NodeRecords, present: Present, self_: Self, *, entropy: Entropy
) -> NoReturn:
    """Write this node's record at each change and each heartbeat, for ever. What fails is an alarm."""
    changed = present.change()
    failing = Backoff(entropy, first=_FIRST_PAUSE, most=max(_FIRST_PAUSE, self_.heartbeat / 2))
    while True:
        changed.clear()
        seconds = jittered(entropy, self_.heartbeat, spread=_SPREAD)
        try:
            record = announcer.record()
            if record is not None:
                await _publish(records, self_.name, record, role=node.role)
        except Exception as exc:  # noqa: BLE001 - a defect, whoever provokes it, does not stop a node
            present.alarm("records", defect(exc, while_="this node's record was written"))
            changed.clear()  # this very alarm
            seconds = min(seconds, failing.pause())
        else:
            present.alarm("records")
            failing.reset()
        await woken(changed, within=seconds)


async def _publish(records: NodeRecords, name: str, record: bytes, *, role: Role) -> None:
    try:
        await records.publish(name, record)
    except BucketMissingError:
        if role is not Role.LEADER:
            raise
        await records.create_bucket()
        await records.publish(name, record)


async def leave(announcer: Announcer, records: NodeRecords, name: str) -> None:
    """Say that this node stops, if that can be said within a second."""
    with suppress(Exception):  # whatever happens here, this node stops
        record = announcer.record(leaving=True)
        if record is not None:
            async with asyncio.timeout(_LEAVE_SECONDS):
                await records.publish(name, record)
