"""Answers of JetStream's API: parsed within bounds, and its errors by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from keydist.errors import KeydistError, StoreTimeoutError, TransientError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keydist.adapters.nats.wire import Reply

NO_MESSAGE: Final = 10037
NO_STREAM: Final = 10059
NO_CONSUMER: Final = 10014
NAME_IN_USE: Final = 10058
WRONG_LAST: Final = frozenset({10071, 10164})
NOT_CLUSTERED: Final = 10074
NOT_UNDERSTOOD: Final = 10025
NO_PEERS: Final = frozenset({10005, NOT_CLUSTERED})
NOT_FOUND: Final = 404
NOBODY: Final = 503
_JETSTREAM_OFF: Final = frozenset({10039, 10076})
_MOST_BYTES: Final = 256 * 1024
_MOST_MEMBERS: Final = 500


def parse_answer(reply: Reply, *, most_bytes: int = _MOST_BYTES, most_members: int = _MOST_MEMBERS) -> dict[str, Any]:
    """Return an answer's members. Raises `UnreachableError` where nobody answers, `StoreTimeoutError` for nonsense."""
    if reply.status == NOBODY:
        silent = UnreachableError(
            "NATS answers, but JetStream does not",
            expected="JetStream in this account",
            fix="start nats-server with JetStream enabled (-js), check the account's imports, a region's link to home",
        )
        silent.is_there = True
        raise silent
    data = reply.data
    # More than any answer holds, and what nests too deep for those who print it.
    if len(data) > most_bytes or data.count(b"[") + data.count(b"{") > most_members:
        raise unexpected(reply)
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise unexpected(reply) from exc
    if not isinstance(answer, dict):
        raise unexpected(reply)
    return answer


def error_code(answer: Mapping[str, Any]) -> int | None:
    """Return the code of the error that an answer tells, -1 where it tells none of it, None where there is none."""
    error = answer.get("error")
    if not isinstance(error, dict):
        return None
    code = error.get("err_code")
    return code if isinstance(code, int) else -1


def description(answer: Mapping[str, Any]) -> str:
    """Return the server's words about an error, bounded and printable."""
    error = answer.get("error")
    text = error.get("description", "") if isinstance(error, dict) else ""
    return "".join(char if char.isprintable() else "?" for char in str(text)[:200])


def raise_error(answer: Mapping[str, Any]) -> None:
    """Raise what an answer tells of an error: `UnreachableError` where JetStream is off, else `StoreTimeoutError`."""
    code = error_code(answer)
    if code is None:
        return
    if code in _JETSTREAM_OFF:
        raise UnreachableError(
            "JetStream is not enabled for this account",
            found=description(answer),
            fix="enable it in nats-server's configuration",
        )
    # Full, electing a leader, out of resources: all of it may pass.
    raise StoreTimeoutError(
        f"JetStream refuses: {description(answer)}", found=f"error {code}", fix="see the log of nats-server"
    )


def sequence(value: object) -> int:
    """Return a stream's sequence number. Raises `TransientError` where it is none."""
    text = str(value) if type(value) in (int, str) else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 20):  # noqa: PLR2004 - digits of a 64-bit number
        raise TransientError("the store answered without a sequence number", fix="check the version of nats-server")
    return int(text)


def is_stored(reply: Reply) -> bool:
    """Tell whether a direct get found a message, whatever status its writer put into it."""
    return "Nats-Sequence" in reply.headers


def is_marker(headers: Mapping[str, str]) -> bool:
    """Tell whether a stored message says that there is no value: a tombstone, or the mark of an age limit."""
    return headers.get("KV-Operation") in ("DEL", "PURGE") or "Nats-Marker-Reason" in headers


def unexpected(reply: Reply) -> KeydistError:
    """Return the error for an answer that is not understood."""
    return StoreTimeoutError(
        "the store gave an answer that is not understood", found=f"status {reply.status}", fix="check nats-server"
    )
