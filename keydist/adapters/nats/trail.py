"""The audit trail of all nodes as a JetStream stream, one subject a node. What is read is not trusted.

A node publishes behind the last record of its own subject, so that what is sent again after a lost acknowledgement is
never stored twice. Reading is by direct gets, one message each: no consumers.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from keydist.adapters.nats.answers import (
    NOBODY,
    NOT_FOUND,
    WRONG_LAST,
    error_code,
    is_stored,
    parse_answer,
    raise_error,
    sequence,
    unexpected,
)
from keydist.adapters.nats.bucket import NOBODY_TAKES, trail_stream, trail_stream_name, trail_subject
from keydist.adapters.nats.ensure import ensure_stream
from keydist.core.entry import Shipped
from keydist.errors import BucketMissingError, ConflictError, UsageError

if TYPE_CHECKING:
    from keydist.adapters.nats.connection import Connection
    from keydist.adapters.nats.wire import Reply

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class NatsTrailStream:
    """A `TrailStream` on NATS JetStream; `bucket` is the keyset's, the stream is named after it."""

    def __init__(self, connection: Connection, *, bucket: str) -> None:
        self._connection = connection
        self._bucket = bucket
        self._stream = trail_stream_name(bucket)

    async def last(self, node: str) -> Shipped | None:
        """Return the last record of a node; see `TrailStream`."""
        return self._stored(await self._connection.read(f"$JS.API.DIRECT.GET.{self._stream}.{self._subject(node)}"))

    async def read(self, *, after: int, node: str | None) -> Shipped | None:
        """Return the next record behind a sequence; see `TrailStream`."""
        subject = self._subject(node) if node is not None else trail_subject(self._bucket, "*")
        query = json.dumps({"seq": after + 1, "next_by_subj": subject}).encode()
        reply = await self._connection.read(f"$JS.API.DIRECT.GET.{self._stream}", query)
        found = self._stored(reply)
        if found is not None and found.sequence <= after:  # or who reads on would do so for ever
            raise unexpected(reply)
        return found

    def _stored(self, reply: Reply) -> Shipped | None:
        if is_stored(reply):
            node = reply.headers.get("Nats-Subject", "").rpartition(".")[2]
            return Shipped(node=node, record=reply.data, sequence=sequence(reply.headers["Nats-Sequence"]))
        if reply.status == NOT_FOUND:
            return None
        if reply.status == NOBODY:
            raise self._missing(f"nobody answers direct gets of stream {self._stream}")
        raise unexpected(reply)

    async def publish(self, node: str, record: bytes, *, after: int) -> int:
        """Store a node's next record; see `TrailStream`."""
        subject = self._subject(node)
        headers = {"Nats-Expected-Stream": self._stream, "Nats-Expected-Last-Subject-Sequence": str(after)}
        reply = await self._connection.request(subject, record, headers=headers)
        if reply.status == NOBODY:
            raise self._missing(f"no JetStream stream takes writes to {subject}")
        answer: dict[str, Any] = parse_answer(reply)
        if error_code(answer) in WRONG_LAST:
            raise ConflictError(
                f"the last record on {subject} is another than was expected", fix="nothing is lost: it is read again"
            )
        raise_error(answer)
        return sequence(answer.get("seq"))

    async def create(self) -> None:
        """Make the stream where it is missing; see `TrailStream`."""
        await self.ensure(replicas=None)

    async def ensure(self, *, replicas: int | None) -> tuple[bool, list[str]]:
        """Make or check the stream: whether it was made, and what is wrong with it."""
        return await ensure_stream(
            self._connection, self._stream, lambda count: trail_stream(self._bucket, replicas=count), replicas=replicas
        )

    def _subject(self, node: str) -> str:
        if not _NAME.fullmatch(node):  # a wildcard would be everybody's
            raise UsageError(
                "that is not the name of a node",
                expected="1 to 64 letters, digits, - and _",
                found=repr(node)[:80],
                fix="name one node",
            )
        return trail_subject(self._bucket, node)

    def _missing(self, message: str) -> BucketMissingError:
        return BucketMissingError(
            message,
            expected=f"stream {self._stream}",
            fix=NOBODY_TAKES,
        )
