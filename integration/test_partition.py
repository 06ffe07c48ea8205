"""Parts of a cluster are cut off from the rest, silently, and healed, while keys rotate and applications go on.

Three servers and six agents with TLS and the recommended accounts, each on a host of its own. Whatever is cut: no JWT
is rejected by anybody, also none that was minted where it is cut off; there is one history in the end; who is cut off
says so; and all is well within 5 s of the healing, within 15 s where NATS elects.

`KEYDIST_TEST_PARTITIONS` (1) is how often each part is cut, and `KEYDIST_TEST_PARTITION_SECONDS` (6) for how long at
the least: "6,20" cuts for both. More than one round, or another time, also cuts other parts: `MORE`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import pytest

from integration.hurried import LEEWAY, LIFETIME
from integration.parted import OVERDUE, SERVERS, Cut, Parted, spread
from integration.tally import outside_of
from integration.test_rotation import SETTINGS
from integration.traffic import Traffic

ROUNDS: Final = int(os.environ.get("KEYDIST_TEST_PARTITIONS", "1"))
SECONDS: Final = tuple(int(text) for text in os.environ.get("KEYDIST_TEST_PARTITION_SECONDS", "6").split(","))
LEADERS: Final = ("lead-1", "lead-2")
FOLLOWERS: Final = ("f-1", "f-2", "f-3", "f-4")
_QUIET: Final = 60
_MOST: Final = 30
"""So many seconds longer than it must a cut may last until there was a rotation."""
_STALE: Final = 6
_HEALED: Final = 5.0
_ELECTED: Final = 15.0
# A look begins 4/3 s after the last one at the latest, and 3 s later nobody has answered it, nor a ping; the rest is
# for a busy machine.
_ALARMED: Final = 4.4 + 2.0

pytestmark = [pytest.mark.alone, pytest.mark.timeout(200)]


class Part(NamedTuple):
    """Who is cut off; `rotates`: the rest can and must rotate meanwhile; `elects`: NATS elects, then or after it.

    `is_stale`: agents are cut off with a leader of the stream that was deposed, and goes on answering them for some
    ten seconds. R is 0 here: so it is healed before a key signs that was published since.
    """

    hosts: Callable[[Parted], tuple[str, ...]]
    rotates: bool = True
    elects: bool = False
    is_stale: bool = False


def island(parted: Parted) -> tuple[str, ...]:
    """Return a server that leads the stream, the leader that acts, and two followers, who lose the rest together."""
    return (parted.stream_leader(), parted.acting_leader(), *FOLLOWERS[:2])


PARTS: Final = {
    "a follower": Part(lambda _: FOLLOWERS[:1]),
    "the acting leader": Part(lambda parted: (parted.acting_leader(),)),
    "the stream leader": Part(lambda parted: (parted.stream_leader(),), elects=True),
    "two of three servers": Part(lambda _: SERVERS[:2], rotates=False, elects=True),
    "a server with agents": Part(island, elects=True, is_stale=True),
}
MORE: Final = {
    "all leaders": Part(lambda _: LEADERS, rotates=False),
    "all followers but one": Part(lambda _: FOLLOWERS[1:]),
    "another server": Part(lambda parted: tuple({*SERVERS} - {parted.stream_leader()})[:1], elects=True),
}
CASES: Final = PARTS if (ROUNDS, SECONDS) == (1, (6,)) else PARTS | MORE


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parted]:
    directory = tmp_path_factory.mktemp("partition")
    with Parted.made(directory, leaders=LEADERS, followers=FOLLOWERS, settings=SETTINGS) as made:
        yield made


@pytest.fixture(scope="module")
def applications(parted: Parted) -> Iterator[Traffic]:
    configs = {name: str(member.node.config) for name, member in parted.fleet.members.items()}
    with Traffic(configs, workers=1, lifetime=LIFETIME, leeway=LEEWAY) as made:
        yield made


@pytest.fixture(scope="module")
def cuts() -> Iterator[dict[str, list[Cut]]]:
    """What was measured, told in the end."""
    made: dict[str, list[Cut]] = {}
    yield made
    for name, found in made.items():
        alarms = [after for cut in found for after in cut.alarmed.values()]
        print(
            f"\n{name}, {len(found)} cuts: converged {spread([cut.converged for cut in found])} after the healing,"
            f" alarmed {spread(alarms)} after the cut, nothing overdue after {spread([cut.quiet for cut in found])}",
            end="",
        )
    print()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("_round", range(ROUNDS))
def test_a_part_is_cut_off_and_healed(
    _round: int, seconds: int, name: str, parted: Parted, applications: Traffic, cuts: dict[str, list[Cut]]
) -> None:
    fleet, part = parted.fleet, CASES[name]
    fleet.wait_quiet(_QUIET)
    hosts = part.hosts(parted)
    lost = [node for node in fleet.members if node in hosts]
    rest = next(node for node in fleet.members if node not in hosts)
    before, leading = parted.held(rest), [node for node in LEADERS if node not in hosts]
    applications.go()
    asked = {node: parted.command(node, "status") for node in lost[:1]} if not part.elects else {}

    def is_enough(began: float) -> bool:
        has_rotated = not part.rotates or any(parted.rotations_since(began + 1, leading))
        return has_rotated and all(one.poll() is not None for one in asked.values())

    least = min(seconds, _STALE) if part.is_stale else seconds
    made = parted.cut(*hosts, until=is_enough, least=least, most=least + _MOST)
    meanwhile = applications.look().pairs.copy()
    parted.wait_converged(made, patience=2 * _ELECTED)
    print(f"{name}: {made}")
    cuts.setdefault(name, []).append(made)
    # What was minted until the healing is verified later in its life too.
    fleet.until(lambda: time.time() > made.healed + LIFETIME, "the last JWT of the cut to expire")
    tally = applications.pause(forget=True)
    print(f"  {tally}")

    assert not tally.rejected, "\n".join([str(tally.rejected), *tally.contexts])
    away = (made.began, made.healed + made.converged)
    concerned = fleet.members if part.elects else lost
    assert not (found := outside_of(tally.unavailable, {node: [away] for node in concerned})), "\n".join(found[:20])
    assert not [one for one in tally.unavailable if one.act == "mint"], "within its lease a node mints on"
    for node in lost:
        assert all(meanwhile[node, by] for by in fleet.members), f"what {node} mints is verified everywhere"
    parted.wait_one(before)
    check_alarms(parted, part, made, lost)
    for process in asked.values():
        answer = json.loads(process.communicate()[0])
        assert (process.returncode, {alarm["code"] for alarm in answer["alarms"]} - {OVERDUE}) == (75, {"unreachable"})
    assert made.converged <= (_ELECTED if part.elects else _HEALED)


def check_alarms(parted: Parted, part: Part, made: Cut, lost: list[str]) -> None:
    """Who is cut off says so in time; where NATS was whole, nobody else says anything."""
    if part.elects:
        return
    assert sorted(made.alarmed) == sorted(lost)
    assert max(made.alarmed.values()) <= _ALARMED
    away = made.healed - made.began
    told = {code for name, code, after in parted.alarms_since(made.began) if name in lost and after < away}
    assert told - {OVERDUE} == {"unreachable"}, "who hears nothing gives up the connection, not only the question"
    others = {(name, code) for name, code, _ in parted.alarms_since(made.began) if name not in lost}
    assert {code for _, code in others} <= {OVERDUE}
