"""What programs are told of a node: the members of `keydist status --json`, from values."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from keydist.services.status import schedule

if TYPE_CHECKING:
    from keydist.core.keyset import Key
    from keydist.core.local import Local
    from keydist.core.notes import Notes
    from keydist.core.restart import InStore
    from keydist.errors import KeydistError


class Who(NamedTuple):
    """Which node it is."""

    node: str
    role: str
    cluster: str


def describe_key(key: Key) -> dict[str, object]:
    """Return what may be shown of a key: never its material."""
    times = {name: getattr(key, name) for name in ("created", "published", "activated", "retired", "verify_until")}
    return {"kid": key.kid, "use": key.use, "alg": key.alg, "state": key.state.value} | {
        name: at for name, at in times.items() if at is not None
    }


def node_facts(
    who: Who, local: Local, notes: Notes, *, found: InStore | None, alarms: tuple[KeydistError, ...], now: int
) -> dict[str, object]:
    """Return how a node stands; `found` is what the store holds, in its judgement (None: nobody asked)."""
    rotation = schedule(local.held, notes, now=now) if local.held else None
    keyset = local.held.keyset if local.held else None
    return {
        **who._asdict(),
        "lineage": keyset.lineage if keyset else None,
        "epoch": keyset.epoch if keyset else None,
        "kid": keyset.active.kid if keyset else None,
        "keys": [describe_key(key) for key in keyset.keys] if keyset else [],
        "token": local.held.token_id if local.held else None,
        "confirmed": local.confirmation.at if local.confirmation else None,
        "store": found.value if found else None,
        "rotation": rotation._asdict() if rotation else None,
        "rehearsed": notes.rehearsed,
        "alarms": [alarm.as_json() for alarm in alarms],
        "healthy": not alarms,
    }
