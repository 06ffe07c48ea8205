"""The world of the model: nodes, the store that they share, verifiers outside, the JWTs that are on their way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from keydist.core.accept import Held
from keydist.core.keyset import Keyset
from keydist.core.policy import Policy
from keydist.core.record import open_record
from keydist.core.restart import Role
from keydist.core.token import BootstrapToken
from keydist.errors import InternalError, KeydistError, TrustError, UsageError
from tests.fakes.memory_records import MemoryRecordBucket
from tests.material import PLACE
from tests.properties.cluster_model.disk import Backup
from tests.properties.cluster_model.history import History
from tests.properties.cluster_model.node import AUDIENCE, HEARTBEAT, TOKENS, CountedEntropy, Machine, kid_of
from tests.properties.cluster_model.outside import OutsideVerifier
from tests.properties.cluster_model.store import RememberingBucket
from tests.properties.cluster_model.time import TrueTime

SKEW: Final = 1
POLICY: Final = Policy(
    propagation=13,
    freshness=4,
    stale_read=2,
    jwks_max_age=3,
    max_lifetime=6,
    mint_lease=12,
    leeway=2,
    skew=SKEW,
    rotate_every=5,
)
"""D = V + R + A + 4S: the gate sets the pace of rotations, and every bound is as tight as it may be."""
_MOST_JWTS: Final = 10
_MOST_PER_KID: Final = 3


class Jwt(NamedTuple):
    """A JWT that was minted: its key, when it expires (its minter's clock), and when it was minted (true time)."""

    text: str
    kid: str
    expires: int
    minted: int
    is_falsely_confirmed: bool


class Claims:
    """What was found broken, kept where keydist itself must not let any exception end it."""

    def __init__(self) -> None:
        self.broken: list[str] = []

    def claim(self, holds: bool, message: str) -> None:  # noqa: FBT001 - reads as assert does
        if not holds:
            self.broken.append(message)
            raise AssertionError(message)

    def check(self) -> None:
        assert not self.broken, self.broken[0]


class ToldRecords(MemoryRecordBucket):
    """Records, each of which must tell of what was durable on its node before it was told."""

    def __init__(self, nodes: dict[str, Machine], claims: Claims) -> None:
        super().__init__()
        self._nodes = nodes
        self._claims = claims

    def put(self, name: str, record: bytes, *, told: bool = True) -> None:
        said = open_record(record, node=name, place=PLACE, tokens=TOKENS)
        is_durable = said.digest in self._nodes[name].disk.durable
        self._claims.claim(is_durable, f"P4: {name} told of a keyset that is not on its disk")
        super().put(name, record, told=told)


class World:
    """Everything there is. What the promises forbid at the moment of a write or an installation is asserted here."""

    def __init__(self, *, leaders: int = 2, followers: int = 2, policy: Policy = POLICY) -> None:
        self.time = TrueTime()
        self.policy = policy
        self.history = History(self.time)
        self.bucket = RememberingBucket(self.time)
        self.bucket.written = self._written
        self.nodes: dict[str, Machine] = {}
        self.claims = Claims()
        self.records = ToldRecords(self.nodes, self.claims)
        self.outside = [
            OutsideVerifier(f"outside-{number}", self.time, max_age=policy.jwks_max_age) for number in (1, 2)
        ]
        self.jwts: list[Jwt] = []
        self.keepsakes: dict[str, Jwt] = {}
        """One JWT of each key, kept for ever."""
        self.captured: list[bytes] = []
        """Every envelope that an eavesdropper saw."""
        self.backups: list[tuple[str, Backup]] = []
        self.acting: Machine | None = None
        self.excuses_a_store_that_forgot = True
        """Whether a node that was told by a forgetful store that it is up to date is held to nothing."""
        entropy = CountedEntropy()
        for number in range(leaders + followers):
            role = Role.LEADER if number < leaders else Role.FOLLOWER
            name = f"{role.value}-{number}"
            node = Machine(
                name,
                role,
                time=self.time,
                bucket=self.bucket,
                records=self.records,
                entropy=entropy,
                policy=policy,
            )
            node.disk.installed = self._installed
            self.nodes[name] = node

    @property
    def all(self) -> list[Machine]:
        return list(self.nodes.values())

    @property
    def leaders(self) -> list[Machine]:
        return [node for node in self.all if node.role is Role.LEADER]

    def form(self) -> None:
        """Give every node the first keyset."""
        for _ in range(2):
            for node in self.all:
                node.look()
        for node in self.all:
            node.tell()

    # --- moments that say something about the promises -------------------------------------------

    def _written(self, envelope: bytes, last_sequence: int) -> None:
        was_empty = not self.history.written
        new = self.history.add(envelope)
        if new is None:
            return
        self.captured.append(envelope)
        if new.keyset.epoch == 1:
            self._first_written(last_sequence, was_empty=was_empty)
        elif self.history.is_forked:
            self.claims.claim(self.history.has_forgotten, "P1: an epoch was written twice although nothing was lost")
        parent = self.history.parent(new)
        if parent is not None and parent.keyset.active.kid != new.keyset.active.kid:
            self._activated(parent, new)

    def _first_written(self, last_sequence: int, *, was_empty: bool) -> None:
        claim = self.claims.claim
        claim(last_sequence == 0, "P1: a first key was written into a bucket that had been written before")
        if not was_empty:
            claim(self.history.has_forgotten, "P1: a second lineage although nothing was ever lost")
            answering = [node.name for node in self.all if node.answers() and node is not self.acting]
            claim(not answering, f"P1: a first key was made while {answering} lives and holds one")

    def _activated(self, parent: Held, new: Held) -> None:
        if new.keyset.active.kid in self.history.in_haste or self.acting is None or self.acting.agent is None:
            return
        now = float(self.time.passed)
        for seen in self.acting.agent.reader.fleet.values():
            is_live = not seen.record.leaving and now - seen.rose <= 3 * HEARTBEAT
            acknowledged = seen.record.digest == parent.digest
            self.claims.claim(acknowledged or not is_live, f"P6: {seen.record.node} lives and did not acknowledge")

    def _installed(self, before: Held | None, new: Held) -> None:
        if before is None or before.digest == new.digest:
            return
        old, keyset, claim = before.keyset, new.keyset, self.claims.claim
        claim(keyset.lineage == old.lineage, "P1: a node changed over to another lineage")
        claim(keyset.epoch > old.epoch, f"P2: a node went from epoch {old.epoch} to {keyset.epoch}")
        behind = keyset.epoch - old.epoch - 1
        descends = behind >= len(keyset.ancestors) or keyset.ancestors[behind] == before.digest
        claim(descends, "P2: a node took what does not descend from what it had")

    # --- what nodes do -------------------------------------------------------------------------

    def look(self, node: Machine) -> None:
        had = node.held
        with self._acts(node):
            node.look()
        if node.agent is not None and had is not None:
            assert node.agent.present.held is not None, f"P3: {node.name} has no keyset any more"
        self._no_defect(node)

    def tell(self, node: Machine) -> None:
        with self._acts(node):
            node.tell()
        self.claims.check()

    def lead(self, node: Machine) -> KeydistError | None:
        """Let a leader decide once; where the store holds its keyset, what it builds is what every node accepts."""
        held = node.held
        is_plain = held is not None and self.bucket.content() == held.envelope and not node.store.late_leader
        with self._acts(node):
            failure = node.lead()
        self.claims.check()
        is_defect = isinstance(failure, TrustError | UsageError | InternalError)
        assert not (is_plain and is_defect), f"{node.name} cannot lead: {failure}"
        return failure

    def command(
        self, node: Machine, build: Callable[[Held, int], Keyset], *, token: BootstrapToken | None = None
    ) -> KeydistError | None:
        """Let an operator write an epoch on a node."""
        with self._acts(node):
            failure = node.command(build, token=token)
        self.claims.check()
        return failure

    @contextmanager
    def _acts(self, node: Machine) -> Iterator[None]:
        before, self.acting = self.acting, node
        yield
        self.acting = before

    def _no_defect(self, node: Machine) -> None:
        self.claims.check()
        if node.agent is not None:
            defects = [alarm for alarm in node.agent.present.alarms if isinstance(alarm, InternalError)]
            assert not defects, f"{node.name} met a defect: {defects[0]}"

    def mint(self, node: Machine, lifetime: int) -> bool:
        """Let a node mint a JWT; tell whether it did."""
        try:
            text = node.signer.mint({}, subject="s", audience=AUDIENCE, lifetime=lifetime)
        except KeydistError:
            return False
        kid = kid_of(text)
        assert kid in node.disk.signed_with, f"P4: {node.name} signed with a key that was not on its disk"
        jwt = Jwt(text, kid, node.clock.now() + lifetime, self.time.passed, self.is_falsely_confirmed(node))
        self.keepsakes.setdefault(kid, jwt)
        self._keep(jwt)
        return True

    def _keep(self, jwt: Jwt) -> None:
        """Keep the JWTs that live, of each key those that live longest."""
        living = [other for other in self.jwts if other.expires + self.policy.leeway + 2 >= self.now]
        living = sorted((*living, jwt), key=lambda other: -other.expires)
        kept: list[Jwt] = []
        for other in living:
            if [one.kid for one in kept].count(other.kid) < _MOST_PER_KID:
                kept.append(other)
        self.jwts = kept[:_MOST_JWTS]

    def fetch(self, outside: OutsideVerifier, node: Machine) -> bool:
        """Let a verifier outside fetch a JWK Set, from a node that is truly confirmed; tell whether it did."""
        return not self.is_falsely_confirmed(node) and outside.fetch(node)

    def round(self, nodes: list[Machine] | None = None) -> None:
        """Let each of some nodes do once what it does all the time."""
        for node in self.all if nodes is None else nodes:
            self.look(node)
            self.tell(node)
            self.mint(node, self.policy.max_lifetime)
            self.lead(node)

    # --- what is true --------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """True time, as a clock without error reads it."""
        return self.all[0].clock.now() - self.all[0].clock.skew

    @property
    def is_clean(self) -> bool:
        """Tell whether there is one history still."""
        return not self.history.is_forked

    def is_falsely_confirmed(self, node: Machine) -> bool:
        """Tell whether what a node believes confirmed was said by a store that had forgotten later epochs."""
        confirmed = node.disk.confirmed if self.excuses_a_store_that_forgot else None
        return confirmed is not None and self.history.is_false(confirmed.epoch, confirmed.sent, self.policy.stale_read)
