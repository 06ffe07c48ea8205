"""Asking the living before a first key: no node that answers may hold a keyset of this cluster's place.

An answer that cannot be opened forbids a first key too: a node that has only a sign of a keyset gives one. One that
names another cluster or bucket does not concern it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from keydist.core.envelope import Place, parse_envelope
from keydist.core.record import RECORD_TYPE, open_record, record_place
from keydist.errors import KeydistError, RefusedGenesisError, StoreTimeoutError

if TYPE_CHECKING:
    from keydist.core.record import Record
    from keydist.core.token import BootstrapToken
    from keydist.ports import NodeRecords

WHO_SECONDS: Final = 2.0
_FIX: Final = (
    "start this leader once that node's keyset is in the store: on a leader that has it, keydist store republish;"
    " or restore a backup here: keydist store restore FILE"
)
_FIX_UNOPENED: Final = (
    "run keydist status on that node: it holds another token, or the rest of a keyset; restore a backup here (keydist"
    " store restore FILE), or, where that rest is of no use, stop it and forget it there: keydist reset"
)


async def refuse_where_living(records: NodeRecords, *, place: Place, tokens: tuple[BootstrapToken, ...]) -> None:
    """Ask who lives and return where nobody does that holds a keyset.

    Raises `RefusedGenesisError`, and the errors of `NodeRecords`: silence where somebody listens is one.
    """
    for answer in await records.ask_living(WHO_SECONDS):
        name = _asked_here(answer, place)
        if name is not None:
            raise _refusal(answer, name, place, tokens)


async def living(records: NodeRecords, *, place: Place, tokens: tuple[BootstrapToken, ...]) -> tuple[Record, ...]:
    """Ask who lives and return the records that can be opened; none where nobody answers.

    Raises the errors of `NodeRecords` but for `StoreTimeoutError`.
    """
    found = []
    try:
        answers = await records.ask_living(WHO_SECONDS)
    except StoreTimeoutError:
        return ()
    for answer in answers:
        name = _asked_here(answer, place)
        try:
            found.append(open_record(answer, node=name or "", place=place, tokens=tokens))
        except KeydistError:
            continue
    return tuple(found)


def _asked_here(answer: bytes, place: Place) -> str | None:
    """Return the name that an answer's header gives ("" where it has none); None where it concerns another place."""
    try:
        header = parse_envelope(answer, typ=RECORD_TYPE).header
    except KeydistError:
        return ""
    folder = record_place(place, "").location
    if header.cluster != place.cluster or not header.location.startswith(folder):
        return None
    return header.location.removeprefix(folder)


def _refusal(answer: bytes, name: str, place: Place, tokens: tuple[BootstrapToken, ...]) -> RefusedGenesisError:
    try:
        record = open_record(answer, node=name, place=place, tokens=tokens)
    except KeydistError as exc:
        return RefusedGenesisError(
            "no key is generated: a live node answers, and its answer cannot be opened",
            expected="no answer",
            found=exc.message,
            fix=_FIX_UNOPENED,
        )
    return RefusedGenesisError(
        f"no key is generated: node {record.node} lives and holds one",
        expected="no live node with a keyset",
        found=f"epoch {record.epoch} of lineage {record.lineage}",
        fix=_FIX,
    )
