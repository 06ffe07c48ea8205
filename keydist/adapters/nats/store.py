"""The keyset's entry in a JetStream bucket: reads that tell why nothing is there, writes that are compare-and-set.

Followers read by direct get, which any replica answers; writers and confirmations read from the stream leader.
Only a compare-and-set is a fence. A write whose acknowledgement is lost may have happened: the caller reads back.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from keydist.adapters.nats import bucket as streams
from keydist.adapters.nats.connection import Connection
from keydist.adapters.nats.wire import Reply
from keydist.core.entry import Absence, Absent, Stored
from keydist.errors import (
    ConfigError,
    ConflictError,
    ForbiddenError,
    KeydistError,
    StoreTimeoutError,
    TransientError,
    UnreachableError,
)

_NO_MESSAGE: Final = 10037
_NO_STREAM: Final = 10059
_WRONG_LAST: Final = frozenset({10071, 10164})
_NAME_IN_USE: Final = 10058
_NO_PEERS: Final = frozenset({10005, 10074})
_JETSTREAM_OFF: Final = frozenset({10039, 10076})
_NOT_FOUND: Final = 404
_NOBODY: Final = 503
_CLUSTER_REPLICAS: Final = 3
_FOLLOWERS_READ: Final = "keydist.current"
_MOST_BYTES: Final = 256 * 1024
_MOST_MEMBERS: Final = 500


class NatsKeysetStore:
    """A `KeysetStore` on NATS JetStream."""

    def __init__(self, connection: Connection, *, bucket: str, entry: str) -> None:
        self._connection = connection
        self._bucket = bucket
        self._entry = entry
        self._stream = streams.stream_name(bucket)
        self._subject = f"$KV.{bucket}.{entry}"
        self._stream_read = self._leader_read = f"$JS.API.STREAM.MSG.GET.{self._stream}"

    # --- reading -------------------------------------------------------------------------------

    async def read(self, *, from_leader: bool) -> Stored | Absent:
        """Return what the entry holds; see `KeysetStore`."""
        return await (self._read_leader() if from_leader else self._read_direct())

    async def _read_direct(self) -> Stored | Absent:
        reply = await self._connection.request(f"$JS.API.DIRECT.GET.{self._stream}.{self._subject}")
        if "Nats-Sequence" in reply.headers:  # a stored message, whatever status its writer put into it
            return _entry(reply.data, reply.headers, _sequence(reply.headers["Nats-Sequence"]))
        if reply.status in (_NOT_FOUND, _NOBODY):
            return await self._why_absent(is_asked=reply.status == _NOT_FOUND)
        raise _unexpected(reply)

    async def _read_leader(self, *, again: bool = True) -> Stored | Absent:
        reply = await self._ask_leader(json.dumps({"last_by_subj": self._subject}).encode())
        answer = _parse(reply)
        code = _error_code(answer)
        if code == _NO_MESSAGE:
            return await self._why_absent(again=again)
        if code == _NO_STREAM:
            return Absent(why=Absence.BUCKET_MISSING)
        _raise_error(answer)
        message: Any = answer.get("message")
        try:
            headers = _headers(base64.b64decode(message.get("hdrs", ""), validate=True))
            data = base64.b64decode(message.get("data", ""), validate=True)
            return _entry(data, headers, _sequence(message["seq"]))
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise _unexpected(reply) from exc

    async def _ask_leader(self, query: bytes) -> Reply:
        try:
            return await self._connection.request(self._leader_read, query)
        except ForbiddenError as forbidden:
            # Followers with an account of their own may read from the leader under this name only.
            other = _FOLLOWERS_READ if self._leader_read != _FOLLOWERS_READ else self._stream_read
            try:
                reply = await self._connection.request(other, query)
            except ForbiddenError:
                raise forbidden from None
            if reply.status == _NOBODY:  # not a follower's account: what it was denied is the matter
                raise forbidden from None
            self._leader_read = other
            return reply

    async def _why_absent(self, *, is_asked: bool = True, again: bool = True) -> Stored | Absent:
        """Ask the stream why nothing is there; a user who may not ask cannot tell.

        `is_asked`: a replica answered; `again`: read once more where the entry was written since.
        """
        query = json.dumps({"subjects_filter": self._subject}).encode()
        try:
            reply = await self._connection.request(f"$JS.API.STREAM.INFO.{self._stream}", query)
        except ForbiddenError:
            return Absent(why=Absence.UNKNOWN)
        info = _parse(reply)
        if _error_code(info) == _NO_STREAM:
            return Absent(why=Absence.BUCKET_MISSING)
        _raise_error(info)
        state: Any = info.get("state")
        if not isinstance(state, dict) or not isinstance(state.get("last_seq"), int):
            raise _unexpected(reply)  # 'never written' allows a first key: it must have been said
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
        if reply.status == _NOBODY:
            raise UnreachableError(
                f"no JetStream stream takes writes to {self._subject}",
                expected=f"bucket {self._bucket}",
                fix="make it with: keydist store init",
            )
        answer = _parse(reply)
        if _error_code(answer) in _WRONG_LAST:
            raise ConflictError("somebody else wrote first", fix="nothing is lost: the store is read again")
        _raise_error(answer)
        return _sequence(answer.get("seq"))

    # --- buckets -------------------------------------------------------------------------------

    async def create_bucket(self) -> None:
        """Make the keyset's bucket where it is missing; see `KeysetStore`."""
        await self.ensure_bucket(replicas=None)

    async def ensure_bucket(self, *, replicas: int | None) -> tuple[bool, list[str]]:
        """Make or check the keyset's bucket: whether it was made, and what is wrong with it."""
        return await self._ensure(self._bucket, streams.keyset_stream, replicas)

    async def ensure_records(self, *, replicas: int | None) -> tuple[bool, list[str]]:
        """Make or check the bucket of node records: whether it was made, and what is wrong with it."""
        return await self._ensure(f"{self._bucket}-nodes", streams.records_stream, replicas)

    async def _ensure(self, bucket: str, config: Any, replicas: int | None) -> tuple[bool, list[str]]:  # noqa: ANN401 - one of two functions above
        name = streams.stream_name(bucket)
        info = _parse(await self._connection.request(f"$JS.API.STREAM.INFO.{name}"))
        if _error_code(info) != _NO_STREAM:
            _raise_error(info)
            found = info.get("config")
            return False, streams.problems(
                found if isinstance(found, dict) else {}, config(bucket, replicas=replicas or 1)
            )
        count = replicas or (_CLUSTER_REPLICAS if self._connection.is_clustered else 1)
        wanted = config(bucket, replicas=count)
        answer = _parse(await self._connection.request(f"$JS.API.STREAM.CREATE.{name}", json.dumps(wanted).encode()))
        code = _error_code(answer)
        if code == _NAME_IN_USE:  # somebody else made it meanwhile
            return False, []
        if code in _NO_PEERS:
            raise ConfigError(
                f"the NATS cluster cannot hold {count} replicas of bucket {bucket}",
                found=_description(answer),
                fix="start more JetStream servers, or: keydist store init --replicas 1",
            )
        _raise_error(answer)
        return True, []

    async def close(self) -> None:
        """Let go of the connection; see `KeysetStore`."""
        await self._connection.close()


def _entry(data: bytes, headers: Any, revision: int) -> Stored | Absent:  # noqa: ANN401 - a mapping of the client's
    if headers.get("KV-Operation") in ("DEL", "PURGE") or "Nats-Marker-Reason" in headers:
        return Absent(why=Absence.DELETED, revision=revision)
    return Stored(envelope=data, revision=revision)


def _headers(raw: bytes) -> dict[str, str]:
    lines = raw.decode("utf-8", "replace").split("\r\n")[1:]
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _sequence(value: object) -> int:
    text = str(value) if type(value) in (int, str) else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 20):  # noqa: PLR2004 - digits of a 64-bit number
        raise TransientError("the store answered without a sequence number", fix="check the version of nats-server")
    return int(text)


def _parse(reply: Reply) -> dict[str, Any]:
    if reply.status == _NOBODY:
        raise UnreachableError(
            "NATS answers, but JetStream does not",
            expected="JetStream in this account",
            fix="start nats-server with JetStream enabled (-js), and check the account's imports",
        )
    data = reply.data
    # More than any answer holds, and what nests too deep for those who print it.
    if len(data) > _MOST_BYTES or data.count(b"[") + data.count(b"{") > _MOST_MEMBERS:
        raise _unexpected(reply)
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise _unexpected(reply) from exc
    if not isinstance(answer, dict):
        raise _unexpected(reply)
    return answer


def _error_code(answer: dict[str, Any]) -> int | None:
    error = answer.get("error")
    if not isinstance(error, dict):
        return None
    code = error.get("err_code")
    return code if isinstance(code, int) else -1


def _description(answer: dict[str, Any]) -> str:
    error = answer.get("error")
    text = error.get("description", "") if isinstance(error, dict) else ""
    return "".join(char if char.isprintable() else "?" for char in str(text)[:200])


def _raise_error(answer: dict[str, Any]) -> None:
    code = _error_code(answer)
    if code is None:
        return
    if code in _JETSTREAM_OFF:
        raise UnreachableError(
            "JetStream is not enabled for this account",
            found=_description(answer),
            fix="enable it in nats-server's configuration",
        )
    # Full, electing a leader, out of resources: all of it may pass.
    raise StoreTimeoutError(
        f"JetStream refuses: {_description(answer)}", found=f"error {code}", fix="see the log of nats-server"
    )


def _unexpected(reply: Reply) -> KeydistError:
    return StoreTimeoutError(
        "the store gave an answer that is not understood", found=f"status {reply.status}", fix="check nats-server"
    )
