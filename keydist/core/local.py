"""What a node's disk holds, as everything above the disk sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from keydist.core.accept import Floor, Held
    from keydist.errors import KeydistError


class Confirmation(NamedTuple):
    """When (unix seconds, this node's clock) a leader read was sent that confirmed this epoch."""

    epoch: int
    digest: bytes
    at: int


class Start(NamedTuple):
    """Who runs on a state directory: the instance that its first start made, and the number of this start."""

    instance: str
    number: int


class Local(NamedTuple):
    """What a node's disk holds.

    `held` is verified or None; `floor` is the effective floor; `damage` says why signs of a keyset are there but
    none can be used, and `quarantine` whether it may be moved aside. `alarms` are failures that stop nothing.
    `stamp` changes with every installation: how `install` knows that nobody came in between.
    """

    held: Held | None = None
    floor: Floor | None = None
    damage: KeydistError | None = None
    quarantine: bool = False
    alarms: tuple[KeydistError, ...] = ()
    confirmation: Confirmation | None = None
    stamp: bytes | None = None
