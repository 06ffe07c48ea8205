"""What is said of the fleet: a summary above its table, below it what to do; and all of it for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from keydist.core.fleet import NodeState
from keydist.core.strict import b64url_encode
from keydist.services.survey import UNHEARD, UNREADABLE

if TYPE_CHECKING:
    from keydist.core.accept import Held
    from keydist.services.survey import Look, Row

_SHORT: Final = 8
_NAMED: Final = 6


def _names(rows: list[Row]) -> str:
    names = list(dict.fromkeys(row.name for row in rows))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def summary(look: Look, held: Held, *, title: str) -> Iterator[tuple[str, str]]:
    """Yield the first lines, each with its style."""
    keyset = held.keyset
    counts = ", ".join(f"{count} {state}" for state, count in look.states().items())
    how = " at first sight" if look.pending else ""
    yield f"{title}: {len(look.rows)} node(s), {len(look.living)} live{how}{f': {counts}' if counts else ''}", "bold"
    lacking = [row for row in look.living if row.record is not None and row.record.digest != held.digest]
    epoch = f"epoch {keyset.epoch} (key {keyset.active.kid[:_SHORT]}, token {held.token_id})"
    if lacking:
        yield f"{epoch}: not used by {_names(lacking)}", "yellow"
    elif look.living:
        yield f"{epoch}: every live node uses it", "" if look.pending else "green"
    else:
        yield f"{epoch}: no live node is known", "red"


def hints(look: Look, held: Held) -> Iterator[str]:
    """Yield what to do about each state that is not good."""
    by_state: dict[str, list[Row]] = {}
    for row in look.rows:
        by_state.setdefault(row.state, []).append(row)
    for state, rows in by_state.items():
        if state == UNREADABLE:
            yield from (f"unreadable {row.name}: {row.why}" for row in rows[:_NAMED])
        advice = _ADVICE.get(state)
        if advice is not None:
            text = advice(rows, held)
            yield f"{state} {_names(rows)}: {text}"
    if look.pending:
        names = ", ".join(look.pending[:_NAMED]) + (" ..." if len(look.pending) > _NAMED else "")
        yield f"not heard yet: {names}; a first sight does not tell who lives from who was killed"
    if not look.living:
        yield "nobody lives: is keydist agent running on any node? systemctl status keydist"


def _behind(rows: list[Row], _held: Held) -> str:
    alarmed = any(row.record is not None and row.record.alarms for row in rows)
    why = "their alarms say why" if alarmed else "it follows within a minute"
    return f"{why}; if it stays so, there: keydist status"


def _old_token(rows: list[Row], held: Held) -> str:
    without = [row for row in rows if row.record is not None and held.token_id not in row.record.tokens]
    if not without:
        return "the new token is there, the keyset not yet; if it stays so, there: keydist status"
    return (
        f"put token {held.token_id} into the token file of {_names(without)}, then: systemctl restart keydist"
        " (or kill -HUP the agent)"
    )


def _gone(rows: list[Row], _held: Held) -> str:
    return (
        "is the machine up, does it reach NATS? there: systemctl status keydist;"
        f" where it is gone for good: keydist node forget {rows[0].name}"
    )


_ADVICE: Final[dict[str, Callable[[list[Row], Held], str]]] = {
    NodeState.BEHIND.value: _behind,
    NodeState.OLD_TOKEN.value: _old_token,
    NodeState.SILENT.value: _gone,
    UNHEARD: lambda rows, held: f"a heartbeat was missed, after three it counts as silent; {_gone(rows, held)}",
    NodeState.ALARMED.value: lambda _rows, _held: "there: keydist status; the codes are in docs/alarms.md",
    NodeState.AHEAD.value: lambda _rows, _held: (
        "a later epoch than this node's. Here: keydist bootstrap; where the store lost it, there:"
        " keydist store republish"
    ),
    NodeState.DOUBLE.value: lambda _rows, _held: (
        "two instances under one name. Give each node a name of its own (node:); on a cloned machine: keydist reset"
    ),
    NodeState.FORKED.value: lambda _rows, _held: (
        "another history than this node's. Compare both: keydist store resolve --keep local --dry-run"
    ),
    UNREADABLE: lambda _rows, _held: (
        "compare the token files: keydist token inspect; where the node is gone for good: keydist node forget NAME"
    ),
}


def row_facts(row: Row) -> dict[str, object]:
    """Return one row as `--json` tells it; times in unix seconds, what is not known null."""
    record = row.record
    known: dict[str, object] = dict.fromkeys(_MEMBERS)
    if record is not None:
        known |= {
            "epoch": record.epoch,
            "kid": record.kid,
            "role": record.role.value,
            "token": record.token,
            "tokens": list(record.tokens),
            "lineage": record.lineage,
            "digest": b64url_encode(record.digest),
            "instance": record.instance,
            "heartbeat": record.heartbeat,
            "persisted": record.persisted,
            "loaded": record.loaded,
            "minted": {kid: minted._asdict() for kid, minted in record.minted.items()},
            "version": record.version,
            "alarms": list(record.alarms),
            "leaving": record.leaving,
        }
    error = row.why.as_json() if row.why is not None else None
    return (
        {"node": row.name, "state": row.state, "last_seen": row.seen, "written": row.written} | known | {"error": error}
    )


_MEMBERS: Final = (
    "epoch", "kid", "role", "token", "tokens", "lineage", "digest", "instance", "heartbeat", "persisted", "loaded",
    "minted", "version", "alarms", "leaving",
)  # fmt: skip
