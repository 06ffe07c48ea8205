"""The bucket of node records, one entry a node, and the question to the living. What is read is sealed, not trusted."""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from keydist.adapters.nats import bucket as streams
from keydist.adapters.nats.answers import (
    NO_STREAM,
    NOBODY,
    NOT_FOUND,
    error_code,
    is_marker,
    is_stored,
    parse_answer,
    raise_error,
    sequence,
    unexpected,
)
from keydist.adapters.nats.ensure import ensure_bucket
from keydist.adapters.nats.renamed import stream_info
from keydist.errors import (
    BucketMissingError,
    ForbiddenError,
    StoreTimeoutError,
    TransientError,
    UnreachableError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keydist.adapters.nats.connection import Connection
    from keydist.adapters.nats.wire import Heard, Reply

MAX_RECORD: Final = 8 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_MOST_NAMES: Final = 10_000
_MOST_INFO_BYTES: Final = 2 * 1024 * 1024
_MOST_INFO_MEMBERS: Final = 100_000  # names may hold braces
_MOST_AT_ONCE: Final = 64
_ALL_SECONDS: Final = 30.0
_MOST_ANSWERS: Final = 1000
_MOST_ANSWER_BYTES: Final = 64 * 1024
_FRESH_SECONDS: Final = 0.1
_MOST_A_SECOND: Final = 100


class NatsNodeRecords:
    """A `NodeRecords` on NATS JetStream; `bucket` is the keyset's, the records' is named after it."""

    def __init__(self, connection: Connection, *, bucket: str) -> None:
        self._connection = connection
        self._bucket = f"{bucket}-nodes"
        self._stream = streams.stream_name(self._bucket)
        self._info = stream_info(connection, self._stream)

    # --- the bucket ----------------------------------------------------------------------------

    async def publish(self, name: str, record: bytes) -> None:
        """Write a node's record over its last one; see `NodeRecords`."""
        subject = self._subject(name)
        reply = await self._connection.request(subject, record, headers={"Nats-Expected-Stream": self._stream})
        if reply.status == NOBODY:
            raise BucketMissingError(
                f"no JetStream stream takes writes to {subject}",
                expected=f"bucket {self._bucket}",
                fix=streams.NOBODY_TAKES,
            )
        answer = parse_answer(reply)
        raise_error(answer)
        sequence(answer.get("seq"))

    async def read_all(self) -> dict[str, bytes]:
        """Return every record by the node's name; see `NodeRecords`.

        Raises `TransientError` where more names are there than any cluster has nodes.
        """
        try:
            async with asyncio.timeout(_ALL_SECONDS):
                names = await self._names()
                found: dict[str, bytes] = {}
                rest = iter(names)
                async with asyncio.TaskGroup() as group:
                    for _ in names[:_MOST_AT_ONCE]:
                        group.create_task(self._read_each(rest, found))
                return found
        except TimeoutError:
            raise StoreTimeoutError(
                f"not all records of bucket {self._bucket} were read in {_ALL_SECONDS:g} s", fix="try again"
            ) from None
        except BaseExceptionGroup as failures:
            # Where one read fails so do others, for the same reason.
            raise failures.exceptions[0] from None

    async def _names(self) -> list[str]:
        """Return the names of all nodes that have a record."""
        if await self._count() > _MOST_NAMES:
            raise TransientError(
                f"the bucket of node records holds more than {_MOST_NAMES} names",
                expected="one for each node",
                fix=f"look for who writes to {self._bucket}, and remove what is not a node's",
            )
        prefix = f"$KV.{self._bucket}."
        state = await self._state({"subjects_filter": f"{prefix}*"})
        subjects = state.get("subjects") or {}
        if not isinstance(subjects, dict):
            subjects = {}
        names = (subject.removeprefix(prefix) for subject in subjects)
        return [name for name in names if _NAME.fullmatch(name)][:_MOST_NAMES]

    async def _count(self) -> int:
        count = (await self._state({})).get("num_subjects", 0)
        return count if isinstance(count, int) else 0

    async def _state(self, query: dict[str, str]) -> dict[str, Any]:
        """Return the state of the stream; empty where there is none."""
        reply = await self._info.ask(json.dumps(query).encode())
        info = parse_answer(reply, most_bytes=_MOST_INFO_BYTES, most_members=_MOST_INFO_MEMBERS)
        if error_code(info) == NO_STREAM:
            return {}
        raise_error(info)
        state = info.get("state")
        if not isinstance(state, dict):
            raise unexpected(reply)
        return state

    async def _read_each(self, names: Iterator[str], found: dict[str, bytes]) -> None:
        for name in names:
            record = await self._read(name)
            if record is not None:
                found[name] = record

    async def _read(self, name: str) -> bytes | None:
        reply = await self._connection.read(f"$JS.API.DIRECT.GET.{self._stream}.{self._subject(name)}")
        if is_stored(reply):
            return _record(reply)
        if reply.status == NOT_FOUND:  # removed meanwhile
            return None
        if reply.status == NOBODY:
            raise UnreachableError(f"nobody answers direct gets of bucket {self._bucket}", fix="try again")
        raise unexpected(reply)

    async def forget(self, name: str) -> bool:
        """Remove a node's record; see `NodeRecords`. Raises `UsageError` where that is no node's name."""
        query = json.dumps({"filter": self._subject(name)}).encode()
        try:
            answer = parse_answer(await self._connection.request(f"$JS.API.STREAM.PURGE.{self._stream}", query))
        except ForbiddenError as exc:
            raise ForbiddenError(
                "NATS does not allow this node to remove node records",
                expected=exc.expected,
                found=exc.found,
                fix="run it with the operator's credentials: nats.creds_file or nats.nkey_file",
            ) from exc
        if error_code(answer) == NO_STREAM:
            return False
        raise_error(answer)
        return bool(answer.get("purged"))

    def _subject(self, name: str) -> str:
        if not _NAME.fullmatch(name):  # a wildcard would be everybody's
            raise UsageError(
                "that is not the name of a node",
                expected="1 to 64 letters, digits, - and _",
                found=repr(name)[:80],
                fix="name one node",
            )
        return f"$KV.{self._bucket}.{name}"

    async def create_bucket(self) -> None:
        """Make the records' bucket where it is missing; see `NodeRecords`."""
        await self.ensure_bucket(replicas=None)

    async def ensure_bucket(self, *, replicas: int | None) -> tuple[bool, list[str]]:
        """Make or check the records' bucket: whether it was made, and what is wrong with it."""
        return await ensure_bucket(self._connection, self._bucket, streams.records_stream, replicas=replicas)

    # --- the living ----------------------------------------------------------------------------

    async def ask_living(self, seconds: float) -> tuple[bytes, ...]:
        """Ask who is there, and return what came within `seconds`; see `NodeRecords`."""
        answers = await self._connection.ask_all(
            streams.WHO, seconds=seconds, most=_MOST_ANSWERS, most_bytes=_MOST_ANSWER_BYTES
        )
        # In a full house, who was not heard may hold a keyset: an answer that nobody can open stands for them.
        return (*answers, b"") if len(answers) >= _MOST_ANSWERS else answers

    def listen(self, *, heard: Callable[[str, bytes], None] | None, answer: Callable[[], bytes | None] | None) -> None:
        """Hear and answer from the next request on, over every loss of the connection; see `NodeRecords`."""
        if heard is not None:
            self._connection.subscribe(f"{streams.NODES}.*", partial(self._hear, heard))
        if answer is not None:
            self._connection.subscribe(streams.WHO, _Answering(answer))

    def _hear(self, told: Callable[[str, bytes], None], message: Heard) -> None:
        # Another cluster's records come to the same subjects: its bucket has another name.
        is_ours = message.headers.get("Nats-Stream", self._stream) == self._stream
        name = message.subject.rpartition(".")[2]
        record = _record(message)
        if is_ours and record is not None and _NAME.fullmatch(name):
            told(name, record)


class _Answering:
    """Answers to `keydist.who`: whoever asks all the time makes this node neither seal nor send all the time.

    An answer is given again while it is fresh, so that two who ask at once are both answered. Who asks after too
    many others is not, and knows by the silence that somebody listens.
    """

    def __init__(self, answer: Callable[[], bytes | None]) -> None:
        self._answer = answer
        self._last: bytes | None = None
        self._stale_at = 0.0
        self._given: deque[float] = deque(maxlen=_MOST_A_SECOND)

    def __call__(self, message: Heard) -> bytes | None:
        now = asyncio.get_running_loop().time()
        if not message.is_question or (len(self._given) == _MOST_A_SECOND and now - self._given[0] < 1):
            return None
        self._given.append(now)
        if now >= self._stale_at:
            self._last, self._stale_at = self._answer(), now + _FRESH_SECONDS
        return self._last


def _record(stored: Reply | Heard) -> bytes | None:
    """Return the record that a message holds, or None for a tombstone and for what is too large."""
    return None if is_marker(stored.headers) or len(stored.data) > MAX_RECORD else stored.data
