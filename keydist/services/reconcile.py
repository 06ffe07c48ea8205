"""One look at the store and what follows from it: the restart table, carried out.

Verify, persist, then use, then tell. A write is a compare-and-set followed by a read back, whatever its
acknowledgement said; what is read back is installed by the follower's own path. What is wrong with the store
while a verified keyset is on disk is an alarm, never a failure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.core.audit import Event, What, change
from keydist.core.envelope import digest
from keydist.core.restart import Action, InStore, OnDisk, Role, decide
from keydist.core.strict import b64url_encode
from keydist.errors import (
    BusyError,
    ConflictError,
    CorruptError,
    DiskError,
    KeydistError,
    NotYetError,
    RefusedGenesisError,
    TransientError,
    TrustError,
    UnprovenAncestryError,
    UnreachableError,
    UnsupportedError,
    WaitTimeoutError,
)
from keydist.services.from_disk import Outcome, meet_demands, start_from_disk, told_once, with_following
from keydist.services.observe import WHY_ABSENT, Observation, confirmation, lost, on_disk, stale_mirror, unconfirmed

if TYPE_CHECKING:
    from keydist.core.accept import Held
    from keydist.core.local import Confirmation, Local
    from keydist.services.node import Node

_KEPT_PART: Final = 4
"""A confirmation is kept again once this part of the freshness is over: most of it is left for what goes wrong."""


class Genesis(NamedTuple):
    """What a first key takes.

    `ask_living` raises where a live node holds a keyset, and is asked before each write; `first_envelope` makes a
    sealed first keyset, and is called at most once.
    """

    ask_living: Callable[[], Awaitable[None]]
    first_envelope: Callable[[], Awaitable[bytes]]


class Reconciler:
    """Brings a node from what its disk holds towards what the store holds, an attempt at a time."""

    def __init__(self, node: Node, local: Local, genesis: Genesis) -> None:
        self._node = node
        self._genesis = genesis
        self._candidate: bytes | None = None
        self._refusal: KeydistError | None = None
        self._found: InStore | None = None
        self._mark: object = None
        self._refused = ""
        self._replica = 0
        self._stale: tuple[KeydistError, ...] = ()
        self.local = local

    def refresh(self) -> None:
        """Load what the disk holds where it changed: another process may have installed, restored or forgotten.

        Raises the errors of `KeysetDisk.load` and of `meet_demands`.
        """
        mark = self._node.disk.mark()  # before it is loaded: what changes in between is loaded next time
        if mark != self._mark:
            self.local = self._load()
            self._mark = mark

    async def attempt(self) -> Outcome:
        """Read the store once and do what the table says. Raises `TransientError` where trying again may help."""
        self._replica, self._stale = 0, ()
        outcome = await self._attempt()
        return outcome._replace(found=self._found, alarms=told_once(outcome.alarms + self._stale))

    async def _attempt(self) -> Outcome:
        is_leader = self._node.role is Role.LEADER
        seen = await self._observe(from_leader=is_leader)
        if seen.found is InStore.ANCESTOR and not is_leader:  # a replica may only be late: the leader knows
            seen = await self._observe(from_leader=True)
        pinned = self._node.demands.lineage is not None
        match decide(on_disk(self.local), seen.found, self._node.role, lineage_pinned=pinned):
            case Action.GENERATE:
                return await self._generate(seen)
            case Action.ACCEPT:
                return await self._accept(seen, self._how(seen), confirmed=is_leader)
            case Action.REPUBLISH:
                return await self._republish(seen)
            case Action.DONE:
                return await self._unchanged(seen, confirmed=is_leader)
            case Action.START:
                self._keep_refused(seen)
                return self._start(seen.error or lost(seen))
            case Action.REFUSE:
                raise self._refused_genesis(seen)
            case Action.FAIL:
                self._keep_refused(seen)
                raise seen.error or lost(seen)
            case Action.WAIT:
                raise self._wait(seen)

    def _load(self) -> Local:
        return meet_demands(self._node.disk.load(self._node.demands.tokens), self._node.demands)

    async def _observe(self, *, from_leader: bool) -> Observation:
        seen = await self._node.observe(self.local, from_leader=from_leader)
        self._found = seen.found
        if not from_leader:
            self._replica = seen.revision
        elif 0 < seen.revision < self._replica:
            self._stale = (stale_mirror(self._replica, seen.revision),)
        return seen

    def _start(self, *alarms: KeydistError, how: str = "from-disk") -> Outcome:
        alarms = with_following(alarms, self.local, self._node.demands)
        return start_from_disk(self._node.disk, self.local, *alarms, now=self._node.clock.now(), how=how)

    def _how(self, seen: Observation) -> str:
        if self._candidate is not None and seen.envelope == self._candidate:
            return "generated"
        return "adopted" if self._node.role is Role.LEADER and on_disk(self.local) is OnDisk.NOTHING else "retrieved"

    # --- taking --------------------------------------------------------------------------------

    async def _accept(self, seen: Observation, how: str, *, confirmed: bool) -> Outcome:
        """Install what was read; where the stream leader then shows a later epoch still, install that too."""
        alarms, failure, taken = self.local.alarms, None, False
        if self.local.damage is not None:
            alarms += (self.local.damage,)  # healed by what is installed now, but somebody should know
        while seen.accepted is not None:
            new, before = seen.accepted.held, self.local.held
            failure = self._install(new)
            if failure is not None:
                alarms += (failure,)
                if self.local.held is not None and self.local.held.digest != new.digest:
                    break
            taken = True
            what = What.GENESIS if how == "generated" else What.EPOCH
            self._node.audit.note(Event(what=what, held=new, how=how, facts=change(before, new)))
            if seen.accepted.ancestry_unproven:
                alarms += (_unproven(new),)
            if confirmed:
                self._found = InStore.SAME
                alarms += self._keep_confirmation(seen)
                break
            seen = await self._observe(from_leader=True)
            if seen.found is InStore.SAME:
                alarms += self._keep_confirmation(seen)
            elif seen.accepted is None:
                alarms += (unconfirmed(seen),)
        if failure is not None:  # a start finishes what can be finished
            return self._start(*alarms, how=how if taken else "from-disk")._replace(changed=taken)
        return self._taken(how, alarms)

    def _taken(self, how: str, alarms: tuple[KeydistError, ...]) -> Outcome:
        if self.local.held is None:
            raise self.local.damage or CorruptError(
                "the keyset that was just installed is gone", fix="look at the disk"
            )
        self._candidate = None  # it is what is held now, or was of no use: a node that is reset makes another
        return Outcome(how=how, held=self.local.held, alarms=told_once(alarms + self.local.alarms), changed=True)

    def _install(self, new: Held) -> DiskError | None:
        """Install a keyset and load what is in use then; return what failed where there is a keyset all the same."""
        node, failure = self._node, None
        try:
            node.disk.install(new, based_on=self.local, now=node.clock.now())
        except ConflictError:
            self.local = self._load()
            raise
        except DiskError as exc:
            failure = exc
        self.local = self._load()  # it may have failed behind the swing: what is on disk decides what is in use
        if failure is not None and self.local.held is None:
            raise failure
        return failure

    async def _unchanged(self, seen: Observation, *, confirmed: bool) -> Outcome:
        """Confirm what is on disk; the stream leader may know better than the replica that was read."""
        if not confirmed:
            seen = await self._observe(from_leader=True)
        if seen.accepted is not None:
            return await self._accept(seen, "retrieved", confirmed=True)
        if seen.found is not InStore.SAME:
            return self._start(unconfirmed(seen), how="unchanged")
        return self._start(*self._keep_confirmation(seen), how="unchanged")

    def _keep_confirmation(self, seen: Observation) -> tuple[KeydistError, ...]:
        """Keep what a leader read confirmed; return as an alarm what stops that. The next read confirms it again."""
        found = confirmation(self.local, seen.sent)
        if found is not None and not self._is_kept(found):
            try:
                self._node.disk.confirm(found)
            except (DiskError, BusyError) as exc:
                return (exc,)
            self.local = self.local._replace(confirmation=found)
        return ()

    def _is_kept(self, found: Confirmation) -> bool:
        """Tell whether what is kept says nearly the same: a leader looks more often than a disk should be synced."""
        kept, held = self.local.confirmation, self.local.held
        if kept is None or held is None or kept._replace(at=found.at) != found:
            return False
        return 0 <= found.at - kept.at <= held.keyset.policy.freshness // _KEPT_PART

    def _keep_refused(self, seen: Observation) -> None:
        """Keep what was refused for inspection; a later version is no damage."""
        if seen.envelope is None or isinstance(seen.error, UnsupportedError):
            return
        if isinstance(seen.error, TrustError):
            self._note_refused(seen.envelope, seen.error)
            with suppress(DiskError, BusyError):
                self._node.disk.quarantine(seen.envelope)

    def _note_refused(self, envelope: bytes, error: TrustError) -> None:
        """Note what must not be used, once; without a keyset there is no key to sign the record with."""
        refused, held = b64url_encode(digest(envelope)), self.local.held
        if refused != self._refused and held is not None:
            self._refused = refused
            self._node.audit.note(Event(what=What.REFUSED, held=held, facts={"code": error.code, "refused": refused}))

    # --- writing -------------------------------------------------------------------------------

    async def _generate(self, seen: Observation) -> Outcome:
        node = self._node
        await self._genesis.ask_living()
        if self._candidate is None:
            self._candidate = await self._genesis.first_envelope()
        if seen.found is InStore.BUCKET_MISSING:
            await node.store.create_bucket()
        with suppress(TransientError):  # an acknowledgement may be lost in more than one way
            await node.store.write_first(self._candidate)
        back = await self._observe(from_leader=True)
        if back.accepted is not None:
            return await self._accept(back, self._how(back), confirmed=True)
        raise back.error or NotYetError("the first key cannot be read back yet", found=WHY_ABSENT.get(back.found, ""))

    async def _republish(self, seen: Observation) -> Outcome:
        """Put this node's envelope back where the store lost it. What fails is an alarm: the keyset is on disk."""
        node, held = self._node, self.local.held
        alarm = seen.error or lost(seen)
        if held is None:  # pragma: no cover - the table republishes verified keysets only
            raise alarm
        try:
            back = await node.put_back(seen, held, self.local)
        except ConflictError:
            raise  # somebody else wrote: read again, decide again
        except KeydistError as exc:
            return self._start(alarm, exc)
        self._found = back.found
        if back.found is not InStore.SAME:
            return self._start(alarm, back.error or lost(back))
        kept = self._keep_confirmation(back)
        return self._start(alarm, *kept, how="republished")._replace(changed=True)

    # --- saying why not ------------------------------------------------------------------------

    def _wait(self, seen: Observation) -> KeydistError:
        if seen.found is InStore.UNREACHABLE:
            return seen.error or UnreachableError("the store cannot be reached")
        self._refusal = seen.error
        reason = seen.error.message if seen.error else WHY_ABSENT[seen.found]
        return NotYetError(f"waiting for a leader to publish the key: {reason}", found=reason)

    def _refused_genesis(self, seen: Observation) -> KeydistError:
        if self.local.damage is not None:
            return RefusedGenesisError(
                f"no key is generated: {self.local.damage.message}",
                expected=self.local.damage.expected,
                found=WHY_ABSENT[seen.found],
                fix="on a node that has it: keydist store backup FILE; here: keydist store restore FILE",
            )
        if self._node.demands.lineage is not None and seen.found in (InStore.NEVER_WRITTEN, InStore.BUCKET_MISSING):
            return RefusedGenesisError(
                "no key is generated: the configuration names the lineage that this cluster already has",
                expected=f"lineage {self._node.demands.lineage}",
                found=WHY_ABSENT[seen.found],
                fix="start a leader that has the keyset, restore a backup, or remove lineage: for a new cluster",
            )
        if seen.found is InStore.ABSENT:
            return RefusedGenesisError(
                "no key is generated: this user may not ask whether there ever was one",
                expected="a bucket that was never written",
                found=WHY_ABSENT[seen.found],
                fix="allow this leader $JS.API.STREAM.INFO of the bucket's stream: see docs/nats.md",
            )
        return RefusedGenesisError(
            f"no key is generated: {WHY_ABSENT[seen.found]}, so this cluster had one",
            expected="a bucket that was never written",
            found=WHY_ABSENT[seen.found],
            fix="start a leader that has the keyset, or restore a backup here: keydist store restore FILE",
        )

    def gave_up(self, last: TransientError, seconds: float) -> KeydistError:
        """Return what to raise at the deadline: the refusal that was waited out, or what did not come.

        A keyset that is here and cannot be used is named with it: waiting alone does not bring that back.
        """
        damage = f" ({self.local.damage.message})" if self.local.damage else ""
        if not isinstance(last, NotYetError):
            message = last.message + damage
            return type(last)(message, expected=last.expected, found=last.found, fix=last.fix)
        if self._refusal is not None:
            return self._refusal
        return WaitTimeoutError(
            f"no key came within {seconds:g} s{damage}",
            expected=f"a key at {self._node.demands.place.location}",
            found=last.found,
            fix="start a leader: keydist bootstrap --role leader; or wait longer: --timeout",
        )


def _unproven(held: Held) -> KeydistError:
    return UnprovenAncestryError(
        "the accepted keyset is more than 64 epochs ahead: its ancestry does not reach back to this node's",
        found=f"epoch {held.keyset.epoch}",
        fix="compare the lineage and epoch with another node: keydist status",
    )
