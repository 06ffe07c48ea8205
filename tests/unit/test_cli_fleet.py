"""`keydist status --fleet`: who lives, who does not, and what a person and a program are told of it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keydist.adapters.clock import SystemClock
from keydist.adapters.embedded import EmbeddedServer
from keydist.cli.fleet_table import Frame, lines
from keydist.core.record import Record
from keydist.errors import MalformedError, WrongTokenError
from keydist.services.survey import Look, Row
from tests.material import NOW, OTHER_LINEAGE, OTHER_TOKEN, Change, chain, extend, make_record, noise, sealed_record
from tests.unit.cli_node import Answer, CliNode
from tests.unit.fleet_nodes import Nodes, run, set_up, write

CLOCK = SystemClock()
NAMES = ("node", "role", "state", "epoch", "key", "token", "seen", "loaded", "minted", "version", "alarms")
MINE = chain(2)[-1]
PARENT = chain(1)[-1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    started = EmbeddedServer(tmp_path_factory.mktemp("nats"))
    started.start()
    yield started
    started.stop()


@pytest.fixture
def node(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CliNode:
    """A leader that holds epoch 2, as the store does; nobody has a record yet."""
    found = CliNode(tmp_path, monkeypatch, capsys)
    found.use_server(server.url, "keydist")
    found.install(*chain(2))
    run(set_up(server.url, MINE))
    return found


def says(name: str, held: Any = MINE, **members: object) -> Record:  # noqa: ANN401 - a Held
    return make_record(held, node=name, **{"heartbeat": 1, **members})


def rows(answer: Answer) -> dict[str, dict[str, Any]]:
    return {row["node"]: row for row in answer.json["nodes"]}


def test_a_healthy_fleet_answers_at_once(node: CliNode, server: EmbeddedServer) -> None:
    with Nodes(server.url, says("a", heartbeat=600), says("b", heartbeat=600)):
        began = CLOCK.monotonic()
        answer = node.run("status", "--fleet", "--json")
        assert CLOCK.monotonic() - began < 4  # of two seconds to answer; not of six hundred to the next heartbeat
    assert (answer.code, answer.err) == (0, "")
    facts = answer.json
    assert (facts["healthy"], facts["epoch"], facts["store"]) == (True, 2, "the keyset of this node")
    assert facts["fleet"] == {"live": 2, "states": {"current": 2}, "not_heard": []}
    row = rows(answer)["a"]
    assert abs(row["last_seen"] - CLOCK.now()) < 5
    assert (row["node"], row["epoch"], row["kid"], row["state"]) == ("a", 2, MINE.keyset.active.kid, "current")
    expected = {"role": "follower", "token": MINE.token_id, "tokens": [MINE.token_id], "leaving": False, "error": None}
    assert {name: row[name] for name in expected} == expected
    assert row.keys() >= {"digest", "instance", "loaded", "minted", "version", "alarms", "written", "lineage"}


STATES: dict[str, tuple[Record, str, int]] = {
    "behind": (says("x", PARENT), "behind", 75),
    "ahead": (says("x", extend(MINE, Change.ROTATE)), "ahead", 65),
    "another lineage": (says("x", lineage=OTHER_LINEAGE), "forked", 65),
    "another history": (says("x", extend(PARENT, Change.ROTATE, name="other ")), "forked", 65),
    "an old token": (says("x", PARENT, token=OTHER_TOKEN.token_id), "old token", 77),
    "with an alarm": (says("x", alarms=("overdue",)), "alarmed", 75),
    "with a worse alarm": (says("x", alarms=("overdue", "disk-full")), "alarmed", 73),
    "with an alarm of a later release": (says("x", alarms=("flux",)), "alarmed", 75),
}


@pytest.mark.parametrize(("record", "state", "code"), STATES.values(), ids=STATES)
def test_how_a_live_node_stands_gives_the_exit_code(
    node: CliNode, server: EmbeddedServer, record: Record, state: str, code: int
) -> None:
    with Nodes(server.url, says("a"), record):
        answer = node.run("status", "--fleet", "--json")
    assert (rows(answer)["x"]["state"], answer.code, answer.json["healthy"]) == (state, code, False)
    assert rows(answer)["a"]["state"] == "current"


def test_two_instances_under_one_name(node: CliNode, server: EmbeddedServer) -> None:
    with Nodes(server.url, says("x"), says("x", instance=noise("twin", 16).hex())):
        answer = node.run("status", "--fleet", "--json")
    assert [(row["node"], row["state"]) for row in answer.json["nodes"]] == [("x", "double")] * 2
    assert answer.code == 78


def test_a_node_that_was_killed_is_unheard_and_one_that_stopped_has_left(node: CliNode, server: EmbeddedServer) -> None:
    with Nodes(server.url, says("a"), dead=(says("dead"), says("left", PARENT, leaving=True))):
        answer = node.run("status", "--fleet", "--json")
        silent = node.run("status", "--fleet")
    assert {name: row["state"] for name, row in rows(answer).items()} == {
        "a": "current",
        "dead": "unheard",
        "left": "left",
    }
    assert (answer.code, rows(answer)["dead"]["last_seen"], rows(answer)["dead"]["written"]) == (75, None, NOW)
    assert answer.json["fleet"]["states"] == {"unheard": 1, "current": 1, "left": 1}
    assert "keydist node forget dead" in silent.out


def test_who_does_not_answer_is_heard_at_its_heartbeat(node: CliNode, server: EmbeddedServer) -> None:
    with Nodes(server.url, says("a"), answers=False):
        answer = node.run("status", "--fleet", "--json")
    assert (answer.code, rows(answer)["a"]["state"]) == (0, "current")
    assert rows(answer)["a"]["last_seen"] is not None


@pytest.mark.parametrize("options", [("--quick",), ("--listen", "0s")])
def test_one_reading_cannot_know_who_is_silent(node: CliNode, server: EmbeddedServer, options: tuple[str, ...]) -> None:
    with Nodes(server.url, dead=(says("dead", heartbeat=600),)):
        answer = node.run("status", "--fleet", "--json", *options)
        plain = node.run("status", "--fleet", *options)
    assert (answer.code, rows(answer)["dead"]["state"], rows(answer)["dead"]["last_seen"]) == (0, "current", None)
    assert answer.json["fleet"]["not_heard"] == ["dead"]
    assert "current?" in plain.out
    assert "not heard yet: dead" in plain.out


def test_listening_ends_when_it_was_asked_to(node: CliNode, server: EmbeddedServer) -> None:
    with Nodes(server.url, dead=(says("dead", heartbeat=600),)):
        began = CLOCK.monotonic()
        answer = node.run("status", "--fleet", "--json", "--listen", "1s")
    assert 1 <= CLOCK.monotonic() - began < 3
    assert answer.json["fleet"]["not_heard"] == ["dead"]


UNREADABLE = {"garbage": (b"nonsense", 65, "malformed"), "another token": (b"", 77, "wrong-token")}


@pytest.mark.parametrize(("raw", "code", "error"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_record_that_cannot_be_opened_is_a_row_with_its_reason(
    node: CliNode, server: EmbeddedServer, raw: bytes, code: int, error: str
) -> None:
    run(write(server.url, "x", raw or sealed_record(says("x"), token=OTHER_TOKEN)))
    with Nodes(server.url, says("a")):
        answer = node.run("status", "--fleet", "--json")
        plain = node.run("status", "--fleet")
    row = rows(answer)["x"]
    assert (answer.code, row["state"], row["error"]["code"], row["epoch"]) == (code, "unreadable", error, None)
    assert row.keys() == rows(answer)["a"].keys()
    assert "unreadable x: " in plain.out


def test_a_fleet_of_which_nobody_lives_is_not_healthy(node: CliNode) -> None:
    answer = node.run("status", "--fleet", "--json")
    assert (answer.code, answer.json["nodes"], answer.json["healthy"]) == (75, [], False)
    assert "nobody lives" in node.run("status", "--fleet").out


def test_this_nodes_own_alarms_count(node: CliNode, server: EmbeddedServer) -> None:
    later = extend(MINE, Change.ROTATE)
    run(set_up(server.url, later))
    with Nodes(server.url, says("a", later)):
        answer = node.run("status", "--fleet", "--json")
    assert [alarm["code"] for alarm in answer.json["alarms"]] == ["outdated"]
    assert (rows(answer)["a"]["state"], answer.code) == ("ahead", 65)
    assert "keydist: alarm [outdated]" in answer.err


def test_for_people(node: CliNode, server: EmbeddedServer) -> None:
    with Nodes(server.url, says("a"), says("x", PARENT, alarms=("disk-full",))):
        answer = node.run("status", "--fleet")
    first, second, _, header, worst, best, *_ = answer.out.splitlines()
    assert first == "fleet of prod-eu1, seen by node-a: 2 node(s), 2 live: 1 behind, 1 current"
    assert second.endswith("not used by x")
    assert header.split() == [*NAMES[:6], "last", *NAMES[6:]]
    assert worst.split()[:4] == ["x", "follower", "behind", "1"]
    assert worst.endswith("disk-full")
    assert best.split()[:4] == ["a", "follower", "current", "2"]
    assert "behind x: " in answer.out
    assert "\x1b" not in answer.out


USAGE: dict[str, tuple[str, ...]] = {
    "quick without the fleet": ("--quick",),
    "listen without the fleet": ("--listen", "3s"),
    "offline with the fleet": ("--fleet", "--offline"),
    "no time": ("--fleet", "--listen", "soon"),
}


@pytest.mark.parametrize("options", USAGE.values(), ids=USAGE)
def test_what_does_not_fit_together_is_usage(node: CliNode, options: tuple[str, ...]) -> None:
    answer = node.run("status", "--json", *options)
    assert (answer.code, answer.error["code"]) == (2, "usage")


def test_a_node_without_a_keyset_measures_nobody(node: CliNode, tmp_path: Path) -> None:
    node.configure(state_dir="nothing")
    assert node.run("status", "--fleet", "--json").error["code"] == "not-yet"


# --- what is drawn ------------------------------------------------------------------------------


def row_of(record: Record, state: str, **members: Any) -> Row:  # noqa: ANN401 - of a Row
    return Row(**{"name": record.node, "state": state, "record": record, "seen": NOW - 5, "written": NOW, **members})


ROWS = (
    row_of(says("node-with-a-long-name-in-frankfurt-1", lineage=OTHER_LINEAGE), "forked"),
    row_of(says("n2"), "double"),
    Row(name="n3", state="unreadable", why=MalformedError("no record\x1b[2J")),
    row_of(says("n4"), "silent", seen=None, written=NOW - 7200),
    row_of(says("n5"), "unheard", seen=None),
    row_of(says("n6", PARENT, token=OTHER_TOKEN.token_id, tokens=(OTHER_TOKEN.token_id,)), "old token"),
    row_of(says("n7", extend(MINE, Change.ROTATE)), "ahead"),
    row_of(says("n8", PARENT), "behind"),
    row_of(says("n9", alarms=("disk-full", "overdue", "store-lost")), "alarmed"),
    row_of(says("n10"), "current"),
    row_of(replace(says("n11"), leaving=True), "left", seen=None),
)


def drawn(width: int | None, *shown: Row) -> list[str]:
    frame = Frame(look=Look(rows=shown, pending=()), held=MINE, now=NOW, title="fleet of c, seen by a")
    return ["".join(span.text for span in line) for line in lines(frame, width=width)]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_nothing_is_wider_than_the_terminal_and_the_state_is_always_there(width: int) -> None:
    found = drawn(width, *ROWS)
    assert max(map(len, found)) <= width
    table = found[found.index("") + 1 :][: len(ROWS) + 1]
    assert [name in table[0] for name in ("node", "state", "epoch")] == [True] * 3
    for row, line in zip(ROWS, table[1:], strict=True):
        assert f"  {row.state}  " in line


def test_the_least_needed_columns_go_first() -> None:
    def titles(width: int | None) -> set[str]:
        shown = drawn(width, row_of(says("n9", alarms=("overdue",)), "alarmed"))
        return set(shown[shown.index("") + 1].replace("last seen", "seen").split())

    assert titles(None) == set(NAMES)
    gone: list[str] = []
    for width in range(110, 20, -1):
        gone += sorted(set(NAMES) - titles(width) - set(gone))
    assert gone == ["version", "minted", "loaded", "key", "role", "token", "alarms", "seen"]


def test_every_bad_state_has_its_advice() -> None:
    text = "\n".join(drawn(None, *ROWS))
    for state, name in (("forked", "node-with"), ("double", "n2"), ("unreadable", "n3"), ("silent", "n4")):
        assert f"\n{state} {name}" in text
    for state, name in (("unheard", "n5"), ("old token", "n6"), ("ahead", "n7"), ("behind", "n8"), ("alarmed", "n9")):
        assert f"\n{state} {name}: " in text
    assert f"put token {MINE.token_id} into the token file of n6" in text
    assert "~2 h ago" in text
    assert text.replace("\n", "").isprintable()


def test_who_has_the_new_token_already_need_not_be_given_it() -> None:
    shown = drawn(None, row_of(says("n6", PARENT, token=OTHER_TOKEN.token_id), "old token"))
    assert "the new token is there" in shown[-1]


def test_a_wrong_token_says_which() -> None:
    why = WrongTokenError("sealed under another", have=("a",), need="b", fix="compare")
    assert "expected token b" in "\n".join(drawn(None, Row(name="x", state="unreadable", why=why)))


def test_many_nodes_in_one_state_are_counted() -> None:
    shown = drawn(None, *(row_of(says(f"n{number}", PARENT), "behind") for number in range(9)))
    assert "n5 and 3 more" in shown[-1]


# --- a terminal ---------------------------------------------------------------------------------


def on_a_terminal(*arguments: str, ends: float | None, term: str = "xterm") -> tuple[int, str]:
    """Run a command on a terminal of its own; after `ends` seconds somebody presses Ctrl-C."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": term, "COLUMNS": "100", "LINES": "30"}
    command = [sys.executable, "-m", "keydist", *arguments]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True)
    os.close(theirs)
    os.set_blocking(ours, False)
    said, began, is_told = b"", CLOCK.monotonic(), False
    while process.poll() is None and CLOCK.monotonic() < began + 30:
        said += _available(ours)
        if ends is not None and not is_told and CLOCK.monotonic() > began + ends:
            process.send_signal(signal.SIGINT)
            is_told = True
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    said += _available(ours)
    os.close(ours)
    return process.wait(5), said.decode()


def _available(stream: int) -> bytes:
    found = b""
    try:
        while chunk := os.read(stream, 65_536):
            found += chunk
    except OSError:
        pass
    return found


def test_on_a_terminal_it_is_there_at_once_and_stays_once(node: CliNode, server: EmbeddedServer) -> None:
    with Nodes(server.url, says("a"), dead=(says("dead", heartbeat=2),)):
        code, said = on_a_terminal("status", "--fleet", ends=None)
    assert code == 75
    assert "current?" in said
    assert "listening, " in said
    last = said[said.rindex("fleet of") :]
    assert "unheard" in last
    assert "listening" not in last
    assert "\x1b[33munheard" in last


def test_a_terminal_that_can_do_nothing_gets_plain_lines(node: CliNode, server: EmbeddedServer) -> None:
    with Nodes(server.url, says("a")):
        code, said = on_a_terminal("status", "--fleet", ends=None, term="dumb")
    assert code == 0
    assert "\x1b" not in said


def test_watching_ends_quietly(node: CliNode, server: EmbeddedServer) -> None:
    with Nodes(server.url, says("a"), says("x", PARENT)):
        code, said = on_a_terminal("status", "--fleet", "--watch", ends=5)
    assert code == 130
    assert "Traceback" not in said
    assert said.count("Ctrl-C ends") >= 3
    assert said.rstrip("\x1b[?25h\r\n").endswith("Ctrl-C ends\x1b[0m")


def test_elsewhere_watching_appends(node: CliNode, server: EmbeddedServer) -> None:
    command = [sys.executable, "-m", "keydist", "status", "--fleet", "--watch", "--json"]
    with Nodes(server.url, says("a")):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # CliNode names the configuration
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
        process.stdout.close()
    assert (first["fleet"]["live"], first["fleet"]["not_heard"]) == (1, [])
