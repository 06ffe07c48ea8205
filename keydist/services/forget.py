"""Removing the record of a node that is gone: refused while the node lives, for its next record would bring it back."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from keydist.core.fleet import HEARTBEATS
from keydist.core.record import Record, open_record
from keydist.errors import KeydistError, NodeLivesError
from keydist.services.living import living

if TYPE_CHECKING:
    from collections.abc import Callable

    from keydist.ports import NodeRecords
    from keydist.services.node import Node

_POLL_SECONDS: Final = 0.5
_READ_AGAIN: Final = 5.0


async def forget(
    node: Node,
    records: NodeRecords,
    name: str,
    *,
    watch: float,
    told: Callable[[str, float], None],
    agrees: Callable[[str], bool],
) -> bool | None:
    """Remove a node's record and tell whether there was one; None where a person does not agree.

    Three of its heartbeats must pass without a new record; `watch` is the heartbeat (seconds) of a node whose record
    cannot be opened, 0 for not looking at all. `told` hears what is waited for and the seconds left, `agrees` why it
    may go. Raises `NodeLivesError`, and the errors of `NodeRecords`.
    """
    raw = (await records.read_all()).get(name)
    if raw is None:
        return False
    why = "Whether it lives was not looked at."
    if watch:
        why = await _watched(node, records, name, raw, heartbeat=watch, told=told)
    return await records.forget(name) if agrees(why) else None


async def _watched(
    node: Node, records: NodeRecords, name: str, raw: bytes, *, heartbeat: float, told: Callable[[str, float], None]
) -> str:
    """Return why a node may be forgotten. Raises `NodeLivesError` where it writes or answers."""
    record, clock = _opened(node, name, raw), node.clock
    if record is not None and record.leaving:
        return "It said that it stops."
    seconds = HEARTBEATS * (record.heartbeat if record is not None else heartbeat)
    end, latest = clock.monotonic() + seconds, {name: raw}
    records.listen(heard=latest.__setitem__, answer=None)
    if record is not None and await _answers(node, records, record):
        raise _lives(name)
    read_at = clock.monotonic()
    while (left := end - clock.monotonic()) > 0:
        told(f"watching whether node {name} lives", left)
        await clock.sleep(min(_POLL_SECONDS, left))
        if clock.monotonic() >= min(end, read_at + _READ_AGAIN):  # what was not told to this user is read
            latest |= await records.read_all()
            read_at = clock.monotonic()
        if latest[name] != raw and _is_newer(_opened(node, name, latest[name]), record):
            raise _lives(name)
    return f"It wrote nothing for {seconds:g} s."


def _opened(node: Node, name: str, raw: bytes) -> Record | None:
    demands = node.demands
    with suppress(KeydistError):
        return open_record(raw, node=name, place=demands.place, tokens=demands.tokens)
    return None


async def _answers(node: Node, records: NodeRecords, record: Record) -> bool:
    demands = node.demands
    with suppress(KeydistError):
        answers = await living(records, place=demands.place, tokens=demands.tokens)
        return any(answer.node == record.node and _is_newer(answer, record) for answer in answers)
    return False


def _is_newer(found: Record | None, before: Record | None) -> bool:
    """Tell whether a record was written after another; of what cannot be opened, other bytes are new ones."""
    if found is None or before is None:
        return True
    if (found.instance, found.machine) != (before.instance, before.machine):
        return not found.leaving
    return found.counter > before.counter and not found.leaving


def _lives(name: str) -> NodeLivesError:
    return NodeLivesError(
        f"node {name} lives: its next record would bring it back",
        expected="no record of it for three heartbeats",
        found="a new one",
        fix="stop keydist on it first; or forget it all the same: --force",
    )
