"""The keyset's entry in a JetStream bucket: reads that tell why nothing is there, writes that are compare-and-set.

Followers read by direct get, which any replica answers; writers and confirmations read from the stream leader.
Only a compare-and-set is a fence. A write whose acknowledgement is lost may have happened: the caller reads back.
"""

from __future__ import annotations

import base64
import json
from functools import partial
from typing import TYPE_CHECKING, Any

from keydist.adapters.nats import bucket as streams
from keydist.adapters.nats.answers import (
    NO_MESSAGE,
    NO_STREAM,
    NOBODY,
    NOT_FOUND,
    WRONG_LAST,
    error_code,
    is_marker,
    is_stored,
    parse_answer,
    raise_error,
    sequence,
    unexpected,
)
from keydist.adapters.nats.ensure import ensure_bucket, ensure_consumer
from keydist.adapters.nats.renamed import leader_read, stream_info
from keydist.core.entry import Absence, Absent, Stored
from keydist.errors import ConflictError, ForbiddenError, StoreTimeoutError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keydist.adapters.nats.connection import Connection


class NatsKeysetStore:
    """A `KeysetStore` on NATS JetStream."""

    def __init__(self, connection: Connection, *, bucket: str, entry: str) -> None:
        self._connection = connection
        self._bucket = bucket
        self._entry = entry
        self._stream = streams.stream_name(bucket)
        self._subject = f"$KV.{bucket}.{entry}"
        self._leader_read = leader_read(connection, self._stream)
        self._info = stream_info(connection, self._stream)

    # --- reading -------------------------------------------------------------------------------

    async def read(self, *, from_leader: bool) -> Stored | Absent:
        """Return what the entry holds; see `KeysetStore`."""
        return await (self._read_leader() if from_leader else self._read_direct())

    async def _read_direct(self) -> Stored | Absent:
        reply = await self._connection.read(f"$JS.API.DIRECT.GET.{self._stream}.{self._subject}")
        if is_stored(reply):
            return _entry(reply.data, reply.headers, sequence(reply.headers["Nats-Sequence"]))
        if reply.status in (NOT_FOUND, NOBODY):
            return await self._why_absent(is_asked=reply.status == NOT_FOUND)
        raise unexpected(reply)

    async def _read_leader(self, *, again: bool = True) -> Stored | Absent:
        reply = await self._leader_read.ask(json.dumps({"last_by_subj": self._subject}).encode())
        answer = parse_answer(reply)
        code = error_code(answer)
        if code == NO_MESSAGE:
            return await self._why_absent(again=again)
        if code == NO_STREAM:
            return Absent(why=Absence.BUCKET_MISSING)
        raise_error(answer)
        message: Any = answer.get("message")
        try:
            headers = _headers(base64.b64decode(message.get("hdrs", ""), validate=True))
            data = base64.b64decode(message.get("data", ""), validate=True)
            return _entry(data, headers, sequence(message["seq"]))
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise unexpected(reply) from exc

    async def _why_absent(self, *, is_asked: bool = True, again: bool = True) -> Stored | Absent:
        """Ask the stream why nothing is there; a user who may not ask cannot tell.

        `is_asked`: a replica answered; `again`: read once more where the entry was written since.
        """
        query = json.dumps({"subjects_filter": self._subject}).encode()
        try:
            reply = await self._info.ask(query)
        except ForbiddenError:
            return Absent(why=Absence.UNKNOWN)
        info = parse_answer(reply)
        if error_code(info) == NO_STREAM:
            return Absent(why=Absence.BUCKET_MISSING)
        raise_error(info)
        state: Any = info.get("state")
        if not isinstance(state, dict) or type(state.get("last_seq")) is not int:
            raise unexpected(reply)  # 'never written' allows a first key: it must have been said
        if not is_asked or state.get("subjects"):
            if again:
                return await self._read_leader(again=False)
            raise StoreTimeoutError("the entry comes and goes while it is read", fix="look for who else writes there")
        return Absent(why=Absence.NEVER_WRITTEN if state["last_seq"] == 0 else Absence.EMPTIED)

    async def wait_for_notice(self, seconds: float) -> None:
        """Return after `seconds`, or sooner on a change notice; see `KeysetStore`."""
        await self._connection.wait_for_notice(f"{streams.CHANGED}.{self._entry}", seconds)

    # --- writing -------------------------------------------------------------------------------

    async def write_first(self, envelope: bytes) -> int:
        """Write where the stream was never written; see `KeysetStore`.

        Subject-level zero would succeed again after a purge: the expectation is on the whole stream.
        """
        return await self._publish(envelope, {"Nats-Expected-Last-Sequence": "0"})

    async def replace(self, envelope: bytes, *, revision: int) -> int:
        """Write where the entry is at `revision`; see `KeysetStore`."""
        return await self._publish(envelope, {"Nats-Expected-Last-Subject-Sequence": str(revision)})

    async def _publish(self, envelope: bytes, expectation: dict[str, str]) -> int:
        headers = {"Nats-Expected-Stream": self._stream} | expectation
        reply = await self._connection.request(self._subject, envelope, headers=headers)
        if reply.status == NOBODY:
            raise UnreachableError(
                f"no JetStream stream takes writes to {self._subject}",
                expected=f"bucket {self._bucket}",
                fix=streams.NOBODY_TAKES,
            )
        answer = parse_answer(reply)
        if error_code(answer) in WRONG_LAST:
            raise ConflictError("somebody else wrote first", fix="nothing is lost: the store is read again")
        raise_error(answer)
        return sequence(answer.get("seq"))

    # --- the bucket ----------------------------------------------------------------------------

    async def create_bucket(self) -> None:
        """Make the keyset's bucket where it is missing; see `KeysetStore`."""
        await self.ensure_bucket(replicas=None)

    async def ensure_bucket(self, *, replicas: int | None) -> tuple[bool, list[str]]:
        """Make or check the keyset's bucket: whether it was made, and what is wrong with it."""
        return await ensure_bucket(self._connection, self._bucket, streams.keyset_stream, replicas=replicas)

    async def ensure_mirror(self, region: str, *, replicas: int | None) -> tuple[bool, list[str]]:
        """Make or check a region's mirror of the bucket: whether it was made, and what is wrong with it."""
        mirror = partial(streams.mirror_stream, region=region)
        return await ensure_bucket(self._connection, self._bucket, mirror, replicas=replicas)

    async def ensure_link(self, region: str) -> tuple[bool, list[str]]:
        """Make or check what a region's mirror reads with, at home, and have it begin anew; as `ensure_mirror`.

        It knows how far the mirror had read; one that was made anew would wait for what is written next.
        """
        config = streams.mirror_consumer(self._bucket, region=region)
        return await ensure_consumer(self._connection, self._stream, region, config)

    async def close(self) -> None:
        """Let go of the connection; see `KeysetStore`."""
        await self._connection.close()


def _entry(data: bytes, headers: Mapping[str, str], revision: int) -> Stored | Absent:
    if is_marker(headers):
        return Absent(why=Absence.DELETED, revision=revision)
    return Stored(envelope=data, revision=revision)


def _headers(raw: bytes) -> dict[str, str]:
    lines = raw.decode("utf-8", "replace").split("\r\n")[1:]
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}
