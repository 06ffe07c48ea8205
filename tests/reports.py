"""Reports as agents make them: a healthy leader with its fleet, a follower, alarms, no keyset, after a rotation."""

from __future__ import annotations

from dataclasses import replace

from keydist.core.accept import Held
from keydist.core.fleet import NodeState, NodeView
from keydist.core.keyset import Key, Revocation, State
from keydist.core.local import Confirmation
from keydist.core.record import Minted
from keydist.core.report import FleetReport, KeysetReport, Propagation, Report, keyset_report
from keydist.core.restart import InStore, Role
from keydist.core.rotation import Situation
from keydist.errors import HookFailedError, KeydistError, OverdueError, StoreLostError, UnreachableError
from keydist.services.acknowledged import BOUNDS
from tests.material import (
    DAY,
    NOW,
    Change,
    chain,
    enc_key,
    extend,
    hold,
    make_keyset,
    make_record,
    moved,
    notes_of,
    sig_key,
)

HOSTILE = "<script>alert(1)</script>\"'&\u202e\x00\x1b[31m"
"""Markup, quotes, a reversal of the direction of writing, a NUL and a terminal's escape."""


def _aged() -> Held:
    """Return a keyset with a past: two rotations lie behind it, and every state has its keys."""
    keys: list[Key] = []
    for use, make in (("sig", sig_key), ("enc", enc_key)):
        del use
        keys.append(
            replace(make("three", State.ACTIVE, now=NOW - 5 * DAY), published=NOW - 35 * DAY, created=NOW - 35 * DAY)
        )
        keys.append(make("four", State.NEXT, now=NOW - 5 * DAY))
        for name, back in (("two", 5),):
            key = replace(
                make(name, State.ACTIVE, now=NOW - 35 * DAY), published=NOW - 65 * DAY, created=NOW - 65 * DAY
            )
            keys.append(moved(key, State.RETIRED, now=NOW - back * DAY))
    return hold(make_keyset(7, keys=tuple(keys), issued=NOW - 5 * DAY))


AGED = _aged()


def of_keyset(held: Held = AGED, *, now: int = NOW, confirmed: int | None = NOW - 4) -> KeysetReport:
    """Return what a node says of a keyset that it has held for as long as that stands."""
    keys = held.keyset.keys
    notes = notes_of(
        held,
        at=held.keyset.issued,
        active={key.kid: key.activated or NOW for key in keys},
        next={key.kid: key.published or NOW for key in keys},
        retired={key.kid: key.retired or NOW for key in keys},
    )
    return keyset_report(
        Situation(held=held, notes=notes, now=now),
        confirmation=None if confirmed is None else Confirmation(held.keyset.epoch, held.digest, confirmed),
        loaded=held.keyset.issued + 1,
        minted={held.keyset.active.kid: Minted(jwts=41_812, last_expiry=now + DAY)},
    )


def of_fleet(held: Held = AGED, *, nodes: int = 20, **states: NodeState) -> FleetReport:
    """Return a fleet, some of it in other states: name with underscores → state."""
    rows = []
    for number in range(nodes):
        name = f"node-{number:02}"
        state = states.get(name.replace("-", "_"), NodeState.CURRENT)
        role = Role.LEADER if number < 3 else Role.FOLLOWER
        alarms = ("hook-failed",) if state is NodeState.ALARMED else ()
        epoch = held.keyset.epoch - (state is NodeState.BEHIND)
        record = make_record(held, node=name, role=role, version="0.1.0", alarms=alarms, epoch=epoch)
        rows.append(NodeView(record=record, age=400.0 if state is NodeState.SILENT else 3.0 + number % 7, state=state))
    counts = (2, 9, 7, 1, *(0 for _ in BOUNDS[3:]))
    return FleetReport(nodes=tuple(rows), unreadable=(), propagation=Propagation(BOUNDS, counts, 4.75, 0))


LEADER = Report(
    now=NOW,
    node="node-00",
    cluster="prod-eu1",
    role=Role.LEADER,
    version="0.1.0",
    issuer="https://keys.example.net",
    started=NOW - 12 * DAY,
    keyset=of_keyset(),
    alarms=(),
    store=InStore.SAME,
    looked=NOW - 2,
    rehearsed=NOW - 20 * DAY,
    republished=None,
    failures={"expired": 17, "kid-unknown": 2},
    fleet=of_fleet(),
)
FOLLOWER = replace(LEADER, node="node-12", role=Role.FOLLOWER, fleet=None, rehearsed=None, failures={}, issuer=None)
ALARMS: tuple[KeydistError, ...] = (
    OverdueError(
        "a rotation is overdue: its time came",
        phase="rotation",
        expected=f"a rotation since unix time {NOW - DAY}",
        found="nodes that have not acknowledged: node-07, node-11",
        fix="see who is behind: keydist status --fleet; then: keydist key rotate --dry-run",
    ),
    StoreLostError(
        "the store no longer holds the keyset of this node",
        expected="epoch 7",
        found="an emptied bucket",
        fix="a leader puts it back: keydist store republish",
    ),
    HookFailedError(
        "the hook reload-nginx fails: what it tells has an earlier keyset",
        expected="it to end with 0 in its time",
        fix="see hook-failed and hook-output in the log; it is tried again every few minutes",
    ),
)
ALARMED = replace(
    LEADER,
    alarms=ALARMS,
    store=InStore.EMPTIED,
    republished=NOW - 300,
    fleet=replace(
        of_fleet(
            node_07=NodeState.SILENT, node_11=NodeState.BEHIND, node_15=NodeState.ALARMED, node_04=NodeState.LEAVING
        ),
        unreadable=("node-99",),
    ),
)
NO_KEYSET = replace(
    FOLLOWER,
    keyset=None,
    store=InStore.UNREACHABLE,
    alarms=(UnreachableError("no server answers", found="nats://10.0.0.7:4222", fix="look at the network"),),
    started=NOW - 40,
    looked=NOW,
)
_ROTATED = extend(chain(3)[-1], Change.REVOKE_ACTIVE)
ROTATED = replace(
    LEADER,
    keyset=of_keyset(_ROTATED, now=_ROTATED.keyset.issued + 30, confirmed=_ROTATED.keyset.issued + 29),
    now=_ROTATED.keyset.issued + 30,
    started=NOW,
    looked=_ROTATED.keyset.issued + 30,
    fleet=of_fleet(_ROTATED, node_05=NodeState.BEHIND),
)
HOSTILE_ONE = replace(
    LEADER,
    node=HOSTILE,
    cluster=HOSTILE,
    version=HOSTILE,
    issuer=HOSTILE,
    alarms=(KeydistError(HOSTILE, expected=HOSTILE, found=HOSTILE * 200, fix=HOSTILE),),
    failures={HOSTILE: 1},
    keyset=replace(of_keyset(), lineage=HOSTILE, token=HOSTILE, revoked=((Revocation(HOSTILE, NOW, HOSTILE), NOW),)),
    fleet=FleetReport(
        nodes=(
            NodeView(
                record=make_record(node=HOSTILE, version=HOSTILE, kid=HOSTILE, token=HOSTILE, alarms=(HOSTILE,)),
                age=1.0,
                state=NodeState.ALARMED,
            ),
        ),
        unreadable=(HOSTILE,),
        propagation=Propagation((1.0,), (0, 0), 0.0, 0),
    ),
)
"""What no parser lets in, in every place that text comes to."""

REPORTS = {
    "leader": LEADER,
    "follower": FOLLOWER,
    "alarms": ALARMED,
    "no keyset": NO_KEYSET,
    "rotated": ROTATED,
    "hostile": HOSTILE_ONE,
}
