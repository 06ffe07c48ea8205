"""Bringing a node's journal into the audit trail's stream, in order, each record once.

The stream itself says where to go on: its last record of this node. What was not acknowledged is looked for there
before anything else is published.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from keydist.core.audit import Link
from keydist.core.audit_chain import describe_head
from keydist.core.audit_record import parse_entry
from keydist.core.restart import Role
from keydist.errors import BrokenTrailError, BucketMissingError, ConflictError, MalformedError

if TYPE_CHECKING:
    from keydist.core.audit_record import Entry
    from keydist.ports import TrailJournal, TrailStream

_AT_ONCE: Final = 64
_TRIES: Final = 3
_ANEW: Final = "keep a copy of the audit folder in the state directory, remove it, and start the agent anew"


class Shipper:
    """Brings the records of one journal into the stream, behind the last one there."""

    def __init__(self, journal: TrailJournal, stream: TrailStream, *, node: str, role: Role) -> None:
        self._journal = journal
        self._stream = stream
        self._node = node
        self._role = role
        self._at: tuple[Link | None, int] | None = None

    async def ship(self) -> None:
        """Publish everything that the stream does not have. Raises the errors of both ports, `BrokenTrailError`.

        Where nothing new waits, that the stream still has what it took is looked at.
        """
        for tries in range(_TRIES, 0, -1):
            try:
                await self._ship()
            except ConflictError:  # stored although nobody said so, or what was read was late: look again
                if tries == 1:
                    raise
            except BucketMissingError:
                if self._role is not Role.LEADER or tries == 1:
                    raise
                await self._stream.create()
            else:
                return

    async def _ship(self) -> None:
        at, self._at = self._at, None
        if at is None or not await asyncio.to_thread(self._journal.read_after, at[0], most=1):
            at = await self._where()
        link, sequence = at
        while records := await asyncio.to_thread(self._journal.read_after, link, most=_AT_ONCE):
            taken: Link | None = None
            for record in records:
                entry = self._behind(link, record)
                link = entry.link
                if entry.place.node == self._node:  # the rest is from before a node was renamed or cloned
                    sequence = await self._stream.publish(self._node, record, after=sequence)
                    taken = link
            if taken is not None:
                await asyncio.to_thread(self._journal.note_shipped, taken)
        self._at = link, sequence

    def _behind(self, link: Link | None, record: bytes) -> Entry:
        """Return a record of the journal that is to stand behind another."""
        expected = link.seq + 1 if link is not None else 1
        try:
            entry = parse_entry(record)
        except MalformedError as exc:
            raise self._damaged(expected, exc.message) from exc
        if not entry.follows(link):
            raise self._damaged(expected, f"record {entry.seq} stands there")
        return entry

    def _damaged(self, seq: int, what: str) -> BrokenTrailError:
        return BrokenTrailError(
            f"record {seq} in this node's audit journal is damaged: {what}",
            node=self._node,
            seq=seq,
            wrong="altered",
            fix=_ANEW,
        )

    async def _where(self) -> tuple[Link | None, int]:
        """Return the last record of this journal that the stream has, and the sequence to publish behind."""
        found = await self._stream.last(self._node)
        if found is None:
            return None, 0
        try:
            link = parse_entry(found.record).link
        except MalformedError:  # somebody else wrote there: what this node noted is all that is known
            return self._journal.shipped(), found.sequence
        mine, last = self._journal.find(link.chain, link.seq), self._journal.last()
        is_ahead = last is not None and last.chain == link.chain and link.seq > last.seq
        if is_ahead or mine not in (None, found.record):
            raise BrokenTrailError(
                f"the stream holds another record {link.seq} of this node than its journal",
                node=self._node,
                seq=link.seq,
                wrong="two-histories",
                expected="" if last is None else describe_head(last),
                found=describe_head(link),
                fix=f"was the state directory restored? {_ANEW}",
            )
        if mine is not None:
            return link, found.sequence
        is_gone = last is not None and last.chain == link.chain  # taken once, and no longer kept here
        return (None if is_gone else self._journal.shipped()), found.sequence
