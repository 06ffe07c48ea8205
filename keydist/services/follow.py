"""Following the store: look, accept, persist, then tell; again at each notice, each reconnection and each resync.

Whatever the store does, the last good keyset stays in use, and looking never ends. Level-triggered: each look judges
the whole of what is there, so that a lost, late or repeated notice changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from keydist.core.restart import InStore, Role
from keydist.errors import ConflictError, KeydistError, TransientError, UnconfirmedError
from keydist.services.defect import defect
from keydist.services.pace import Backoff, jittered

if TYPE_CHECKING:
    from typing import NoReturn

    from keydist.ports import Entropy, Notifier
    from keydist.services.from_disk import Outcome
    from keydist.services.node import Node
    from keydist.services.present import Present
    from keydist.services.reconcile import Reconciler

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_REFUSED_PAUSE: Final = 15.0
_SPREAD: Final = 1 / 3
_LEADER_RESYNC: Final = 5.0
"""Who may put a lost keyset back looks so often: not every loss is told, nor ends a connection."""
_LOOK_SECONDS: Final = 90.0
"""What one look takes at the most, where servers take connections and do not answer."""
_ANSWERED: Final = frozenset(InStore) - {InStore.UNREACHABLE, InStore.FORBIDDEN}


async def follow(
    node: Node,
    reconciler: Reconciler,
    present: Present,
    *,
    entropy: Entropy,
    notifier: Notifier,
    resync: float,
) -> NoReturn:
    """Look at the store for ever; `resync` is the mean of the seconds between two looks where nothing is heard.

    For a leader it is five seconds at most.
    """
    resync = min(resync, _LEADER_RESYNC) if node.role is Role.LEADER else resync
    silent = Backoff(entropy, first=_FIRST_PAUSE, most=_LONGEST_PAUSE)
    refused = Backoff(entropy, first=_LONGEST_PAUSE, most=_REFUSED_PAUSE)
    while True:
        pause = await look(node, reconciler, present)
        if pause is None:
            silent.reset()
            refused.reset()
            seconds = jittered(entropy, resync, spread=_SPREAD)
        else:
            seconds = min(resync, (silent if pause else refused).pause())
        if present.held is None:
            notifier.waiting(_why(present), seconds_left=seconds + _LOOK_SECONDS)
        await node.store.wait_for_notice(seconds)


async def look(node: Node, reconciler: Reconciler, present: Present) -> bool | None:
    """Look at the store once, now; return None where it answered, else whether trying again soon may help."""
    async with present.writing:
        pause = await _look(reconciler, present)
    present.turned = node.clock.monotonic()
    return pause


async def _look(reconciler: Reconciler, present: Present) -> bool | None:
    soon = True
    try:
        outcome = await _attempted(reconciler)
    except TransientError as exc:
        alarm: KeydistError = exc
    except KeydistError as exc:
        alarm, soon = exc, False
    except Exception as exc:  # noqa: BLE001 - a defect, whoever provokes it, does not stop a node
        alarm, soon = defect(exc, while_="the store was looked at"), False
    else:
        present.take(reconciler.local, found=outcome.found, how=outcome.how)
        present.alarm("store", *outcome.alarms)
        if outcome.found in _ANSWERED:
            return None
        # Where any replica answers, nothing is missed meanwhile: a region that is cut off does not ask all the time.
        return outcome.found is InStore.UNREACHABLE and not _is_unconfirmed(outcome)
    present.take(reconciler.local, found=None, how="from-disk")
    damage = reconciler.local.damage
    present.alarm("store", alarm, *(() if damage is None else (damage,)))
    return soon


async def _attempted(reconciler: Reconciler) -> Outcome:
    """Judge the store by what is on disk; once more where a command beside this agent, or another node, was faster."""
    reconciler.refresh()
    try:
        return await reconciler.attempt()
    except ConflictError:
        reconciler.refresh()
        return await reconciler.attempt()


def _is_unconfirmed(outcome: Outcome) -> bool:
    return any(isinstance(alarm, UnconfirmedError) for alarm in outcome.alarms)


def _why(present: Present) -> str:
    return next((alarm.message for alarm in present.alarms), "waiting for a key")
