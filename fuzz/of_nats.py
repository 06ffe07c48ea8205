"""What comes from a NATS server, or from whoever else may write there: from the bytes of the protocol to values."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

import nats.errors

from fuzz.nats_client import ENDS, NODE, Answering, ReadingClient, replies, run
from fuzz.target import Target, as_text
from keydist.adapters.clock import SystemClock
from keydist.adapters.nats.answers import parse_answer
from keydist.adapters.nats.denials import Denials
from keydist.adapters.nats.records import MAX_RECORD, NatsNodeRecords
from keydist.adapters.nats.rights import Names
from keydist.adapters.nats.sight import describe_stream, last_stored, wanted_streams
from keydist.adapters.nats.store import NatsKeysetStore
from keydist.adapters.nats.trail import NatsTrailStream
from keydist.adapters.nats.wire import Heard, Reply, heard_of, reason_of, reply_of
from keydist.core.entry import Absence, Absent
from keydist.errors import ForbiddenError, KeydistError

if TYPE_CHECKING:
    from keydist.adapters.nats.connection import Connection

_BUCKET: Final = "keydist"
_ENTRY: Final = "signing-key"


def _wire(raw: bytes) -> None:
    """Read what a server sends, in two pieces; what it sends ends the connection, or is a message."""
    client, said = ReadingClient(), raw[1:]
    cut = len(said) * raw[0] // 256 if raw else 0

    async def read() -> None:
        with suppress(*ENDS):
            await client.parser.parse(said[:cut])
            await client.parser.parse(said[cut:])

    run(read())
    for message in client.messages():
        assert 0 <= reply_of(message).status < 1000
        assert isinstance(heard_of(message).subject, str)
    with suppress(ForbiddenError):
        client.denials.raise_for(_BUCKET)


def _store(raw: bytes) -> None:
    """Read and write the keyset's entry; a server's words are told in print."""
    told = ""
    try:
        _use_store(raw)
    except KeydistError as exc:
        told = f"{exc.message}{exc.found}"
        raise
    finally:
        assert told.isprintable() or not told


def _use_store(raw: bytes) -> None:
    given = Answering(replies(raw[1:]))
    store = NatsKeysetStore(cast("Connection", given), bucket=_BUCKET, entry=_ENTRY)
    match raw[:1]:
        case b"d" | b"l":
            found = run(store.read(from_leader=raw[:1] == b"l"))
            if found == Absent(why=Absence.NEVER_WRITTEN):
                assert any(_says_nothing_written(reply) for reply in given.given), "it must have been said"
            elif isinstance(found, Absent):
                assert found.why in Absence
            else:
                assert found.revision >= 0
        case b"e":
            run(store.ensure_bucket(replicas=None))
        case b"w":
            run(store.write_first(b"envelope"))
        case _:
            assert run(store.replace(b"envelope", revision=7)) >= 0


def _says_nothing_written(reply: Reply) -> bool:
    with suppress(KeydistError, KeyError, TypeError):
        last = parse_answer(reply)["state"]["last_seq"]
        return last == 0 and type(last) is int
    return False


def _records(raw: bytes) -> None:
    given = Answering(replies(raw[1:]))
    records = NatsNodeRecords(cast("Connection", given), bucket=_BUCKET)
    match raw[:1]:
        case b"a":
            found = run(records.read_all())
            assert all(len(name) <= 64 and len(record) <= MAX_RECORD for name, record in found.items())
        case b"p":
            run(records.publish(NODE, b"record"))
        case b"f":
            run(records.forget(NODE))
        case b"w":
            run(records.ask_living(1))
        case _:
            heard = dict[str, bytes]()
            records.listen(heard=heard.__setitem__, answer=None)
            [callback] = given.callbacks.values()
            for reply in given.given:
                subject = reply.headers.get("Subject", "")
                callback(Heard(subject=subject, headers=reply.headers, data=reply.data, is_question=False))
            assert all(len(name) <= 64 and len(record) <= MAX_RECORD for name, record in heard.items())


def _trail(raw: bytes) -> None:
    given = Answering(replies(raw[1:]))
    trail = NatsTrailStream(cast("Connection", given), bucket=_BUCKET)
    match raw[:1]:
        case b"l":
            run(trail.last(NODE))
        case b"p":
            run(trail.publish(NODE, b"record", after=7))
        case b"e":
            run(trail.ensure(replicas=3))
        case _:
            found = run(trail.read(after=7, node=None))
            assert found is None or found.sequence > 7, "who reads on comes to an end"


def _stream(raw: bytes) -> None:
    """Describe a stream, and tell the server's time by it."""
    given, name = Answering(replies(raw)), f"KV_{_BUCKET}"
    wanted = wanted_streams(_BUCKET, trail=False)[name]
    with suppress(KeydistError):
        seen = run(describe_stream(cast("Connection", given), SystemClock(), name, wanted)).seen
        assert seen is None or all(problem.isprintable() for problem in seen.problems)
    run(last_stored(cast("Connection", given), Names(_BUCKET, _ENTRY, NODE)))


def _denial(text: str) -> None:
    """Note what a server denies, whatever its words: who asked something else is told nothing."""
    denials, error = Denials(NODE), nats.errors.Error(f"nats: {text}")
    denials.note(error)
    assert reason_of(error).isprintable()
    for subject in ("keydist.who", "$KV.keydist.signing-key"):
        try:
            denials.raise_for(subject)
        except ForbiddenError:
            assert subject.lower() in text.lower() or denials.are_of_inbox


def _told(data: object, *headers: str) -> bytes:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return "\r\n".join(("NATS/1.0", *headers, "", "")).encode() + body


_NOTHING: Final = b"NATS/1.0 404 Message Not Found\r\n\r\n"
_NOBODY: Final = b"NATS/1.0 503\r\n\r\n"
_GOT: Final = _told(b"envelope", "Nats-Stream: KV_keydist", "Nats-Sequence: 7", "Nats-Time-Stamp: 2026-03-01T12:00:00Z")
_DELETED: Final = _told(b"", "Nats-Sequence: 8", "KV-Operation: DEL")
_NEVER: Final = {"state": {"last_seq": 0}}
_ONE: Final = {"state": {"last_seq": 1, "num_subjects": 1, "subjects": {"$KV.keydist-nodes.n1": 1}}}
_ERROR: Final = {"error": {"code": 404, "err_code": 10059, "description": "stream not found"}}
_NO_MESSAGE: Final = {"error": {"code": 404, "err_code": 10037, "description": "no message found"}}
_MESSAGE: Final = {
    "message": {"seq": 7, "hdrs": base64.b64encode(_told(b"", "KV-Operation: PURGE")).decode(), "data": "ZW52ZWxvcGU="}
}
_INFO: Final = {
    "ts": "2026-03-01T12:00:00.5Z",
    "config": wanted_streams(_BUCKET, trail=False)["KV_keydist"] | {"num_replicas": 3},
    "cluster": {"replicas": [{"name": "b", "current": True}, {"name": "c", "offline": True}]},
}
_REFUSED: Final = b"NATS/1.0 403\r\n\r\n"
_DENIAL: Final = b'Permissions Violation for Publish to "$KV.keydist.signing-key"'


def _several(first: bytes, *parts: object) -> bytes:
    return first + b"\xff".join(part if isinstance(part, bytes) else _told(part) for part in parts)


def _framed(head: bytes, data: bytes) -> bytes:
    return b"HMSG s 1 _INBOX.x %d %d\r\n%s%s\r\n" % (len(head), len(head) + len(data), head, data)


TARGETS: Final[dict[str, Target]] = {
    "wire": Target(
        _wire,
        (
            b"\x80MSG s 1 3\r\nabc\r\nPING\r\n" + _framed(_told(b"", "Nats-Sequence: 7"), b"x") + _framed(_NOBODY, b""),
            b'\x80INFO {"server_id":"x","connect_urls":["127.0.0.1:4222"],"ldm":true}\r\n+OK\r\nPONG\r\n',
            b"\x20-ERR '" + _DENIAL + b"'\r\n-ERR 'Stale Connection'\r\n",
        ),
    ),
    "keyset store": Target(
        _store,
        (
            _several(b"d", _GOT),
            _several(b"d", _DELETED),
            _several(b"d", _NOTHING, _NEVER),
            _several(b"d", _NOBODY, _REFUSED, _REFUSED),
            _several(b"l", _MESSAGE),
            _several(b"l", _NO_MESSAGE, {"state": {"last_seq": 3, "subjects": {"x": 1}}}, _MESSAGE),
            _several(b"e", _ERROR, {"config": {}}),
            _several(b"w", {"stream": "KV_keydist", "seq": 1}),
            _several(b"r", {"stream": "KV_keydist", "seq": 8}),
        ),
    ),
    "node records": Target(
        _records,
        (
            _several(b"a", _ONE, _ONE, _GOT),
            _several(b"p", {"seq": 1}),
            _several(b"f", {"success": True, "purged": 1}),
            _several(b"w", _GOT, b""),
            _several(b"h", _told(b"record", "Subject: keydist.nodes.n1", "Nats-Stream: KV_keydist-nodes")),
        ),
    ),
    "trail stream": Target(
        _trail,
        (
            _several(b"l", _told(b"{}", "Nats-Subject: keydist.audit.keydist.n1", "Nats-Sequence: 9")),
            _several(b"r", _told(b"{}", "Nats-Subject: keydist.audit.keydist.n1", "Nats-Sequence: 9")),
            _several(b"p", {"stream": "keydist-audit", "seq": 8}),
            _several(b"e", _INFO),
        ),
    ),
    "stream": Target(_stream, (_several(b"", _INFO, _GOT), _several(b"", _ERROR, _NOTHING, _GOT))),
    "denial": Target(as_text(_denial), (_DENIAL, b'Permissions Violation for Subscription to "_INBOX_n1.x"')),
}
