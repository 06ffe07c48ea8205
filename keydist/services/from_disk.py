"""Starting from a verified keyset on disk: what needs neither the store nor an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from keydist.errors import DiskError, ForkError, KeydistError, RollbackError, TransientError, WrongTokenError

if TYPE_CHECKING:
    from keydist.core.accept import Demands, Held
    from keydist.core.local import Local
    from keydist.core.restart import InStore
    from keydist.ports import KeysetDisk


class Outcome(NamedTuple):
    """How a node got its keyset, and what is wrong although it has one.

    `how` is generated, adopted, retrieved, unchanged, from-disk or republished; `found` is what the store held in the
    end, None where it was not asked.
    """

    how: str
    held: Held
    alarms: tuple[KeydistError, ...] = ()
    changed: bool = False
    found: InStore | None = None


def start_from_disk(disk: KeysetDisk, local: Local, *alarms: KeydistError, now: int, how: str = "from-disk") -> Outcome:
    """Return the outcome of a start from a verified keyset on disk, after finishing what a crash left undone."""
    if local.held is None:
        msg = "there is no verified keyset on disk"
        raise ValueError(msg)
    late: tuple[KeydistError, ...] = ()
    try:
        disk.settle(local, now=now)
    except (DiskError, TransientError) as exc:
        late = (exc,)
    return Outcome(how=how, held=local.held, alarms=told_once((*alarms, *local.alarms, *late)))


def told_once(alarms: tuple[KeydistError, ...]) -> tuple[KeydistError, ...]:
    """Return the alarms without those that say again what one before them said."""
    found: dict[tuple[str, str], KeydistError] = {}
    for alarm in alarms:
        found.setdefault((alarm.code, alarm.message), alarm)
    return tuple(found.values())


def with_following(alarms: tuple[KeydistError, ...], local: Local, demands: Demands) -> tuple[KeydistError, ...]:
    """Return the alarms, and one more where this node's tokens do not open its own keyset.

    It starts all the same, but no later epoch reaches it. What the store holds may have said so already.
    """
    have = tuple(token.token_id for token in demands.tokens)
    told = any(isinstance(alarm, WrongTokenError) for alarm in alarms)
    if local.held is None or local.held.token_id in have or told:
        return alarms
    need = local.held.token_id
    return (
        *alarms,
        WrongTokenError(
            "this node does not hold the token of its own keyset: it cannot follow",
            have=have,
            need=need,
            fix=f"put the token with id {need} into the token file",
        ),
    )


def meet_demands(local: Local, demands: Demands) -> Local:
    """Return what a disk holds once this node's demands are put to it too.

    An epoch below the demanded one does not count. Raises `ForkError` for another lineage than the configured one.
    """
    if local.held is None:
        return local
    keyset = local.held.keyset
    if demands.lineage is not None and keyset.lineage != demands.lineage:
        raise ForkError(
            "the keyset on this node is of another lineage than the configured one",
            expected=f"lineage {demands.lineage}",
            found=f"lineage {keyset.lineage}",
            fix="correct lineage: in the configuration, or forget this node's state: keydist reset",
        )
    if keyset.epoch < demands.min_epoch:
        damage = RollbackError(
            "the keyset on this node is older than demanded",
            expected=f"epoch {demands.min_epoch} or later",
            found=f"epoch {keyset.epoch}",
            fix="start with NATS reachable and a newer epoch in the store",
        )
        return local._replace(held=None, damage=damage)
    return local
