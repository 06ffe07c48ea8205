"""How a doctor judges a node's tokens, its keyset on disk, the store against it, and the fleet: by what others decide.

Reads only. Everything here is what `status` or a start would say, taken apart into checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from keydist.core.doctor.around import NodeSeen, fleet
from keydist.core.doctor.times import span
from keydist.core.doctor.verdict import Verdict, failed, failing, fine, together, unseen, warning
from keydist.core.lease import check_lease, lease_of
from keydist.core.restart import InStore, Role
from keydist.core.rotation import Situation, overdue
from keydist.errors import CorruptError, KeydistError, RebuiltFloorError, UnsafeFileError, WrongTokenError
from keydist.services.observe import WHY_ABSENT
from keydist.services.status import clock_behind, difference, rehearsal_alarm, told_by_any
from keydist.services.survey import Survey

if TYPE_CHECKING:
    from keydist.core.accept import Held
    from keydist.core.local import Local
    from keydist.core.notes import Notes
    from keydist.core.token import BootstrapToken
    from keydist.ports import NodeRecords, PublicKeys
    from keydist.services.node import Node
    from keydist.services.survey import Row

FLEET_SECONDS: Final = 2.5
"""How long the fleet is listened to: who lives answers within two seconds."""
_NO_KEYSET: Final = "get one with: keydist bootstrap"


def token(
    tokens: tuple[BootstrapToken, ...], error: KeydistError | None, local: Local | None, *, source: str, owns: bool
) -> Verdict:
    """Judge the bootstrap tokens; `local` is what the disk holds, None where that cannot be seen.

    `source` says where they come from. `owns`: who asks is the user that runs keydist, or root.
    """
    if error is not None:
        if isinstance(error, UnsafeFileError) and not error.found and not owns:
            return unseen(f"{error.message}; {source}", "run keydist doctor as root")
        return failing(error)
    ids = tuple(one.token_id for one in tokens)
    if local is None:
        return unseen(f"{source}: {', '.join(ids)}; whether the keyset is sealed under it cannot be seen")
    if local.held is None:
        return fine(f"{source}: {', '.join(ids)}; no keyset to compare with")
    return _compared(ids, local, sealed=local.held.token_id, source=source)


def _compared(ids: tuple[str, ...], local: Local, *, sealed: str, source: str) -> Verdict:
    """Judge tokens by the one that seals the keyset."""
    old = [one for one in ids if local.floor is not None and one in local.floor.superseded]
    if sealed not in ids:
        fix = f"put the token with id {sealed} into the token file"
        return failing(
            WrongTokenError("this node's keyset is sealed under another token", have=ids, need=sealed, fix=fix)
        )
    if old:
        return warning(
            f"{source} still holds the superseded token {', '.join(old)}",
            f"once nobody opens with it (keydist status --fleet): keydist token retire {old[0]}",
        )
    if len(ids) > 1:
        other = next(one for one in ids if one != sealed)
        return warning(
            f"{source} holds two tokens: {sealed} seals the keyset, {other} is the other",
            "finish it with keydist token rotate, then keydist token retire",
        )
    return fine(f"{source}: {sealed}, which seals the keyset")


def keyset(local: Local, *, now: int) -> Verdict:
    """Judge what the disk holds, and whether this node may mint under it."""
    if local.damage is not None:
        return failing(local.damage)
    if local.held is None:
        return warning("no keyset yet", _NO_KEYSET)
    several = [failing(alarm) for alarm in local.alarms if not isinstance(alarm, RebuiltFloorError)]
    lease = lease_of(local.held, local.confirmation)
    try:
        check_lease(lease, now)
    except KeydistError as exc:
        several.append(failing(exc))
    if several:
        return together(several)
    found, left = local.held.keyset, lease.mint_until - now if lease else 0
    return fine(f"epoch {found.epoch}, kid {found.active.kid}; it may mint for {span(left)} without the store")


def floor(local: Local) -> Verdict:
    """Judge the floor: what keeps a node from going back."""
    rebuilt = [failing(alarm) for alarm in local.alarms if isinstance(alarm, RebuiltFloorError)]
    if rebuilt:
        return together(rebuilt)
    if local.floor is None:
        return fine("none yet: there is no keyset to keep it from going back of")
    return fine(f"epoch {local.floor.epoch} of lineage {local.floor.lineage}")


def public_keys(keys: PublicKeys, local: Local) -> Verdict:
    """Judge whether every public signing key of the keyset is kept for ever. Raises the errors of `PublicKeys`."""
    if local.held is None:
        return fine("none yet")
    kids = [key.kid for key in local.held.keyset.signing_keys()]
    lacking = [kid for kid in kids if not keys.public_jwk(kid)]
    if lacking:
        return failed(
            CorruptError,
            f"public keys are not kept of: {', '.join(lacking)}",
            expected="a file public/<kid>.jwk each",
            fix="keydist bootstrap writes them again with the next epoch; see who removed them",
        )
    return fine(f"{len(kids)} of the keyset, kept to verify old JWTs")


def late(local: Local, notes: Notes, *, now: int, rehearse_every: int, leads: bool) -> Verdict:
    """Judge what time brings about: overdue phases, a rehearsal too long ago, a clock that is behind."""
    alarms = (*clock_behind(local, now), *rehearsal_alarm(notes, now=now, every=rehearse_every))
    if local.held is not None:
        alarms += overdue(Situation(held=local.held, notes=notes, now=now), leads=leads)
    return together(failing(alarm) for alarm in alarms) if alarms else fine("nothing")


async def store(node: Node, local: Local) -> Verdict:
    """Judge what the store holds, by a read from the stream's leader. Raises nothing of the store's."""
    seen = await told_by_any(node, local, await node.observe(local, from_leader=True))
    if seen.found is InStore.SAME:
        epoch = local.held.keyset.epoch if local.held else 0
        return fine(f"it holds this node's keyset, epoch {epoch}")
    if local.held is None:
        if seen.found is InStore.ACCEPTABLE:
            return warning("it holds a keyset that this node has not taken yet", _NO_KEYSET)
        if seen.found in WHY_ABSENT and seen.error is None:
            is_leader = node.role is Role.LEADER
            fix = "this leader's bootstrap makes the first key" if is_leader else "bootstrap a leader first"
            return warning(f"it answers, and {WHY_ABSENT[seen.found]}", fix)
    error = seen.error or difference(local, seen)
    return failing(error) if error is not None else fine("it answers")


async def fleet_seen(node: Node, records: NodeRecords, held: Held) -> Verdict:
    """Judge the fleet as a leader sees it, after listening for a moment. Raises the errors of `NodeRecords`."""
    survey = Survey(node, records)
    await survey.begin()
    await survey.listen(held, seconds=FLEET_SECONDS, shown=lambda _look, _left: None)
    look = survey.look(held)
    return fleet([_seen(row, look.pending) for row in look.rows])


def _seen(row: Row, pending: tuple[str, ...]) -> NodeSeen:
    said = row.record.alarms if row.record is not None else ()
    state = f"{row.state}: {', '.join(said[:3])}" if row.exit_code and said else row.state
    return NodeSeen(row.name, state, row.exit_code, row.name in pending and not row.exit_code)
