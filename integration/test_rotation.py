"""Twenty-two real agents on three real nats-servers, through rotations, faults, a wiped store and revocations.

One leader, one standby leader and 20 followers, with NATS accounts as recommended. Applications mint on every node and
verify on every other without pause, and so does an outside verifier that keeps the JWK Set for its max-age.

`KEYDIST_TEST_ROTATIONS` (20) is how many rotations in a row there are without faults, `KEYDIST_TEST_FAULT_ROTATIONS`
(2) how many while servers and agents are killed, `KEYDIST_TEST_REVOCATIONS` (5) how many keys are revoked, and
`KEYDIST_TEST_SEED` what the faults are drawn from. A long run: 100, 20 and 20.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any, Final

import pytest

from integration import history
from integration.cluster import Cluster
from integration.fleet import Fleet
from integration.history import USE, descends
from integration.hurried import LEEWAY, LIFETIME, PROPAGATION, settings
from integration.tally import Tally, outside_of
from integration.traffic import AUDIENCE, ISSUER, Traffic
from integration.trouble import Trouble
from keydist import Signer, Verifier
from keydist.core.accept import Held
from keydist.core.envelope import parse_envelope
from keydist.core.jws import parse_compact
from keydist.core.keyset import MAX_RETIRED
from keydist.errors import InvalidJwtError

ROTATIONS: Final = int(os.environ.get("KEYDIST_TEST_ROTATIONS", "20"))
COMMANDED: Final = ROTATIONS // 5
"""So many of them, the last ones, by command; the others by schedule."""
FAULT_ROTATIONS: Final = int(os.environ.get("KEYDIST_TEST_FAULT_ROTATIONS", "2"))
REVOCATIONS: Final = int(os.environ.get("KEYDIST_TEST_REVOCATIONS", "5"))
SEED: Final = int(os.environ.get("KEYDIST_TEST_SEED") or random.randrange(2**32))

LEASE: Final = 40
"""It outlives any fault. A retired key goes after R + G + L + λ + 4S = 46 s, 12 rotations: fewer than the 16 kept."""
SETTINGS: Final = settings(every=1, lease=LEASE)
LEADERS: Final = ("lead-1", "lead-2")
FOLLOWERS: Final = tuple(f"f-{number:02}" for number in range(20))
_ENOUGH: Final = 2_000
"""Fewer JWTs verified by nodes say nothing."""
_SERIES: Final = 3
_ASK_SECONDS: Final = 0.01
"""Twenty verifiers in this process take from the processors what twenty nodes would have: they are not asked without
pause."""
_PATIENCE: Final = 30
_LATE: Final = 5 * PROPAGATION
"""Within so many seconds after a fault there must be a rotation again."""
# Within so many seconds there must be no alarm left. Leaders that put a lost keyset back keep every retired key for its
# whole span anew: no more than four rotations find room until then, and where the machine is slow enough for a fifth
# to come due, they rightly call it overdue.
_QUIET: Final = LEASE + LIFETIME + LEEWAY + 2 * _LATE

Record = Callable[[str, object], None]
pytestmark = [pytest.mark.alone, pytest.mark.timeout(300 + 10 * ROTATIONS + 30 * FAULT_ROTATIONS)]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("rotation")
    with Cluster(directory, leaders=LEADERS, followers=FOLLOWERS) as cluster:
        asyncio.run(cluster.make_buckets())
        with Fleet(cluster, settings=SETTINGS) as made:
            made.start(["lead-1"])
            made.start()
            yield made


@pytest.fixture(scope="module")
def applications(fleet: Fleet) -> Iterator[Traffic]:
    configs = {name: str(member.node.config) for name, member in fleet.members.items()}
    with Traffic(configs, workers=2, lifetime=LIFETIME, leeway=LEEWAY) as made:
        yield made


@pytest.fixture
def traffic(fleet: Fleet, applications: Traffic) -> Iterator[Traffic]:
    """Traffic that runs over a fleet where all is well."""
    fleet.start()
    fleet.wait_quiet(_QUIET)
    applications.go()
    yield applications
    applications.pause(forget=True)


def active(fleet: Fleet, name: str = "lead-1") -> Held:
    held = fleet.load(name).held
    assert held is not None
    return held


def rotations(fleet: Fleet, wanted: int, *, seconds: float) -> list[Held]:
    """Return the keysets with which so many keys in a row began to sign, as `lead-1` takes them."""
    seen = [active(fleet)]

    def look() -> bool:
        now = active(fleet)
        if now.keyset.active.kid != seen[-1].keyset.active.kid:
            assert descends(now, seen[-1])
            seen.append(now)
        return len(seen) > wanted

    fleet.until(look, f"{wanted} rotations", seconds)
    return seen


def command(fleet: Fleet, *arguments: str) -> dict[str, Any]:
    """Run a command on the leader node, beside its agent, and return its answer."""
    return fleet.members["lead-1"].node.start_command(*arguments).answer()


def counted(fleet: Fleet, traffic: Traffic) -> Tally:
    """Return what became of the traffic once there was enough of it: on a busy machine it gets what others leave."""
    pairs = {(one, other) for one in fleet.members for other in fleet.members}
    fleet.until(lambda: (now := traffic.look()).verified > _ENOUGH and pairs <= set(now.pairs), "traffic", 120)
    return traffic.pause()


def check(tally: Tally, fleet: Fleet, record_property: Record) -> None:
    """Nothing was rejected; a node could not mint or verify only while it was away."""
    print(tally)
    record_property("traffic", str(tally))
    assert not tally.rejected, "\n".join([str(tally.rejected), *tally.contexts])
    assert not (found := outside_of(tally.unavailable, fleet.spans())), "\n".join(found[:20])


def one_lineage(fleet: Fleet, before: Held) -> Held:
    """Return what all disks hold: one keyset, which descends from the one before."""
    now = fleet.wait_same()
    assert descends(now, before)
    return now


async def stored(fleet: Fleet) -> tuple[bytes, float]:
    """Return the entry's bytes, and when the store took them; see `history.stored`."""
    async with fleet.cluster.operator() as operator:
        return await history.stored(operator)


# --- rotations -----------------------------------------------------------------------------------


def test_rotations_in_a_row_while_all_mint_and_verify(fleet: Fleet, traffic: Traffic, record_property: Record) -> None:
    start = time.monotonic()
    memory = {name: member.memory() for name, member in fleet.members.items()}
    seen = rotations(fleet, ROTATIONS - COMMANDED, seconds=4 * PROPAGATION * ROTATIONS)
    command(fleet, "policy", "set", "rotate_every=0s")
    try:
        for _ in range(COMMANDED):
            answer = command(fleet, "key", "rotate", "--wait")
            assert (answer["lacking"], answer["previous_kid"]) == ([], seen[-1].keyset.active.kid)
            seen.append(active(fleet))
            assert descends(seen[-1], seen[-2])
    finally:
        command(fleet, "policy", "set", "rotate_every=1s")
    seconds = time.monotonic() - start
    time.sleep(LIFETIME)  # the last JWTs of the key before live on under the new one
    tally = counted(fleet, traffic)
    one_lineage(fleet, seen[-1])
    check(tally, fleet, record_property)
    assert len({held.keyset.active.kid for held in seen}) == ROTATIONS + 1
    assert set(tally.kids) >= {held.keyset.active.kid for held in seen[1:]}
    assert max(len(held.keyset.keys) for held in seen) < 2 * (2 + MAX_RETIRED)
    grown = {name: member.memory() - memory[name] for name, member in fleet.members.items()}
    print(f"{ROTATIONS} rotations in {seconds:.1f} s; memory of an agent grew by up to {max(grown.values())} kB")
    fleet.wait_quiet(_QUIET)


def test_servers_and_agents_are_killed_at_random_meanwhile(
    fleet: Fleet, traffic: Traffic, record_property: Record
) -> None:
    print(f"KEYDIST_TEST_SEED={SEED}")
    trouble, latest, seconds = Trouble(fleet, seed=SEED), active(fleet), time.monotonic()
    kids = {latest.keyset.active.kid}
    while len(kids) <= FAULT_ROTATIONS:
        trouble.step()
        before, latest = latest, max(fleet.held().values(), key=lambda held: held.keyset.epoch)
        assert descends(latest, before)
        kids.add(latest.keyset.active.kid)
        assert time.monotonic() < seconds + 60 + 30 * FAULT_ROTATIONS, f"{len(kids) - 1} rotations: {fleet.shown()}"
    seconds = time.monotonic() - seconds
    trouble.end()
    back = fleet.until(lambda: not fleet.note_confirmed(), "every agent to be back")
    again = time.monotonic()
    rotations(fleet, 2, seconds=2 * _LATE)
    again = time.monotonic() - again
    tally = counted(fleet, traffic)
    one_lineage(fleet, latest)
    slowest = max(absence.confirmed - absence.ended for absence in fleet.absences)
    print(f"{dict(trouble.kills)} killed, {len(fleet.absences)} absences of up to {slowest:.1f} s; {len(kids) - 1}")
    print(f"rotations in {seconds:.1f} s; then all were back in {back:.1f} s, and two rotations took {again:.1f} s")
    check(tally, fleet, record_property)
    fleet.wait_quiet(_QUIET)


def test_all_stores_are_wiped_meanwhile(fleet: Fleet, traffic: Traffic, record_property: Record) -> None:
    rotations(fleet, 1, seconds=_LATE)
    before = active(fleet)
    fleet.cluster.wipe_all()
    held = active(fleet)
    asyncio.run(fleet.cluster.make_buckets())  # the operator: no leader may make them with these accounts
    seconds = fleet.until(lambda: asyncio.run(stored(fleet))[0] != b"", "a leader to put the keyset back")
    assert asyncio.run(stored(fleet))[0] == held.envelope, "byte for byte what the nodes held"
    rotations(fleet, 1, seconds=2 * _LATE)
    tally = counted(fleet, traffic)
    one_lineage(fleet, before)
    check(tally, fleet, record_property)
    print(f"healed {seconds:.1f} s after there were buckets again")
    fleet.wait_quiet(_QUIET)


# --- revocations -----------------------------------------------------------------------------------


class Watch:
    """All followers' verifiers, and when each refused a JWT."""

    def __init__(self, fleet: Fleet) -> None:
        self._nodes = {name: Verifier.open(str(fleet.members[name].node.config)) for name in FOLLOWERS}

    def refusals(self, jwt: str, *, but: Collection[str] = ()) -> dict[str, str]:
        """Return who refuses, and why; those of `but` are not asked."""
        found = {}
        for name in self._nodes.keys() - set(but):
            try:
                self._nodes[name].verify(jwt, audience=AUDIENCE, issuer=ISSUER)
            except InvalidJwtError as exc:
                found[name] = exc.reason
        return found


def revoke(fleet: Fleet, watch: Watch, signer: Signer) -> tuple[str, list[float]]:
    """Revoke the active key by command; return a JWT of it, and after how many seconds each follower refused that.

    The seconds count from when the store took the epoch, which is before it acknowledged it. There are none where a
    leader wrote another epoch meanwhile.
    """
    jwt = signer.mint({}, subject="revoked", audience=AUDIENCE, lifetime=LIFETIME)
    kid = parse_compact(jwt).header.kid
    assert watch.refusals(jwt) == {}
    running = fleet.members["lead-1"].node.start_command("key", "revoke", kid, "--reason", "a test", "--yes")
    refused: dict[str, float] = {}
    deadline = time.monotonic() + _PATIENCE
    while len(refused) < len(FOLLOWERS):
        found = watch.refusals(jwt, but=refused)
        assert set(found.values()) <= {"kid-revoked", "expired"}, found  # expired: on a machine that stood still
        refused |= {name: time.time() for name, reason in found.items() if reason == "kid-revoked"}
        assert time.monotonic() < deadline, f"not revoked at: {sorted(set(FOLLOWERS) - set(refused))}"
        time.sleep(_ASK_SECONDS)
    answer = running.answer()
    assert answer["revoked"] == [kid]
    envelope, at = asyncio.run(stored(fleet))
    is_its = parse_envelope(envelope).header.epoch == answer["epoch"]
    return jwt, [when - at for when in refused.values()] if is_its else []


def series(fleet: Fleet, watch: Watch, signer: Signer) -> tuple[list[str], list[float]]:
    """Revoke some keys; return a JWT of each, and after how many seconds each follower refused it, sorted."""
    jwts, seconds = list[str](), list[float]()
    for _ in range(2 * REVOCATIONS):
        jwt, found = revoke(fleet, watch, signer)
        seconds += found
        jwts.append(jwt)
        if len(seconds) == REVOCATIONS * len(FOLLOWERS):
            break
        fleet.wait_same()
    assert len(seconds) == REVOCATIONS * len(FOLLOWERS)
    return jwts, sorted(seconds)


def test_revocations_reach_every_follower_within_a_second(fleet: Fleet, record_property: Record) -> None:
    fleet.start()
    fleet.wait_quiet(_QUIET)
    watch, jwts, p99 = Watch(fleet), list[str](), 0.0
    with Signer.open(str(fleet.members["lead-1"].node.config)) as signer:
        for _ in range(_SERIES):  # what else the machine does for a moment is not what is measured
            more, seconds = series(fleet, watch, signer)
            jwts += more
            p50, p99 = (seconds[int(len(seconds) * part)] for part in (0.5, 0.99))
            shown = f"{len(more)} revocations, {len(seconds)} refusals: p50 {p50:.3f}, p99 {p99:.3f} s"
            print(shown)
            record_property("revocation", shown)
            if p99 <= 1:
                break
    assert p99 <= 1
    for jwt in jwts:
        assert watch.refusals(jwt) == dict.fromkeys(FOLLOWERS, "kid-revoked")


async def put(fleet: Fleet, envelope: bytes) -> None:
    """Put bytes into the store as somebody who may write there and knows no compare-and-set."""
    async with fleet.cluster.client("lead-1") as writer:
        answer = json.loads((await writer.request(USE.entry, envelope, timeout=10)).data)
        assert "error" not in answer, answer


def leaders_stopped(fleet: Fleet) -> Held:
    """Stop the leaders and return what all disks hold.

    One that is stopped between its write and its installation takes what it wrote at its next start: then once more.
    """
    for _ in range(_SERIES):
        for name in LEADERS:
            fleet.stop(name)
        with suppress(AssertionError):
            return fleet.wait_same(_PATIENCE / 3)
        fleet.start(LEADERS)
        fleet.wait_same()
    raise AssertionError


def test_a_revoked_key_stays_revoked_where_the_store_is_put_back(fleet: Fleet) -> None:
    fleet.start()
    fleet.wait_quiet(_QUIET)
    watch, earlier = Watch(fleet), active(fleet)
    with Signer.open(str(fleet.members["lead-1"].node.config)) as signer:
        jwt, _ = revoke(fleet, watch, signer)
    fleet.wait_same()
    now = leaders_stopped(fleet)  # else they put it right within milliseconds
    asyncio.run(put(fleet, earlier.envelope))
    fleet.until(lambda: all(fleet.members[name].alarms()["rollback"] for name in FOLLOWERS), "every follower to alarm")
    assert watch.refusals(jwt) == dict.fromkeys(FOLLOWERS, "kid-revoked")
    assert fleet.wait_same().digest == now.digest
    fleet.start(LEADERS)
    fleet.until(lambda: asyncio.run(stored(fleet))[0] == now.envelope, "a leader to put the later epoch back")
    fleet.wait_quiet(_QUIET)
    assert watch.refusals(jwt) == dict.fromkeys(FOLLOWERS, "kid-revoked")
    one_lineage(fleet, now)
