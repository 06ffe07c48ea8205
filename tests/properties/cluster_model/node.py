"""One node of the model: a machine with a disk and a clock, an agent on it that may end anywhere, a library beside it.

Everything that decides is keydist's own; the model only says when each part of it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Final, NamedTuple, TypeVar

from keydist.core.accept import Demands, Held
from keydist.core.keyset import Keyset
from keydist.core.lease import is_fresh
from keydist.core.policy import Policy
from keydist.core.restart import Role
from keydist.core.strict import b64url_decode
from keydist.core.token import BootstrapToken
from keydist.errors import KeydistError
from keydist.services import announce, follow
from keydist.services.advance import Advanced, advance
from keydist.services.announce import Announcer, Self
from keydist.services.fleet import FleetReader
from keydist.services.from_disk import meet_demands
from keydist.services.genesis import Beginning, first_envelope
from keydist.services.lead import Leader
from keydist.services.living import refuse_where_living
from keydist.services.node import Node
from keydist.services.present import Present
from keydist.services.reconcile import Genesis, Reconciler
from keydist.signing import Signer, Verifier
from tests.fakes.faulty_system import Crash
from tests.fakes.journal import RecordingJournal
from tests.fakes.memory_records import MemoryRecordBucket, MemoryRecords
from tests.fakes.memory_store import Fault
from tests.material import OTHER_TOKEN, PLACE, TOKEN, noise, pkcs8
from tests.properties.cluster_model.disk import NodeDisk
from tests.properties.cluster_model.stops import Stops, finished
from tests.properties.cluster_model.store import NodeStore, RememberingBucket
from tests.properties.cluster_model.time import SkewedClock, TrueTime

T = TypeVar("T")

TOKENS: Final = (TOKEN, OTHER_TOKEN)
HEARTBEAT: Final = 1
ISSUER: Final = "model"
AUDIENCE: Final = "anybody"


class CountedEntropy:
    """Bytes that look random, never the same twice, and the same in each run; keys that were made once are kept."""

    def __init__(self) -> None:
        self._made = 0

    def random(self, size: int) -> bytes:
        self._made += 1
        return noise(f"model {self._made}", size)

    async def signing_key(self, alg: str, bits: int) -> bytes:
        self._made += 1
        return pkcs8(f"model {self._made}", alg)


class Running(NamedTuple):
    """What an agent has in memory, and loses with it."""

    present: Present
    reconciler: Reconciler
    announcer: Announcer
    reader: FleetReader
    leader: Leader | None


class Machine:
    """A node. Its methods run one part of it; whatever a part raises that is no crash is its answer."""

    def __init__(
        self,
        name: str,
        role: Role,
        *,
        time: TrueTime,
        bucket: RememberingBucket,
        records: MemoryRecordBucket,
        entropy: CountedEntropy,
        policy: Policy,
    ) -> None:
        self.name = name
        self.role = role
        self.stops = Stops()
        self.clock = SkewedClock(time)
        self.store = NodeStore(bucket, time, self.stops)
        self.disk = NodeDisk(self.stops, lambda: self.store.confirming_since)
        self.records = MemoryRecords(records, self.clock)
        self.entropy = entropy
        self._policy = policy
        self.is_cut_off = False
        self.agent: Running | None = None
        self.restart_library()
        self.start()

    def restart_library(self) -> None:
        """Start the application's process anew: it signs and verifies with what is on disk."""
        self.signer = Signer(self.disk, self.clock, TOKENS, issuer=ISSUER)
        self.verifier = Verifier(self.disk, self.clock, TOKENS)

    # --- the agent's life ----------------------------------------------------------------------

    def demands(self, tokens: tuple[BootstrapToken, ...] = TOKENS) -> Demands:
        return Demands(place=PLACE, tokens=tokens)

    def node(self) -> Node:
        return Node(store=self.store, disk=self.disk, clock=self.clock, demands=self.demands(), role=self.role)

    def start(self) -> None:
        """Start the agent from what is on disk; where that takes several tries, after them."""
        self.disk.heal()
        node = self.node()
        own = Self(
            name=self.name,
            machine=noise(f"machine {self.name}", 16).hex(),
            start=self.disk.count_start(noise(f"instance {self.name}", 16).hex(), now=self.clock.now()),
            version="1.0.0",
            heartbeat=HEARTBEAT,
            minted=dict,
        )
        local = meet_demands(self.disk.load(TOKENS), node.demands)
        present = Present(clock=self.clock, disk=self.disk, journal=RecordingJournal())
        reconciler = Reconciler(node, local, self._genesis())
        reader = FleetReader(self.records, self.clock, place=PLACE, tokens=TOKENS)
        announcer = Announcer(node, present, own, entropy=self.entropy)
        leader = None
        if self.role is Role.LEADER:
            leader = Leader(
                node,
                present,
                reader,
                records=self.records,
                reconciler=reconciler,
                entropy=self.entropy,
                heartbeat=HEARTBEAT,
            )
        present.take(local, found=None, how="from-disk")
        self.records.listen(heard=reader.hear if leader is not None else None, answer=None)
        self.agent = Running(present, reconciler, announcer, reader, leader)
        self._answer()

    def _answer(self) -> None:
        """Answer who asks, once there is a keyset."""
        if self.agent is not None and self.agent.present.held is not None:
            self.records.listen(heard=None, answer=self.agent.announcer.record)

    def _genesis(self) -> Genesis:
        beginning = Beginning(place=PLACE, token=TOKEN, policy=self._policy, alg="EdDSA", bits=0)

        async def ask() -> None:
            await refuse_where_living(self.records, place=PLACE, tokens=TOKENS)

        return Genesis(
            ask_living=ask,
            first_envelope=lambda: first_envelope(beginning, entropy=self.entropy, clock=self.clock),
        )

    def crash(self) -> None:
        """End the agent: what is not on disk is gone."""
        self.agent = None
        self.stops.forget()
        self.records.stop()

    # --- its parts -----------------------------------------------------------------------------

    def look(self) -> None:
        """Look at the store once, as the agent does."""
        if self.agent is not None:
            self._run(follow._look(self.agent.reconciler, self.agent.present))

    def tell(self) -> None:
        """Write the node's record."""
        if self.agent is None:
            return
        record = self.agent.announcer.record()
        if record is not None:
            self._run(announce._publish(self.records, self.name, record, role=self.role))

    def lead(self) -> KeydistError | None:
        """Decide once, on a leader; return why nothing could be done."""
        if self.agent is None or self.agent.leader is None:
            return None
        return self._run(self.agent.leader.step())

    def command(
        self, build: Callable[[Held, int], Keyset], *, token: BootstrapToken | None = None
    ) -> KeydistError | None:
        """Write an epoch as an operator's command does, in a process beside the agent."""
        try:
            local = meet_demands(self.disk.load(TOKENS), self.demands())
        except KeydistError as exc:
            return exc

        async def write() -> Advanced:
            return await advance(self.node(), local, build, entropy=self.entropy, token=token)

        return self._run(write())

    def _run(self, part: Coroutine[object, object, object]) -> KeydistError | None:
        try:
            finished(part)
        except KeydistError as exc:
            return exc
        except Crash:
            self.crash()
        finally:
            self._answer()
        return None

    # --- what goes wrong -----------------------------------------------------------------------

    def cut_off(self) -> None:
        """Let nothing reach this node, nor anything of it reach others."""
        self.is_cut_off = True
        self.store.cut_off()
        self.records.fail_always("any", Fault.UNREACHABLE)
        self.records.is_deaf = True

    def heal(self) -> None:
        """End what goes wrong on the network and on the disk."""
        self.is_cut_off = False
        self.store.heal()
        self.store.late_leader = self.store.late_replica = 0
        self.records.heal()
        self.stops.forget()
        self.disk.heal()

    # --- what it is ----------------------------------------------------------------------------

    @property
    def held(self) -> Held | None:
        """What is on disk, and verified."""
        return self.disk.load(TOKENS).held

    def is_fresh(self) -> bool:
        """Tell whether this node confirmed its epoch within V, as it says itself."""
        local = self.disk.load(TOKENS)
        return local.held is not None and is_fresh(local.held, local.confirmation, self.clock.now())

    def answers(self) -> bool:
        """Tell whether this node would answer that it holds a keyset."""
        return self.agent is not None and self.agent.present.held is not None and self.records.is_listening


def kid_of(jwt: str) -> str:
    """Return the kid that a JWT names."""
    header = b64url_decode(jwt.partition(".")[0], "header").decode()
    return header.partition('"kid":"')[2].partition('"')[0]
