"""Ending with a verified keyset on disk, or saying why not, within a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keydist.errors import KeydistError, TransientError
from keydist.services.from_disk import Outcome, start_from_disk
from keydist.services.reconcile import Genesis, Reconciler

if TYPE_CHECKING:
    from keydist.core.local import Local
    from keydist.ports import Notifier, Retry
    from keydist.services.node import Node


async def bootstrap(
    node: Node,
    local: Local,
    *,
    genesis: Genesis,
    retry: Retry,
    notifier: Notifier,
    seconds: float,
) -> Outcome:
    """Bring a node from what its disk holds (`local`) to a verified keyset on disk, within `seconds`.

    Raises the `KeydistError` that says why there is no keyset.
    """
    work = Reconciler(node, local, genesis)

    def told(failure: KeydistError, seconds_left: float) -> None:
        notifier.waiting(failure.message, seconds_left=max(0.0, seconds_left))

    try:
        return await retry(
            work.attempt, deadline=node.clock.monotonic() + seconds, pause=node.store.wait_for_notice, told=told
        )
    except TransientError as exc:
        if work.local.held is not None:
            return start_from_disk(node.disk, work.local, exc, now=node.clock.now())
        raise work.gave_up(exc, seconds) from exc
