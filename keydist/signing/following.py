"""The keyset on disk as a process sees it that signs or verifies: the disk leads, memory follows by itself.

At most every 100 ms the disk is asked whether it changed, for the price of two stats; what changed is loaded by the
disk's own rules, the floor among them. Readers share one immutable snapshot.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from threading import Lock
from typing import Final, Generic, NamedTuple, TypeVar

from keydist.core.accept import Demands, Held
from keydist.core.lease import Lease, lease_of
from keydist.core.local import Local
from keydist.core.token import BootstrapToken
from keydist.errors import InternalError, KeydistError, NotYetError
from keydist.ports import Clock, KeysetDisk
from keydist.services.from_disk import meet_demands

T = TypeVar("T")

Tokens = tuple[BootstrapToken, ...] | Callable[[], tuple[BootstrapToken, ...]]
"""The tokens that open a sealed keyset, or what reads them: that is asked at each load."""

LOOK_SECONDS: Final = 0.1
_RETRY_SECONDS: Final = 1.0
"""How long after a failure the same state of the disk is loaded again: it may cost a lot, and helps rarely."""


class Snapshot(NamedTuple, Generic[T]):
    """What was made of a keyset, the kids that are never to be used, and why nothing later could be loaded."""

    view: T
    revoked: frozenset[str]
    trouble: KeydistError | None = None


class Following(Generic[T]):
    """Follows a disk; `build` makes a view of a keyset, and may take over what the one before (or None) has parsed."""

    def __init__(
        self,
        disk: KeysetDisk,
        clock: Clock,
        tokens: Tokens,
        demands: Demands | None,
        build: Callable[[Held, Lease | None, T | None], T],
    ) -> None:
        self._disk = disk
        self._clock = clock
        self._tokens = tokens
        self._demands = demands
        self._build = build
        self._snapshot: Snapshot[T] | None = None
        self._why: KeydistError = _nothing()
        self._begin()

    def _begin(self) -> None:
        self._lock = Lock()
        self._look_at = self._load_at = -math.inf
        self._mark: object = None
        self._pid = os.getpid()  # last: another thread of a child must not take the lock of before

    def current(self) -> Snapshot[T]:
        """Return the snapshot, at most 100 ms old. Raises the `KeydistError` that says why there is none."""
        if self._clock.monotonic() >= self._look_at:
            self._begin_in_child()
            with self._lock:
                if self._clock.monotonic() >= self._look_at:  # unless another thread looked meanwhile
                    self._look()
        snapshot = self._snapshot
        if snapshot is None:
            raise self._why.with_traceback(None)  # it is raised many times, and would remember each
        return snapshot

    def look(self) -> None:
        """Look at the disk now."""
        self._begin_in_child()
        with self._lock:
            self._look()

    def _begin_in_child(self) -> None:
        """Let go of a lock that a thread of the parent may have held at the fork: here, nobody would release it."""
        if os.getpid() != self._pid:
            self._begin()

    def _look(self) -> None:
        mark, now = self._disk.mark(), self._clock.monotonic()  # before loading: a change meanwhile is seen next time
        if mark != self._mark or now >= self._load_at:
            is_settled = self._load()
            # Only now: what interrupted the loading, an exception of a signal's handler, must not be the end of it.
            self._mark, self._load_at = mark, math.inf if is_settled else now + _RETRY_SECONDS
        self._look_at = now + LOOK_SECONDS

    def _load(self) -> bool:
        """Load and take what is on disk; tell whether that settles it for as long as nothing changes."""
        try:
            local = self._disk.load(self._tokens() if callable(self._tokens) else self._tokens)
            if self._demands is not None:
                local = meet_demands(local, self._demands)
            if local.held is not None:
                self._take(local, local.held)
                return True
        except KeydistError as exc:
            self._keep(exc)
            return False
        except Exception as exc:  # noqa: BLE001 - a defect does not stop a node that has a verified keyset
            self._keep(InternalError("something unexpected happened: a defect in keydist", found=type(exc).__name__))
            return False
        if local.damage is None and local.stamp is not None:
            # Emptied on purpose (keydist reset), as no accident does: what was forgotten is not used any more.
            self._snapshot, self._why = None, _nothing()
            return True
        self._keep(local.damage or _nothing(), local.floor.revoked if local.floor else frozenset())
        return False

    def _take(self, local: Local, held: Held) -> None:
        before = self._snapshot
        view = self._build(held, lease_of(held, local.confirmation), before.view if before else None)
        self._snapshot = Snapshot(view=view, revoked=local.floor.revoked if local.floor else frozenset())

    def _keep(self, trouble: KeydistError, revoked: frozenset[str] = frozenset()) -> None:
        """Keep the last good keyset, whatever is wrong with the disk, with what the floor has seen revoked since.

        It was verified, and what damages a disk (a rollback or a fork included) cannot make it less true. Nothing
        renews its lease from here on, so minting ends by itself; verifying has no end (P3).
        """
        self._why = trouble
        if self._snapshot is not None:
            view, known, _ = self._snapshot
            self._snapshot = Snapshot(view=view, revoked=known | revoked, trouble=trouble)


def _nothing() -> NotYetError:
    return NotYetError(
        "this node holds no keyset yet", expected="a verified keyset", found="nothing", fix="get one: keydist bootstrap"
    )
