"""A node's record: what one node tells the fleet, sealed like the keyset under `typ` `keydist-node+jwe`.

Its place is `KV/<bucket>-nodes/<name>`, so that no record can stand for another node's. Any held token opens one, a
superseded one too: a node that was away must be seen to be on the old token. No time in it is used for a decision.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.core.accept import check_place
from keydist.core.envelope import Place, open_envelope, parse_envelope, seal
from keydist.core.keyset import DIGEST_BYTES
from keydist.core.plaintext import MAX_KEYS, parse_kid
from keydist.core.restart import Role
from keydist.core.strict import (
    array_of,
    ascii_text,
    b64url_encode,
    exact_members,
    fixed,
    integer,
    is_hex,
    parse_object,
    serialise,
)
from keydist.errors import MalformedError, WrongTokenError

if TYPE_CHECKING:
    from keydist.core.accept import Floor
    from keydist.core.token import BootstrapToken

RECORD_TYPE: Final = "keydist-node+jwe"
MAX_RECORD: Final = 8 * 1024
MAX_ALARMS: Final = 16
MAX_TOKENS: Final = 2
MAX_HEARTBEAT: Final = 86_400
INSTANCE_HEX: Final = 32
_MAX_TEXT: Final = 64
_NO_LINEAGE: Final = "0" * 32
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_CODE: Final = re.compile(r"[a-z][a-z0-9-]{0,63}", re.ASCII)
_MEMBERS: Final = frozenset(
    {
        "node", "instance", "machine", "role", "counter", "heartbeat", "leaving", "digest", "kid", "token", "tokens",
        "persisted", "loaded", "minted", "version", "alarms",
    }
)  # fmt: skip


class Minted(NamedTuple):
    """How many JWTs were minted with a key, and the latest expiry among them (unix seconds)."""

    jwts: int
    last_expiry: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a node says of itself.

    `instance` and `machine` (32 hex digits each) tell two nodes under one name apart; `counter` rises with every
    record of an instance. `lineage`, `epoch`, `digest`, `kid` and `token` are those of the keyset that it uses,
    `tokens` the ids of the tokens it holds. `persisted`, `loaded` in unix seconds, `heartbeat` in seconds.
    """

    node: str
    instance: str
    machine: str
    role: Role
    counter: int
    heartbeat: int
    lineage: str
    epoch: int
    digest: bytes
    kid: str
    token: str
    tokens: tuple[str, ...]
    persisted: int
    loaded: int
    minted: Mapping[str, Minted]
    version: str
    alarms: tuple[str, ...] = ()
    leaving: bool = False
    sealed: str = field(default="", compare=False, repr=False)
    """The id of the token that it was opened with; not a part of it."""


def record_place(place: Place, node: str) -> Place:
    """Return where a node's record belongs, in the cluster whose keyset is at `place`."""
    bucket = place.location.split("/")[1]
    return Place(cluster=place.cluster, location=f"KV/{bucket}-nodes/{node}")


def seal_record(record: Record, *, token: BootstrapToken, place: Place, now: int, rnd: bytes, iv: bytes) -> bytes:
    """Return a sealed record; `place` is the keyset's, `rnd` (32 bytes) and `iv` (12 bytes) fresh. See `seal`."""
    return seal(
        serialise(
            {
                "node": record.node,
                "instance": record.instance,
                "machine": record.machine,
                "role": record.role.value,
                "counter": record.counter,
                "heartbeat": record.heartbeat,
                "leaving": record.leaving,
                "digest": b64url_encode(record.digest),
                "kid": record.kid,
                "token": record.token,
                "tokens": list(record.tokens),
                "persisted": record.persisted,
                "loaded": record.loaded,
                "minted": {kid: list(minted) for kid, minted in record.minted.items()},
                "version": record.version,
                "alarms": list(record.alarms),
            }
        ),
        token=token,
        place=record_place(place, record.node),
        lineage=record.lineage,
        epoch=record.epoch,
        issued=now,
        rnd=rnd,
        iv=iv,
        typ=RECORD_TYPE,
    )


def seal_sign(
    node: str, *, floor: Floor | None, token: BootstrapToken, place: Place, now: int, rnd: bytes, iv: bytes
) -> bytes:
    """Return an envelope in the place of a node's record that says nothing: for who has a sign of a keyset and none.

    Under a `token` that nobody has it cannot be opened. A header needs a lineage and an epoch: those of the floor,
    and what stands for none where it does not say. Arguments as `seal_record`.
    """
    return seal(
        serialise({}),
        token=token,
        place=record_place(place, node),
        lineage=(floor.lineage if floor else None) or _NO_LINEAGE,
        epoch=floor.epoch if floor else 1,
        issued=now,
        rnd=rnd,
        iv=iv,
        typ=RECORD_TYPE,
    )


def open_record(raw: bytes, *, node: str, place: Place, tokens: tuple[BootstrapToken, ...]) -> Record:
    """Open and parse the record of `node`.

    Raises `MalformedError`, `UnsupportedError`, `ForeignClusterError`, `WrongTokenError`, `CommitmentError`,
    `TamperedError`.
    """
    if len(raw) > MAX_RECORD:
        raise MalformedError("a record is too long", expected=f"at most {MAX_RECORD} bytes", found=str(len(raw)))
    if not _NAME.fullmatch(node):
        raise MalformedError("a record's place names no node", expected="1 to 64 letters, digits, - and _")
    envelope = parse_envelope(raw, typ=RECORD_TYPE)
    check_place(envelope, record_place(place, node))
    token = next((token for token in tokens if token.token_id == envelope.header.token_id), None)
    if token is None:
        raise WrongTokenError(
            f"the record of node {node} is sealed under a token that this node does not hold",
            have=tuple(token.token_id for token in tokens),
            need=envelope.header.token_id,
            fix="compare the token files of both nodes: keydist token inspect",
        )
    plaintext = open_envelope(envelope, token)
    record = _parse(plaintext, lineage=envelope.header.lineage, epoch=envelope.header.epoch, node=node)
    return replace(record, sealed=token.token_id)


def _parse(plaintext: bytes, *, lineage: str, epoch: int, node: str) -> Record:
    value = parse_object(plaintext, "a record")
    exact_members(value, _MEMBERS, frozenset(), "a record")
    if value["node"] != node:
        raise MalformedError("a record names another node than its place", expected=node)
    if type(value["leaving"]) is not bool:  # 0 and 1 equal False and True
        raise MalformedError("a record's leaving is not well formed", expected="true or false")
    return Record(
        node=node,
        instance=_hex(value["instance"], INSTANCE_HEX, "instance"),
        machine=_hex(value["machine"], INSTANCE_HEX, "machine"),
        role=_role(value["role"]),
        counter=integer(value["counter"], "counter"),
        heartbeat=_heartbeat(value["heartbeat"]),
        lineage=lineage,
        epoch=epoch,
        digest=fixed(value["digest"], DIGEST_BYTES, "digest"),
        kid=parse_kid(value["kid"]),
        token=_hex(value["token"], 10, "token"),
        tokens=array_of(value["tokens"], lambda item: _hex(item, 10, "tokens"), "tokens", most=MAX_TOKENS),
        persisted=integer(value["persisted"], "persisted"),
        loaded=integer(value["loaded"], "loaded"),
        minted=_minted(value["minted"]),
        version=ascii_text(value["version"], "version", most=_MAX_TEXT),
        alarms=array_of(value["alarms"], _code, "alarms", most=MAX_ALARMS),
        leaving=value["leaving"],
    )


def _role(value: object) -> Role:
    if not isinstance(value, str) or value not in {role.value for role in Role}:
        raise MalformedError("a record's role is not well formed", expected=" or ".join(role.value for role in Role))
    return Role(value)


def _hex(value: object, length: int, what: str) -> str:
    if not is_hex(value, length):
        raise MalformedError(f"a record's {what} is not well formed", expected=f"{length} lower-case hex digits")
    return str(value)


def _code(value: object) -> str:
    if not isinstance(value, str) or not _CODE.fullmatch(value):
        raise MalformedError("a record's alarm is not a code", expected="lower-case letters, digits and dashes")
    return value


def _heartbeat(value: object) -> int:
    seconds = integer(value, "heartbeat", least=1)
    if seconds > MAX_HEARTBEAT:
        raise MalformedError("a record's heartbeat is out of range", expected=f"at most {MAX_HEARTBEAT} seconds")
    return seconds


def _minted(value: object) -> dict[str, Minted]:
    if not isinstance(value, dict) or len(value) > MAX_KEYS:
        raise MalformedError("a record's minted is not an object", expected="an object from kid to two numbers")
    found = {}
    for kid, pair in value.items():
        numbers = array_of(pair, lambda item: integer(item, "minted"), "minted", most=2)
        if len(numbers) != len(Minted._fields):
            raise MalformedError("a record's minted is not well formed", expected="a count and an expiry")
        found[parse_kid(kid)] = Minted(*numbers)
    return found
