"""The demo's verdict: whatever contradicts 'one key, the same everywhere, made once' is found."""

from __future__ import annotations

import json

import pytest

from keydist.cli.demo.cluster import printable, private_environment, read_answer
from keydist.cli.demo.screen import HEADER, layout, row
from keydist.cli.demo.story import FIRST_START, NATS_STOPPED, NEW_NODE, STORE_WIPED, Act, Scene, Start, problems

_KID = "k" * 43


def _start(act: Act, node: str = "node-2") -> Start:
    role = "leader" if node == "node-1" else "follower"
    start = Start(node=node, role=role, epoch=1, kid=_KID, lineage="l", envelope="e", seconds=0.1)
    start.outcome = act.leader if start.is_leader else act.follower
    start.alarms = ("alarm",) if act.alarming else ()
    return start


def _scenes(wrong: Act | None = None, **changes: object) -> list[Scene]:
    """Return the demo as it should go, but for what node-2 does in one act."""
    scenes = []
    for act in (FIRST_START, NATS_STOPPED, STORE_WIPED, NEW_NODE):
        follower = _start(act)
        for name, value in changes.items() if act is wrong else ():
            setattr(follower, name, value)
        leaders = (_start(act, "node-1"),) if act.leader else ()
        scenes.append(Scene(act=act, starts=(*leaders, follower)))
    return scenes


def test_what_should_happen_is_no_problem() -> None:
    assert problems(_scenes()) == []


@pytest.mark.parametrize("act", [FIRST_START, NATS_STOPPED, STORE_WIPED, NEW_NODE], ids=lambda act: act.name)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kid": "other"}, "another key than node-1"),
        ({"kid": ""}, "has no key"),
        ({"error": "the reason"}, "has no key"),
        ({"epoch": 2}, "another keyset"),
        ({"lineage": "m"}, "another keyset"),
        ({"envelope": "f"}, "another keyset"),
        ({"outcome": "unchanged"}, "ended as unchanged"),
    ],
    ids=["kid", "no kid", "error", "epoch", "lineage", "envelope", "outcome"],
)
def test_one_wrong_start_is_found(act: Act, changes: dict[str, object], said: str) -> None:
    found = problems(_scenes(act, **changes))
    assert len(found) == 1
    assert said in found[0]


def test_a_second_key_is_found_even_where_it_is_the_same() -> None:
    assert problems(_scenes(NEW_NODE, outcome="generated"))[-1] == "more than one key was generated: by node-1, node-2"


def test_a_start_in_silence_is_found_where_there_must_be_an_alarm() -> None:
    assert problems(_scenes(STORE_WIPED, alarms=())) == ["node-2 started without an alarm"]


@pytest.mark.parametrize(
    ("code", "answer", "said", "error", "exit_code"),
    [
        (77, b'{"error": {}}', "wrong token", "wrong token", 77),
        (1, b"", "", "it said nothing", 1),
        (-9, b"", "", "it was ended by signal 9", 70),
        (0, b"nonsense", "", "it said nothing", 70),
        (0, b"[]", "", "it said nothing", 70),
    ],
    ids=["refused", "silent", "killed", "no JSON", "no object"],
)
def test_a_process_without_a_key_is_an_error(code: int, answer: bytes, said: str, error: str, exit_code: int) -> None:
    start = Start(node="node-2", role="follower")
    read_answer(start, code=code, answer=answer, said=said)
    assert (start.error, start.exit_code, start.kid) == (error, exit_code, "")


def test_an_answer_is_read() -> None:
    start = Start(node="node-2", role="follower")
    answer = {"outcome": "retrieved", "epoch": 3, "kid": _KID, "lineage": "l", "alarms": [{"code": "store-lost"}]}
    read_answer(start, code=0, answer=json.dumps(answer).encode(), said="")
    assert (start.outcome, start.epoch, start.kid, start.alarms) == ("retrieved", 3, _KID, ("store-lost",))


def test_what_is_meant_for_another_keydist_is_not_inherited() -> None:
    kept = private_environment({"KEYDIST_CONFIG": "x", "NOTIFY_SOCKET": "x", "PATH": "p", "PYTHONPATH": "q"})
    assert sorted(kept) == ["PATH", "PYTHONPATH"]
    assert kept["PYTHONPATH"].endswith(":q")


def test_a_terminal_is_never_told_what_a_process_said_to_it() -> None:
    assert printable("a\x1b[2Jb\x07c\u202e\n") == "a [2Jb c"


@pytest.mark.parametrize(("width", "kid"), [(120, _KID), (80, "k" * 12 + ".."), (40, "k" * 6 + "..")])
def test_a_row_fits_the_width(width: int, kid: str) -> None:
    start = _start(NATS_STOPPED, "node-51")
    start.alarms, start.seconds = ("unreachable",), 12.3456
    line = layout(row(start), width)
    assert len(line) < max(width, 74)
    assert line.split() == ["node-51", "follower", "1", kid, "from-disk", "unreachable", "12346"]
    assert line.index(kid) == layout(HEADER, width).index("kid")
