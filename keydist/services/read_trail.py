"""Reading the audit trail: record by record, checking every chain, looking a JWT up."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.core.audit import Link, Place
from keydist.core.audit_chain import Verifying, check_next, describe_head, is_proven
from keydist.core.audit_record import parse_entry
from keydist.core.crypto import load_public
from keydist.core.jwk import parse_public_jwk
from keydist.core.strict import b64url_encode
from keydist.errors import BrokenTrailError, MalformedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from keydist.core.audit import Mint
    from keydist.core.audit_chain import KeyOf
    from keydist.core.audit_record import Entry
    from keydist.ports import PublicKeys, TrailJournal, TrailStream

_AT_ONCE: Final = 256


def kept_keys(keys: PublicKeys) -> KeyOf:
    """Return the look-up of the public keys that this node keeps; what is missing or altered is not at hand.

    Raises `UnsafeFileError`, `WrongUserError` and `DiskError` when it is used.
    """

    @cache
    def key_of(kid: str) -> Verifying | None:
        raw = keys.public_jwk(kid)
        try:
            alg, part = parse_public_jwk(raw or b"", kid)
        except MalformedError:
            return None
        return Verifying(load_public(part.spki), alg)

    return key_of


class Read(NamedTuple):
    """One record as it was read, whose subject it stood under, and what it says; None where it cannot be parsed."""

    node: str
    raw: bytes
    entry: Entry | None


async def in_stream(stream: TrailStream, *, node: str | None) -> AsyncIterator[Read]:
    """Yield what the stream holds, in its order. Raises the errors of `TrailStream`."""
    after = 0
    while (found := await stream.read(after=after, node=node)) is not None:
        after = found.sequence
        yield Read(found.node, found.record, _parsed(found.record))


async def in_journal(journal: TrailJournal, *, node: str) -> AsyncIterator[Read]:
    """Yield what a journal holds, up to the first record that is not behind the one before.

    `node` is whose it is; what a renamed node or a cloned directory wrote before stays under its name of then. Raises
    the errors of `TrailJournal`.
    """
    link: Link | None = None
    while records := journal.read_after(link, most=_AT_ONCE):
        for raw in records:
            entry = _parsed(raw)
            yield Read(node if entry is None else entry.place.node, raw, entry)
            if entry is None or not entry.follows(link):
                return  # a damaged journal: behind this, places mean nothing
            link = entry.link


def _parsed(raw: bytes) -> Entry | None:
    try:
        return parse_entry(raw)
    except MalformedError:
        return None


@dataclass(slots=True, kw_only=True)
class Found:
    """What was found of one node: its chains' last records, and the first broken link, behind which nothing counts.

    `unproven` records are signed by keys that are not at hand: whether they are genuine is not known.
    """

    node: str
    records: int = 0
    unproven: int = 0
    chains: dict[str, Link]
    broken: BrokenTrailError | None = None
    latest: str = ""
    lineages: set[str] = field(default_factory=set)


async def check(
    records: AsyncIterator[Read], *, cluster: str, key_of: KeyOf, is_whole: bool = True
) -> dict[str, Found]:
    """Return what is found of each node. `is_whole`: chains begin with their first record.

    Raises the errors of who reads.
    """
    nodes: dict[str, Found] = {}
    async for read in records:
        found = nodes.setdefault(read.node, Found(node=read.node, chains={}))
        found.records += 1
        if found.broken is None:
            try:
                _take(read, found, cluster=cluster, key_of=key_of, is_whole=is_whole)
            except BrokenTrailError as exc:
                found.broken = exc
    return nodes


def _take(read: Read, found: Found, *, cluster: str, key_of: KeyOf, is_whole: bool) -> None:
    chain = read.entry.chain if read.entry is not None else found.latest
    checked = check_next(
        read.raw,
        found.chains.get(chain),
        place=Place(cluster=cluster, node=read.node),
        key_of=key_of,
        is_whole=is_whole,
        lineages=found.lineages,
    )
    found.lineages.add(checked.entry.lineage)
    found.chains[chain] = checked.entry.link
    found.latest = chain
    found.unproven += not checked.is_proven


def compare(
    journal: TrailJournal, shipped: Link | None, found: Found | None, *, node: str
) -> tuple[int, BrokenTrailError | None]:
    """Return how many records of the last chain wait on this node, and what the stream lost or has otherwise.

    `shipped` is what the journal had noted before the stream was read. Raises the errors of `TrailJournal`.
    """
    links = found.chains if found is not None else {}
    if shipped is not None and _is_of(journal.find(shipped.chain, shipped.seq), node):
        there = links.get(shipped.chain)
        if there is None or there.seq < shipped.seq:
            return 0, _lost(node, shipped, there)
    last = journal.last()
    there = links.get(last.chain) if last is not None else None
    if last is None or there is None:
        return (last.seq if last is not None else 0), None
    mine = journal.find(there.chain, there.seq)
    if there.seq > last.seq or (mine is not None and parse_entry(mine).link.hash != there.hash):
        return 0, _differs(node, last, there)
    return last.seq - there.seq, None


def _is_of(raw: bytes | None, node: str) -> bool:
    """Tell whether a record is this node's, and not what it wrote under another name."""
    entry = None if raw is None else _parsed(raw)
    return entry is None or entry.place.node == node


def _differs(node: str, mine: Link, there: Link) -> BrokenTrailError:
    return BrokenTrailError(
        f"the stream holds another record {there.seq} of node {node} than its journal",
        node=node,
        chain=mine.chain,
        seq=min(mine.seq, there.seq),
        wrong="two-histories",
        expected=describe_head(mine),
        found=describe_head(there),
        fix="was the state directory restored, or does another node have this name?",
    )


def _lost(node: str, mine: Link, there: Link | None) -> BrokenTrailError:
    return BrokenTrailError(
        f"the stream lost records of node {node} that it had taken",
        node=node,
        chain=mine.chain,
        seq=(there.seq if there else 0) + 1,
        wrong="cut-short",
        expected=describe_head(mine),
        found=describe_head(there) if there else "nothing of this chain",
        fix="find out who deleted the stream or took it back; this node's journal has them: keydist audit --local",
    )


class Recorded(NamedTuple):
    """A record that tells of a JWT, and what it says of it; `is_proven` where its signature could be checked."""

    entry: Entry
    mint: Mint
    is_proven: bool


async def find_mint(records: AsyncIterator[Read], sha256: bytes, *, cluster: str, key_of: KeyOf) -> Recorded | None:
    """Return the record of this cluster that tells of a JWT, by its SHA-256; None where none does.

    A record whose signature is not its key's tells nothing, and one that cannot be checked only where none can be.
    Whether the chain around it is whole, `check` says. Raises the errors of who reads.
    """
    needle, unproven = b64url_encode(sha256).encode(), None
    async for read in records:
        entry = read.entry
        if needle not in read.raw or entry is None or entry.place != Place(cluster=cluster, node=read.node):
            continue
        mint = next((mint for mint in entry.minted if mint.sha256 == sha256), None)
        if mint is not None:
            with suppress(BrokenTrailError):
                found = Recorded(entry, mint, is_proven(entry, key_of))
                if found.is_proven:
                    return found
                unproven = unproven or found
    return unproven
