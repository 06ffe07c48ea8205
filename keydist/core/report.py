"""Everything that an agent says about its node at a moment, as one value: what monitoring and people are shown.

Nothing in it is secret: of a key there are its name, its state and its times, never its material. Every time is unix
seconds. `noted` and what follows from it are this node's clock; what stands in the keyset is the clock of whoever
wrote that epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.core.fleet import NodeView
from keydist.core.jwk import bits_of
from keydist.core.keyset import Revocation, State
from keydist.core.lease import Lease, lease_of
from keydist.core.policy import Policy
from keydist.core.record import Minted
from keydist.core.restart import InStore, Role
from keydist.core.rotation import Situation, activation, drop_times, due
from keydist.errors import KeydistError

if TYPE_CHECKING:
    from keydist.core.keyset import Key
    from keydist.core.local import Confirmation

VERIFY_REASONS: Final = (
    "size", "shape", "encoding", "header", "alg", "typ", "kid-unknown", "kid-revoked", "signature", "claims", "issuer",
    "audience", "expired", "not-yet",
)  # fmt: skip
"""Why a JWT may be refused; see `keydist.core.jws`."""
UNAVAILABLE: Final = "unavailable"
"""Why a JWT was neither believed nor refused: this node could not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReport:
    """A key of the keyset, without its material.

    `noted`: state → since when this node holds it so. `drops`: when a retired key may go, as this node knows. `bits`
    is 0 where the algorithm leaves no choice. `minted` is what was signed with it on this node.
    """

    kid: str
    use: str
    alg: str
    bits: int
    state: State
    created: int
    published: int | None
    activated: int | None
    retired: int | None
    verify_until: int | None
    noted: Mapping[str, int]
    drops: int | None
    minted: Minted

    @property
    def since(self) -> int | None:
        """Since when this node holds the key in its state."""
        return self.noted.get(self.state.value)


class Plan(NamedTuple):
    """When a rotation is due and why (None: the policy asks for none), and from when the next keys may sign.

    `lacking` are the nodes that have not acknowledged the next keys; only a leader hears of any.
    """

    due: int | None
    why: str | None
    opens: int
    lacking: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysetReport:
    """The keyset in use: what is public of it, since when it is here, and how long it may be used unconfirmed.

    `issued` is by the clock of its writer, `loaded` (taken in by this agent) by this node's. `revoked` has the time at
    which each entry may leave the list.
    """

    epoch: int
    lineage: str
    token: str
    issued: int
    loaded: int
    policy: Policy
    keys: tuple[KeyReport, ...]
    revoked: tuple[tuple[Revocation, int], ...]
    confirmed: int | None
    lease: Lease | None
    plan: Plan


class Propagation(NamedTuple):
    """How long live nodes took to say that they use an epoch, in seconds since this leader took it in itself.

    One clock measures it. `bounds` are the upper bounds of `counts`, which are not cumulated; the last count is of
    what took longer than any of them. `waiting` nodes have not said it yet of the present epoch.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetReport:
    """The fleet as this leader sees it: a row for each instance, and the names whose records cannot be opened."""

    nodes: tuple[NodeView, ...]
    unreadable: tuple[str, ...]
    propagation: Propagation


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One node at the moment `now`.

    `started`: since when this agent runs. `store`: what the last look found, None where it was not judged; `looked`:
    when that was. `fleet` is None on a node that does not lead: it knows only itself. `failures`: reason → how many
    JWTs this agent did not believe.
    """

    now: int
    node: str
    cluster: str
    role: Role
    version: str
    issuer: str | None
    started: int
    keyset: KeysetReport | None
    alarms: tuple[KeydistError, ...]
    store: InStore | None
    looked: int
    rehearsed: int | None
    republished: int | None
    failures: Mapping[str, int]
    fleet: FleetReport | None


def keyset_report(
    situation: Situation, *, confirmation: Confirmation | None, loaded: int, minted: Mapping[str, Minted]
) -> KeysetReport:
    """Return what is public of a keyset, with what this node's notes, its confirmation and the fleet say of it."""
    held = situation.held
    keyset, drops = held.keyset, dict(drop_times(situation))
    lease = lease_of(held, confirmation)
    return KeysetReport(
        epoch=keyset.epoch,
        lineage=keyset.lineage,
        token=held.token_id,
        issued=keyset.issued,
        loaded=loaded,
        policy=keyset.policy,
        keys=tuple(_key(key, situation, drops, minted) for key in keyset.keys),
        revoked=tuple((entry, drops[entry.kid]) for entry in keyset.revoked),
        confirmed=lease.confirmed if lease else None,
        lease=lease,
        plan=_plan(situation),
    )


def _key(key: Key, situation: Situation, drops: Mapping[str, int], minted: Mapping[str, Minted]) -> KeyReport:
    return KeyReport(
        kid=key.kid,
        use=key.use,
        alg=key.alg,
        bits=bits_of(key) if key.use == "sig" else 0,
        state=key.state,
        created=key.created,
        published=key.published,
        activated=key.activated,
        retired=key.retired,
        verify_until=key.verify_until,
        noted=MappingProxyType(dict(situation.notes.keys.get(key.kid, {}))),
        drops=drops.get(key.kid),
        minted=minted.get(key.kid, Minted(jwts=0, last_expiry=0)),
    )


def _plan(situation: Situation) -> Plan:
    wanted, gate = due(situation), activation(situation)
    return Plan(
        due=wanted.at if wanted else None,
        why=wanted.why if wanted else None,
        opens=gate.opens,
        lacking=gate.lacking,
    )
