"""Checking a chain of audit records: a fold that names the first broken link.

Each record must be well formed, of its place, one further than the one before, linked to its bytes, and signed by the
key that it names. A record by a key that is not at hand is linked, but not proven: that is told, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.core import crypto
from keydist.core.audit import ANEW, BEGINNING, Link
from keydist.core.audit_record import Entry, parse_entry
from keydist.core.strict import b64url_encode
from keydist.errors import BrokenTrailError, MalformedError

if TYPE_CHECKING:
    from keydist.core.audit import Place
    from keydist.core.crypto import PublicKey

_SHOWN: Final = 8
_FIX: Final = "compare with the node's own journal: keydist audit --verify --local, on that node"


class Verifying(NamedTuple):
    """A public key and the algorithm that it verifies."""

    key: PublicKey
    alg: str


KeyOf = Callable[[str], Verifying | None]
"""Returns the public key of a kid; None where it is not at hand."""


class Checked(NamedTuple):
    """A record that fits behind the one before; `is_proven` where its signature was checked too."""

    entry: Entry
    is_proven: bool


def check_next(
    raw: bytes,
    before: Link | None,
    *,
    place: Place,
    key_of: KeyOf,
    is_whole: bool = True,
    lineages: Collection[str] = (),
) -> Checked:
    """Return a record that is the next one of its chain. Raises `BrokenTrailError`, which names the link.

    `before` is the record before it in its chain, None where it is the first: then, where the chain `is_whole`, it
    must be the first that was ever written. `lineages` are those that the node was in before: a process that has not
    seen yet that a person took another one may tell of the old one behind that.
    """
    entry = _parsed(raw, before, place)
    chain = entry.chain
    expected = (before.seq if before else 0) + 1
    if before is not None and entry.seq <= before.seq:
        raise _repeated(entry, before, place)
    if entry.seq != expected and (before is not None or is_whole):
        missing = f"{expected}" if entry.seq == expected + 1 else f"{expected} to {entry.seq - 1}"
        raise _broken(place, chain, expected, "gap", f"records are missing: {missing}", found=f"record {entry.seq}")
    if entry.seq == expected and entry.prev != (before.hash if before else BEGINNING):
        raise _broken(
            place, chain, entry.seq, "wrong-prev", "it is not linked to the record before it: one of them was replaced"
        )
    if before is not None and entry.lineage not in (before.lineage, *lineages) and entry.what not in ANEW:
        raise _broken(
            place,
            chain,
            entry.seq,
            "other-lineage",
            "it tells of another lineage, and no record of how the node came there",
            expected=f"lineage {before.lineage}",
            found=f"lineage {entry.lineage}",
        )
    return Checked(entry, is_proven(entry, key_of))


def _parsed(raw: bytes, before: Link | None, place: Place) -> Entry:
    chain, number = (before.chain, before.seq + 1) if before else ("", 1)
    try:
        entry = parse_entry(raw)
    except MalformedError as exc:
        raise _broken(
            place, chain, number, "altered", f"it is no audit record: {exc.message}", found=exc.found
        ) from exc
    if entry.place != place:
        raise _broken(
            place,
            entry.chain,
            number,
            "other-node",
            "it is another's record",
            expected=f"node {place.node} of cluster {place.cluster}",
            found=f"node {entry.place.node} of cluster {entry.place.cluster}",
        )
    return entry


def _repeated(entry: Entry, before: Link, place: Place) -> BrokenTrailError:
    found = f"record {entry.seq} again, behind record {before.seq}"
    if entry.seq < before.seq:
        return _broken(
            place, entry.chain, entry.seq, "reordered", "it stands behind a later one, or again", found=found
        )
    if entry.link == before:
        return _broken(place, entry.chain, entry.seq, "repeated", "it stands there twice", found=found)
    return _broken(place, entry.chain, entry.seq, "two-histories", "there are two records of this number", found=found)


def is_proven(entry: Entry, key_of: KeyOf) -> bool:
    """Tell whether a record's signature was checked; False where its key is not at hand.

    Raises `BrokenTrailError` for a signature that is not the key's.
    """
    found = key_of(entry.kid)
    if found is None:
        return False
    if found.alg != entry.alg or not crypto.verify(found.key, found.alg, entry.signed, entry.signature):
        raise _broken(
            entry.place,
            entry.chain,
            entry.seq,
            "altered",
            "its signature is not its key's",
            expected=f"a signature by {entry.kid}",
        )
    return True


def _broken(
    place: Place, chain: str, seq: int, wrong: str, what: str, *, expected: str = "", found: str = ""
) -> BrokenTrailError:
    of = f" of chain {chain[:_SHOWN]}" if chain else ""  # a node that was cloned or renamed has several
    return BrokenTrailError(
        f"the audit trail of node {place.node} is broken at record {seq}{of}: {what}",
        node=place.node,
        chain=chain,
        seq=seq,
        wrong=wrong,
        expected=expected,
        found=found,
        fix=_FIX,
    )


def describe_head(link: Link) -> str:
    """Return a chain's last record as people compare it."""
    return f"chain {link.chain}, record {link.seq}, {b64url_encode(link.hash)}"
