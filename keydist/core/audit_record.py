"""The audit trail's record: one line of JSON an event, linked to the one before it, signed by the keyset's active key.

Each node writes chains of its own: `seq` counts from 1, `prev` is the SHA-256 of the record before. The signature is
over a text that no JWT can be, so that neither passes for the other.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.core import crypto
from keydist.core.audit import (
    CHAIN_HEX,
    HASH_BYTES,
    MAX_LIST,
    MAX_TEXT,
    Fact,
    Facts,
    Link,
    Mint,
    Place,
    What,
    mint_json,
)
from keydist.core.keyset import DIGEST_BYTES
from keydist.core.plaintext import parse_kid
from keydist.core.strict import (
    array_of,
    b64url_decode,
    b64url_encode,
    exact_members,
    fixed,
    integer,
    is_hex,
    parse_object,
    serialise,
)
from keydist.errors import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from keydist.core.audit import Event

VERSION: Final = 1
MAX_RECORD: Final = 48 * 1024
MAX_MINTS_BYTES: Final = 32 * 1024
"""So much of a record may be JWTs; with everything else it stays below `MAX_RECORD`."""

_SIGNED: Final = b"keydist/v1/audit\0"  # no JWT's signing input has a NUL
_MAX_FACTS: Final = 16
_MAX_MINTS: Final = 512
_MAX_SIGNATURE: Final = 1024
_LOOK_BACK: Final = 64
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_WORD: Final = re.compile(r"[a-z][a-z_-]{0,31}", re.ASCII)
_MEMBERS: Final = (
    "v", "cluster", "node", "chain", "seq", "prev", "at", "what", "how", "lineage", "epoch", "digest", "facts",
    "minted", "who", "kid", "alg", "sig",
)  # fmt: skip
_MINT: Final = frozenset({"sha256", "kid", "jti", "sub", "aud", "exp"})
_MINT_TOO: Final = frozenset({"uid"})  # records of before it was kept are still read
_MAX_UID: Final = 2**32 - 2  # the last one stands for none


class Entry(NamedTuple):
    """A record as it was read: every member, and the bytes that the signature is over. `at` in unix seconds."""

    place: Place
    chain: str
    seq: int
    prev: bytes
    at: int
    what: str
    how: str
    lineage: str
    epoch: int
    digest: bytes
    facts: Facts
    minted: tuple[Mint, ...]
    who: Facts
    kid: str
    alg: str
    signed: bytes
    signature: bytes
    raw: bytes

    @property
    def link(self) -> Link:
        """What the next record is linked to."""
        digest = hashlib.sha256(self.raw).digest()
        return Link(chain=self.chain, seq=self.seq, hash=digest, lineage=self.lineage, digest=self.digest)

    def follows(self, link: Link | None) -> bool:
        """Tell whether it may stand behind a record in a journal: as the next of its chain, or in another chain."""
        return link is None or self.chain != link.chain or self.seq == link.seq + 1


def told(last: Link | None, find: Callable[[str, int], bytes | None]) -> Entry | None:
    """Return the last record of a chain that tells of more than JWTs; None where none is near that can be read.

    `find` returns the record of a chain by its number.
    """
    if last is None:
        return None
    for seq in range(last.seq, max(0, last.seq - _LOOK_BACK), -1):
        try:
            entry = parse_entry(find(last.chain, seq) or b"")
        except MalformedError:
            return None
        if entry.what != What.MINTED:
            return entry
    return None


# --- writing ------------------------------------------------------------------------------------


def compose(event: Event, place: Place, before: Link, *, at: int, who: Facts) -> bytes:
    """Return the record of an event, behind `before`; `at` in unix seconds. Raises `MalformedError`."""
    keyset = event.held.keyset
    key = keyset.active
    body: dict[str, object] = {
        "v": VERSION,
        "cluster": place.cluster,
        "node": place.node,
        "chain": before.chain,
        "seq": before.seq + 1,
        "prev": b64url_encode(before.hash),
        "at": at,
        "what": event.what.value,
        "how": event.how,
        "lineage": keyset.lineage,
        "epoch": keyset.epoch,
        "digest": b64url_encode(event.held.digest),
        "facts": dict(event.facts),
        "minted": [mint_json(mint) for mint in event.minted],
        "who": dict(who),
        "kid": key.kid,
        "alg": key.alg,
    }
    private = crypto.load_private(key.material, key.alg, validate=False)
    signature = crypto.sign(private, key.alg, _SIGNED + serialise(body))
    raw = serialise(body | {"sig": b64url_encode(signature)})
    parse_entry(raw)  # what no reader would take is not written
    return raw


# --- reading ------------------------------------------------------------------------------------


def parse_entry(raw: bytes) -> Entry:
    """Parse a record, believing nothing of what it says. Raises `MalformedError`."""
    if len(raw) > MAX_RECORD:
        raise MalformedError("an audit record is too long", expected=f"at most {MAX_RECORD} bytes", found=str(len(raw)))
    value = parse_object(raw, "an audit record")
    if tuple(value) != _MEMBERS or serialise(value) != raw:
        raise MalformedError("an audit record is not in its one spelling", expected=", ".join(_MEMBERS))
    if value["v"] != VERSION or type(value["v"]) is not int:
        raise MalformedError("an audit record has an unknown version", expected=str(VERSION))
    signature = value.pop("sig")
    if not isinstance(signature, str) or len(signature) > _MAX_SIGNATURE:
        raise MalformedError("an audit record's signature is not well formed", expected="base64url")
    return Entry(
        place=Place(cluster=_name(value["cluster"], "cluster"), node=_name(value["node"], "node")),
        chain=_hex(value["chain"], CHAIN_HEX, "chain"),
        seq=integer(value["seq"], "seq", least=1),
        prev=fixed(value["prev"], HASH_BYTES, "prev"),
        at=integer(value["at"], "at"),
        what=_word(value["what"], "what"),
        how=_text(value["how"], "how"),
        lineage=_hex(value["lineage"], 32, "lineage"),
        epoch=integer(value["epoch"], "epoch", least=1),
        digest=fixed(value["digest"], DIGEST_BYTES, "digest"),
        facts=_facts(value["facts"], "facts"),
        minted=array_of(value["minted"], _mint, "minted", most=_MAX_MINTS),
        who=_facts(value["who"], "who"),
        kid=parse_kid(value["kid"]),
        alg=_text(value["alg"], "alg"),
        signed=_SIGNED + serialise(value),
        signature=b64url_decode(signature, "sig"),
        raw=raw,
    )


def parse_mint(raw: bytes) -> Mint:
    """Parse one minted JWT of a spool. Raises `MalformedError`."""
    return _mint(parse_object(raw, "a minted JWT"))


def _mint(value: object) -> Mint:
    if not isinstance(value, dict):
        raise MalformedError("a minted JWT is not an object", expected="an object")
    exact_members(value, _MINT, _MINT_TOO, "a minted JWT")
    return Mint(
        sha256=fixed(value["sha256"], HASH_BYTES, "sha256"),
        kid=parse_kid(value["kid"]),
        jti=_text(value["jti"], "jti"),
        sub=_text(value["sub"], "sub"),
        aud=array_of(value["aud"], lambda item: _text(item, "aud"), "aud", most=MAX_LIST),
        exp=integer(value["exp"], "exp"),
        uid=_uid(value["uid"]) if "uid" in value else None,
    )


def _uid(value: object) -> int:
    uid = integer(value, "uid")
    if uid > _MAX_UID:
        raise MalformedError("uid is not a user id", expected=f"0 up to {_MAX_UID}")
    return uid


def _facts(value: object, what: str) -> Facts:
    if not isinstance(value, dict) or len(value) > _MAX_FACTS:
        raise MalformedError(f"an audit record's {what} is not an object in range", expected=f"{_MAX_FACTS} members")
    return {_word(name, what): _fact(fact, what) for name, fact in value.items()}


def _fact(value: object, what: str) -> Fact:
    if isinstance(value, list):
        return array_of(value, lambda item: _text(item, what), what, most=MAX_LIST)
    return _text(value, what) if isinstance(value, str) else integer(value, what)


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise MalformedError(f"an audit record's {what} is not text in range", expected=f"{MAX_TEXT} characters")
    return value


def _word(value: object, what: str) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise MalformedError(f"an audit record's {what} is not a word", expected="lower-case letters and dashes")
    return value


def _name(value: object, what: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise MalformedError(f"an audit record's {what} is not a name", expected="letters, digits, dots, - and _")
    return value


def _hex(value: object, length: int, what: str) -> str:
    if not is_hex(value, length):
        raise MalformedError(f"an audit record's {what} is not well formed", expected=f"{length} lower-case hex digits")
    return str(value)
