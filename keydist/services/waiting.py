"""What a command waits for: acknowledgements, and certainty that a node lives before it stops a command.

A node whose record is read for the first time counts as living, although it may have died days ago. Before such a
node stops anything it must be heard again, or its three heartbeats must pass.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.core.fleet import HEARTBEATS, holds
from keydist.errors import ForbiddenError, KeydistError, TransientError
from keydist.services.fleet import is_ahead
from keydist.services.living import living

if TYPE_CHECKING:
    from collections.abc import Callable

    from keydist.core.accept import Held
    from keydist.core.record import Record
    from keydist.services.command import Command
    from keydist.services.fleet import FleetReader

_POLL_SECONDS: Final = 0.2
_READ_AGAIN: Final = 5
_NAMED: Final = 5


class Acknowledgement(NamedTuple):
    """Who did not follow in time, who did, and why that could not be seen."""

    lacking: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    blind: KeydistError | None = None


async def read_fleet(command: Command, reader: FleetReader) -> None:
    """Read every record. Raises the errors of `NodeRecords`; a `ForbiddenError` says what is missing."""
    try:
        await reader.refresh()
    except ForbiddenError as exc:
        bucket = f"{command.node.demands.place.location.split('/')[1]}-nodes"
        raise ForbiddenError(
            f"this user may not read the nodes' records: {exc.message}",
            expected=f"permission to read bucket {bucket}",
            found=exc.found,
            fix="who has the keys is not known without them, so nothing was done; "
            "compare the leader's permissions with: keydist store config",
        ) from exc


async def until(
    command: Command, reader: FleetReader, missing: Callable[[], tuple[str, ...]], *, what: str, seconds: float
) -> tuple[str, ...]:
    """Read the fleet until `missing()` names nobody, and return whom it names after `seconds`.

    A node that is not heard of for three of its heartbeats no longer counts: `missing` looks at the living. Nobody is
    named only right after the records were read: who was merely not heard must not count as dead. Raises what
    `missing` raises, and the errors of `NodeRecords` where at the end they could not be read.
    """
    clock = command.node.clock
    end, turn = clock.monotonic() + seconds, 0
    command.records.listen(heard=reader.hear, answer=None)
    while True:
        failure: TransientError | None = None
        if turn % _READ_AGAIN == 0:
            try:
                await read_fleet(command, reader)
            except TransientError as exc:  # the next reading may succeed
                failure = exc
        names, left = missing(), end - clock.monotonic()
        if not names and turn % _READ_AGAIN:
            turn = 0
            continue
        if failure is None and not names:
            return names
        if left <= 0:
            if failure is not None:
                raise failure
            return names
        command.told(f"{what}: {_few(names)}" if names else failure.message if failure else what, left)
        await clock.sleep(min(_POLL_SECONDS, max(0.01, left)))
        turn += 1


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


async def surely(command: Command, reader: FleetReader, chosen: Callable[[], tuple[Record, ...]]) -> tuple[Record, ...]:
    """Return the live records that `chosen()` selects, once it is known that their nodes live.

    That takes no time where there are none, and at most three heartbeats; `reader` was read before.
    """
    clock, first = command.node.clock, {_who(record): record.counter for record in chosen()}
    end, turn = clock.monotonic() + HEARTBEATS * command.heartbeat + 1, 0
    if first:
        command.records.listen(heard=reader.hear, answer=None)
        await hear_the_living(command, reader)
    while True:
        found = chosen()
        silent = [record for record in found if record.counter <= first.setdefault(_who(record), record.counter)]
        left = end - clock.monotonic()
        if not silent or left <= 0:
            return found
        names = tuple(sorted({record.node for record in silent}))
        command.told(f"looking whether these nodes live: {_few(names)}", left)
        await clock.sleep(min(_POLL_SECONDS, left))
        turn += 1
        if turn % _READ_AGAIN == 0:
            with suppress(TransientError):  # the next reading may succeed; it is listened to as well
                await read_fleet(command, reader)


async def hear_the_living(command: Command, reader: FleetReader) -> None:
    """Ask who lives, for records of this moment. Nobody must answer, so what fails is no failure."""
    demands = command.node.demands
    with suppress(KeydistError):
        for record in await living(command.records, place=demands.place, tokens=demands.tokens):
            reader.see(record)


def _who(record: Record) -> tuple[str, str, str]:
    return record.node, record.instance, record.machine


async def check_nobody_ahead(command: Command, held: Held, reader: FleetReader) -> None:
    """Refuse to write while a live node shows a later epoch or another lineage.

    Raises `OutdatedError`, `ForkError`.
    """
    for record in await surely(command, reader, lambda: reader.ahead(held)):
        raise is_ahead(record, held)


async def acknowledged(
    command: Command, held: Held, *, without: frozenset[str] = frozenset(), seconds: float
) -> Acknowledgement:
    """Wait until every live node says that it uses `held` or a later epoch; nodes in `without` are not waited for.

    Raises nothing of the fleet's: the change is made, whoever can be seen.
    """
    return await followed(
        command,
        lambda record: holds(record, held) or _is_later(record, held),
        without=without,
        what=f"waiting for epoch {held.keyset.epoch} at",
        seconds=seconds,
    )


def _is_later(record: Record, held: Held) -> bool:
    return record.lineage == held.keyset.lineage and record.epoch > held.keyset.epoch


async def moved(
    command: Command, held: Held, *, without: frozenset[str] = frozenset(), seconds: float
) -> Acknowledgement:
    """Wait until every live node uses the token of `held`, as `acknowledged` does."""
    return await followed(
        command,
        lambda record: record.token == held.token_id or _is_later(record, held),
        without=without,
        what=f"waiting for token {held.token_id} at",
        seconds=seconds,
    )


async def followed(
    command: Command, has_followed: Callable[[Record], bool], *, without: frozenset[str], what: str, seconds: float
) -> Acknowledgement:
    """Wait until `has_followed` is true of every live record, but for those of nodes in `without`."""
    reader = command.reader()

    def missing() -> tuple[str, ...]:
        late = {record.node for record in reader.live() if not has_followed(record)}
        return tuple(sorted(late - without))

    blind: KeydistError | None = None
    try:
        await until(command, reader, missing, what=what, seconds=seconds)
    except KeydistError as exc:
        blind = exc
    done = {record.node for record in reader.live() if has_followed(record)}
    return Acknowledgement(lacking=missing(), by=tuple(sorted(done)), blind=blind)
