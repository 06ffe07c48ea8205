"""What is promised, looked at without pause while a test does its worst to a fleet and its store.

    with Promises(fleet) as promises:
        ...
        promises.check()

A thread mints and verifies on all nodes, as applications do, and looks at every disk. What it finds broken stands in
`broken`, in words. A node that is wiped begins anew: say so first (`forget`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from itertools import cycle
from typing import Final, Self

from integration.fleet import Fleet, live_name
from integration.hurried import LEEWAY, LIFETIME, PROPAGATION, settings
from integration.misled import misled
from integration.tally import Tally
from integration.traffic import AUDIENCE, ISSUER, Application, Minted
from keydist import Verifier
from keydist.core.accept import Demands, Held, open_held
from keydist.core.local import Local
from keydist.core.token import BootstrapToken
from keydist.errors import InvalidJwtError, KeydistError
from tests.material import TOKEN

# The lease is short, so that retired keys go while a test runs, after 14 s.
SETTINGS: Final = settings(every=4, lease=8)
_PAUSE: Final = 0.04
_STALE: Final = 0.5
"""So long after it changed, whoever reads a disk has seen it."""
_MOST: Final = 10


class Seen:
    """What was seen of one node since it was last wiped."""

    def __init__(self) -> None:
        self.live = ""
        self.epoch = 0
        self.local = Local()
        self.revoked: dict[str, float] = {}
        """The kids that it saw revoked, and when that was noticed here."""


class Promises:
    """One fleet, watched; `tokens` are those that its members may hold."""

    def __init__(self, fleet: Fleet, *, tokens: Iterable[BootstrapToken] = (TOKEN,)) -> None:
        self._fleet = fleet
        self.tokens = list(tokens)
        self.broken: list[str] = []
        self.history: dict[int, Held] = {}
        self.seconds = 0.0
        configs = {name: str(member.node.config) for name, member in fleet.members.items()}
        self._application = Application(configs, configs, lifetime=LIFETIME, leeway=LEEWAY)
        self._verifiers = {name: Verifier.open(config) for name, config in configs.items()}
        self._seen = {name: Seen() for name in fleet.members}
        self._turns = cycle(fleet.members)
        self._latest: dict[str, Minted] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="promises")

    def __enter__(self) -> Self:
        self._thread.start()
        self._fleet.until(lambda: bool(self.history) or bool(self.broken), "the watch to see something")
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    # --- for the test --------------------------------------------------------------------------

    def take(self) -> Tally:
        """Return what became of minting and verifying since the last time; what was rejected is judged."""
        with self._lock:
            self._judge_rejections()
            return self._application.take()

    def forget(self, name: str) -> None:
        """Wipe a node: nothing that it had counts any more."""
        with self._lock:
            self._fleet.wipe(name)
            self._seen[name] = Seen()

    def latest(self) -> Held:
        """Return the keyset of the highest epoch that was seen on a disk."""
        return self.history[max(self.history)]

    def wait_rotation(self, seconds: float = 60.0) -> Held:
        """Return the keyset with which another key than now signs, once all disks hold it or a later one."""
        before = self.latest().keyset.active.kid
        self._fleet.until(lambda: self.latest().keyset.active.kid != before, "a rotation", seconds)
        held = self.latest()
        self._fleet.wait_epoch(held.keyset.epoch, seconds)
        return held

    def check(self) -> None:
        """Fail where a promise was broken."""
        with self._lock:
            self._judge_rejections()
            self._judge_waits()
        assert not self.broken, "\n".join(self.broken[:_MOST])

    # --- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        start = time.monotonic()
        try:
            while not self._end.wait(_PAUSE):
                with self._lock:
                    self._application.work()
                    self._note_latest()
                    for name, seen in self._seen.items():
                        if live_name(self._fleet.members[name].node.state) != seen.live:
                            self._look_at_disk(name, seen)
                    self._verify_at(next(self._turns))
                self.seconds = time.monotonic() - start
        except BaseException as exc:  # a thread that ends would see nothing any more
            self.broken.append(f"the watch itself failed: {exc!r}")
            raise

    def _note_latest(self) -> None:
        minted = self._application.latest
        if minted is not None:
            self._latest[minted.kid] = minted

    def _tell(self, what: str) -> None:
        if len(self.broken) < 10 * _MOST:
            self.broken.append(f"{time.time():.3f}: {what}")

    def _verify_at(self, name: str) -> None:
        seen = self._seen[name]
        held = seen.local.held
        for key in held.keyset.signing_keys() if held is not None else ():
            if key.kid in self._latest and key.kid not in seen.revoked:
                self._verify_known(name, seen, self._latest[key.kid])
        for kid, since in list(seen.revoked.items()):
            if kid in self._latest and time.monotonic() > since + _STALE:
                self._verify_revoked(name, self._latest[kid])

    def _look_at_disk(self, name: str, seen: Seen) -> None:
        """P1, P2, P5 and P7, by what is on a disk."""
        live = live_name(self._fleet.members[name].node.state)  # first: what changes meanwhile is looked at next time
        local = self._fleet.load(name)
        held = local.held
        if held is None:
            if seen.epoch:
                self._tell(f"P5: {name} had epoch {seen.epoch} and has none: {local.damage}")
            return
        keyset = held.keyset
        if keyset.epoch < seen.epoch:
            self._tell(f"P2: {name} went back from epoch {seen.epoch} to {keyset.epoch}")
        try:
            place = self._fleet.members[name].node.place
            open_held(held.envelope, Demands(place=place, tokens=tuple(self.tokens)))
        except KeydistError as exc:
            self._tell(f"P2: {name} accepted what no holder of the token sealed: {exc}")
        other = self.history.setdefault(keyset.epoch, held)
        if other.digest != held.digest or keyset.lineage != other.keyset.lineage:
            self._tell(f"P1: {name} has another epoch {keyset.epoch} than another node")
        revoked = {entry.kid for entry in keyset.revoked} | (local.floor.revoked if local.floor else frozenset())
        if gone := seen.revoked.keys() - revoked:
            self._tell(f"P7: {name} forgot at epoch {keyset.epoch} that {gone} were revoked")
        for kid in revoked - seen.revoked.keys():
            seen.revoked[kid] = time.monotonic()
        seen.live, seen.epoch, seen.local = live, keyset.epoch, local

    def _verify_known(self, name: str, seen: Seen, minted: Minted) -> None:
        """P3: a key that is on its disk is a key that a node verifies with, whatever else there is."""
        for last in (False, True):
            try:
                self._verifiers[name].verify(minted.jwt, audience=AUDIENCE, issuer=ISSUER)
            except InvalidJwtError as exc:
                if exc.reason in ("expired", "kid-revoked"):
                    return
                why = f"{exc.reason}: {exc}"
            except KeydistError as exc:
                why = f"{exc.code}: {exc}"
            else:
                return
            self._look_at_disk(name, seen)  # it may have moved on meanwhile
            held = seen.local.held
            if held is None or minted.kid not in {key.kid for key in held.keyset.signing_keys()}:
                return
            if last:
                self._tell(f"P3: {name} has {minted.kid} and cannot verify with it: {why}")
            else:
                time.sleep(_STALE)

    def _verify_revoked(self, name: str, minted: Minted) -> None:
        try:
            self._verifiers[name].verify(minted.jwt, audience=AUDIENCE, issuer=ISSUER)
        except InvalidJwtError as exc:
            if exc.reason != "kid-revoked":
                self._tell(f"P7: {name} no longer says that {minted.kid} is revoked, but {exc.reason}")
        except KeydistError as exc:
            self._tell(f"P7: {name} cannot tell of {minted.kid}, which it saw revoked: {exc}")
        else:
            self._tell(f"P7: {name} accepts a JWT of {minted.kid}, which it saw revoked")

    # --- rejections ----------------------------------------------------------------------------

    def _judge_rejections(self) -> None:
        """P6: in a planned rotation nothing is rejected. What an emergency breaks, it breaks on purpose."""
        excused, tally = self._emergency_kids(), self._application.tally
        found = Counter({one: number for one, number in tally.rejected.items() if one.kid not in excused})
        if found:
            lost = list(misled(self._fleet, self.history))
            found = Counter({one: n for one, n in found.items() if not any(node.excuses(one) for node in lost)})
        for one, number in found.items():
            self._tell(f"P6: {one.node} rejected {number} JWTs of {one.kid}: {one.reason}")
        if found:
            self.broken += [context for context in tally.contexts if any(one.kid in context for one in found)]

    def _judge_waits(self) -> None:
        """P6: what signs by plan was published for a propagation before; of the first key that was seen nobody knows.

        Whether somebody rejects a JWT of one that was not depends on the moment.
        """
        signed = {held.keyset.active.kid: held.keyset.active for _, held in sorted(self.history.items())}
        excused = self._emergency_kids() | {*list(signed)[:1]}
        for kid in signed.keys() - excused:
            waited = (signed[kid].activated or 0) - signed[kid].created
            if waited < PROPAGATION:
                self._tell(f"P6: {kid} signed {waited} s after it was published")

    def _emergency_kids(self) -> set[str]:
        """Return the keys that were revoked, and those that signed at once because the one before was."""
        kids, known = set[str](), set[str]()
        for _, held in sorted(self.history.items()):
            revoked = {entry.kid for entry in held.keyset.revoked}
            if revoked - known:
                kids |= revoked | {held.keyset.active.kid}
                known |= revoked
        return kids
