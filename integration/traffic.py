"""Applications on the nodes of a fleet: a few processes that mint on each and verify on every other, without pause.

They read the nodes' disks through `keydist.Signer` and `keydist.Verifier`, as applications do, and know nothing of
agents. Each JWT is verified at once, and again at a random age up to its lifetime. Beside them stands an outside
verifier (joserfc) that knows only a JWK Set: it takes one from a node confirmed within V, keeps it for the max-age,
and does not ask again for a kid that is not in it.

What a process counts it gives away as a `Tally`; tallies add up.
"""

from __future__ import annotations

import ctypes
import heapq
import os
import random
import signal
import time
from collections.abc import Mapping
from itertools import count, cycle
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple, Self

from joserfc import jwt as jose
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from integration.nodes import processes
from integration.tally import OUTSIDE, TICKS, Rejected, Tally, Unavailable
from keydist import Signer, Verifier
from keydist.core.jws import parse_compact
from keydist.errors import InvalidJwtError, KeydistError, TransientError

AUDIENCE: Final = "everybody"
ISSUER: Final = "https://test.example"
_NICE: Final = 10
"""Traffic takes what the agents and servers leave of the processors: their delays are what is measured."""
_AT_ONCE: Final = 3
_LATER: Final = 2
_LEAST_LEFT: Final = 0.5
_MOST_CONTEXTS: Final = 20
_EXPIRED: Final = ("expired", "ExpiredTokenError")
_BATCH: Final = 50


class Minted(NamedTuple):
    """A JWT on its way."""

    jwt: str
    kid: str
    on: str
    at: float
    expires: int


class Outside:
    """A verifier with nothing but a JWK Set, kept for the max-age."""

    def __init__(self, verifiers: Mapping[str, Verifier]) -> None:
        self._verifiers = verifiers
        self._keys: KeySet | None = None
        self._fetched = 0.0
        self._max_age = 0.0
        self.source = ""
        self.fetches = 0

    def keys(self) -> KeySet | None:
        """Return a JWK Set that is not too old; None where none can be had."""
        if self._keys is None or time.monotonic() > self._fetched + self._max_age:
            self._keys = self._fetch()
        return self._keys

    def _fetch(self) -> KeySet | None:
        names = random.sample(sorted(self._verifiers), 3)
        for name in names:
            verifier, asked = self._verifiers[name], time.monotonic()
            try:
                view = verifier._following.current().view
                published = verifier.jwks()
            except KeydistError:
                continue
            if view.lease is None or not view.lease.is_fresh(int(time.time())):
                continue
            self._fetched, self._max_age, self.source = asked, view.keyset.policy.jwks_max_age, name
            self.fetches += 1
            return KeySet.import_key_set(published)  # type: ignore[arg-type]  # any mapping of strings
        return None

    def age(self) -> float:
        """Return how old the JWK Set is, in seconds."""
        return time.monotonic() - self._fetched


class Application:
    """The work of one process."""

    def __init__(self, signers: Mapping[str, str], verifiers: Mapping[str, str], *, lifetime: int, leeway: int) -> None:
        self._signers = {name: Signer.open(config) for name, config in signers.items()}
        self._verifiers = {name: Verifier.open(config) for name, config in verifiers.items()}
        self._outside = Outside(self._verifiers)
        self._registry = jose.JWTClaimsRegistry(
            leeway=leeway, iss={"essential": True, "value": ISSUER}, aud={"essential": True, "value": AUDIENCE}
        )
        self._lifetime = lifetime
        self._others = sorted(self._verifiers)
        self._minters = cycle(sorted(self._signers))
        self._numbers = count()
        self._later: list[tuple[float, int, Minted, str]] = []
        self.latest: Minted | None = None
        self.tally = Tally()

    def take(self) -> Tally:
        """Return what was counted since the last time."""
        self.tally.fetched, self._outside.fetches = self._outside.fetches, 0
        taken, self.tally = self.tally, Tally()
        return taken

    def forget(self) -> None:
        """Let go of all JWTs that wait for their later ages."""
        self._later.clear()

    def work(self) -> None:
        """Mint one JWT, verify it at once, and whatever is due of those before."""
        minted = self._mint(next(self._minters))
        if minted is not None:
            for by in (*random.sample(self._others, _AT_ONCE), OUTSIDE):
                self._verify(minted, by)
            for by in (*random.sample(self._others, _LATER), OUTSIDE):
                due = minted.at + random.uniform(0, minted.expires - minted.at - _LEAST_LEFT)
                heapq.heappush(self._later, (due, next(self._numbers), minted, by))
        while self._later and self._later[0][0] <= time.time():
            _, _, minted, by = heapq.heappop(self._later)
            if time.time() < minted.expires:
                self.tally.late += 1
                self._verify(minted, by)
            else:
                self.tally.missed += 1

    def _mint(self, on: str) -> Minted | None:
        at = time.time()
        try:
            jwt = self._signers[on].mint({}, subject=on, audience=AUDIENCE, lifetime=self._lifetime)
        except KeydistError as exc:
            self._unavailable(on, "mint", exc)
            return None
        kid = parse_compact(jwt).header.kid
        self.tally.minted += 1
        self.tally.kids[kid] += 1
        self.latest = Minted(jwt=jwt, kid=kid, on=on, at=at, expires=int(at) + self._lifetime)
        return self.latest

    def _verify(self, minted: Minted, by: str) -> None:
        if by == OUTSIDE:
            self._verify_outside(minted)
            return
        try:
            self._verifiers[by].verify(minted.jwt, audience=AUDIENCE, issuer=ISSUER)
        except InvalidJwtError as exc:
            self._rejected(minted, by, exc.reason, f"{exc}; {self._shown(by)}")
        except TransientError as exc:
            self._unavailable(by, "verify", exc)
        else:
            self.tally.pairs[minted.on, by] += 1

    def _verify_outside(self, minted: Minted) -> None:
        keys = self._outside.keys()
        if keys is None:
            self.tally.blind += 1
            return
        try:
            self._registry.validate(jose.decode(minted.jwt, keys, algorithms=["ES256"]).claims)
        except (JoseError, ValueError) as exc:
            known = sorted(key.kid or "" for key in keys.keys)
            context = f"{exc}; a JWK Set of {self._outside.source}, {self._outside.age():.3f} s old: {known}"
            self._rejected(minted, OUTSIDE, type(exc).__name__, context)
        else:
            self.tally.pairs[minted.on, OUTSIDE] += 1

    def _rejected(self, minted: Minted, by: str, reason: str, context: str) -> None:
        if reason in _EXPIRED and time.time() >= minted.expires:
            self.tally.missed += 1  # this process got no processor between its look at the time and the verifier's
            return
        self.tally.rejected[Rejected(by, reason, minted.kid)] += 1
        if len(self.tally.contexts) < _MOST_CONTEXTS:
            now = time.time()
            self.tally.contexts.append(
                f"{now:.3f}: {by} rejects ({reason}) what {minted.on} minted {now - minted.at:.3f} s ago "
                f"with {minted.kid}: {context}"
            )

    def _unavailable(self, node: str, act: str, exc: KeydistError) -> None:
        self.tally.unavailable[Unavailable(node, act, exc.code, int(time.time() * TICKS))] += 1

    def _shown(self, name: str) -> str:
        try:
            view = self._verifiers[name]._following.current().view
        except KeydistError as exc:
            return str(exc)
        listed = {key.kid: key.state.value for key in view.keyset.signing_keys()}
        return f"it uses epoch {view.keyset.epoch} {listed}, {view.lease}"


def _run(pipe: Connection, application: Mapping[str, Any]) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # dies with its parent
    os.nice(_NICE)
    working = Application(**application)
    paused = True
    while True:
        while pipe.poll(None if paused else 0):
            order = pipe.recv()
            if order == "end":
                return
            if order == "forget":
                working.forget()
            paused = order != "go"
            pipe.send(working.take())
        for _ in range(_BATCH):
            working.work()


class Traffic:
    """So many processes of applications; each mints on all nodes, and verifies on its part of them."""

    def __init__(self, configs: Mapping[str, str], *, workers: int, lifetime: int, leeway: int) -> None:
        self._tally = Tally()
        self._pipes: list[Connection] = []
        self._processes = []
        names = sorted(configs)
        for number in range(workers):
            ours, theirs = processes.Pipe()
            part = {name: configs[name] for name in names[number::workers]}
            application = {"signers": dict(configs), "verifiers": part, "lifetime": lifetime, "leeway": leeway}
            process = processes.Process(target=_run, args=(theirs, application))
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def go(self) -> None:
        """Let all processes work; what they counted before is dropped."""
        self._ask("go")
        self._tally = Tally()

    def look(self) -> Tally:
        """Return what was counted since `go`, and let them go on."""
        return self._ask("go")

    def pause(self, *, forget: bool = False) -> Tally:
        """Let them wait, and return what was counted since `go`. `forget` lets go of what they would verify later."""
        return self._ask("forget" if forget else "wait")

    def _ask(self, order: str) -> Tally:
        for pipe in self._pipes:
            pipe.send(order)
        for pipe in self._pipes:
            assert pipe.poll(30), "a process of applications ended or hangs"
            self._tally.add(pipe.recv())
        return self._tally
