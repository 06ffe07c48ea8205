"""`keydist bootstrap`: the plain way in and the full command line, which must agree on every option and outcome."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keydist.adapters.disk.keyset_disk import PosixKeysetDisk
from keydist.adapters.embedded import EmbeddedServer
from keydist.cli.app import run_app
from keydist.cli.bootstrap import BootstrapOptions, parse_plain, run
from keydist.core.accept import Held
from tests.fakes.memory_store import Fault
from tests.material import LINEAGE, OTHER_TOKEN, PLACE, Change, altered, chain, extend, hold
from tests.unit.cli_node import Answer, CliNode

MINE = chain(2)[-1]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CliNode:
    return CliNode(tmp_path, monkeypatch, capsys)


# --- the two ways in ----------------------------------------------------------------------------

PLAIN: list[tuple[list[str], BootstrapOptions]] = [
    ([], BootstrapOptions()),
    (["--json"], BootstrapOptions(as_json=True)),
    (["--role", "leader"], BootstrapOptions(role="leader")),
    (["--role=follower", "--json"], BootstrapOptions(role="follower", as_json=True)),
    (["--timeout", "2m", "--timeout", "0"], BootstrapOptions(timeout="0")),
    (["--min-epoch=7"], BootstrapOptions(min_epoch="7")),
    (["--token-file", "a", "--config=b=c"], BootstrapOptions(token_file="a", config="b=c")),
]


@pytest.mark.parametrize(("arguments", "options"), PLAIN)
def test_the_plain_way_in_knows_these(arguments: list[str], options: BootstrapOptions) -> None:
    assert parse_plain(arguments) == options


NOT_PLAIN = [
    ["--help"],
    ["-h"],
    ["extra"],
    ["--"],
    ["--role"],
    ["--role", "boss"],
    ["--min-epoch", "-1"],
    ["--min-epoch", "1.5"],
    ["--min-epoch", ""],
    ["--json=yes"],
    ["--unknown", "x"],
    ["--timeout", "soon"],
    ["--timeout", "--json"],
    ["--timeout="],
    ["--min-epoch", "\uff13"],
    ["--min-epoch", "9" * 16],
    ["--token-file", ""],
    ["--token-file="],
]


@pytest.mark.parametrize("arguments", NOT_PLAIN)
def test_anything_else_is_for_the_full_command_line(arguments: list[str]) -> None:
    assert parse_plain(arguments) is None


def both(node: CliNode, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Answer:
    """Run the plain form and, on the same state, the full command line; return their common answer."""
    assert parse_plain(arguments) is not None
    before = node.directory.parent / f"{node.directory.name}-before"
    node.keep(before)
    plain = node.run("bootstrap", *arguments)
    node.bring_back(before)
    with monkeypatch.context() as patch:
        patch.setattr("keydist.cli.bootstrap.parse_plain", lambda _arguments: None)
        full = node.run("bootstrap", *arguments)
    if "generated" in plain.out:  # a key of its own each time
        assert (plain.code, plain.err, plain.json.keys()) == (full.code, full.err, full.json.keys())
        return full
    assert plain == full
    return full


Step = Callable[[CliNode], object]


def has_state(node: CliNode) -> None:
    node.hold(2)


def store_holds(envelope: bytes) -> Step:
    return lambda node: node.bucket.put(envelope)


def store_answers(fault: Fault) -> Step:
    return lambda node: node.faults.update(read=fault)


def store_is_wiped(node: CliNode) -> None:
    node.bucket.wipe()


def token_is_gone(node: CliNode) -> None:
    node.hold_tokens()


OTHER_SIDE = extend(chain(1)[-1], Change.ROTATE, name="other ").envelope
OUTCOMES: dict[str, tuple[str, list[Step], str, list[str]]] = {
    "a first leader": ("leader", [lambda node: node.bucket.drop()], "generated", []),
    "another leader": ("leader", [store_holds(MINE.envelope)], "adopted", []),
    "a follower": ("follower", [store_holds(MINE.envelope)], "retrieved", []),
    "a restart": ("leader", [has_state], "unchanged", []),
    "a restart of a follower": ("follower", [has_state], "unchanged", []),
    "a newer epoch": (
        "follower",
        [has_state, store_holds(extend(MINE, Change.ROTATE).envelope)],
        "retrieved",
        [],
    ),
    "a lost store": ("leader", [has_state, store_is_wiped], "republished", ["store-lost"]),
    "a lost store, seen by a follower": ("follower", [has_state, store_is_wiped], "from-disk", ["store-lost"]),
    "a store that is down": (
        "leader",
        [has_state, store_answers(Fault.UNREACHABLE)],
        "from-disk",
        ["unreachable"],
    ),
    "no token": ("leader", [has_state, token_is_gone], "from-disk", ["token"]),
    "a fork": ("leader", [has_state, store_holds(OTHER_SIDE)], "from-disk", ["fork"]),
}


@pytest.mark.parametrize("case", OUTCOMES.values(), ids=OUTCOMES)
def test_both_ways_agree_on_every_outcome(
    node: CliNode, monkeypatch: pytest.MonkeyPatch, case: tuple[str, list[Step], str, list[str]]
) -> None:
    role, steps, outcome, alarms = case
    for step in steps:
        step(node)
    answer = both(node, monkeypatch, "--role", role, "--json", "--timeout", "0")
    assert answer.code == 0
    facts = answer.json
    assert (facts["outcome"], [alarm["code"] for alarm in facts["alarms"]]) == (outcome, alarms)
    held = node.load().held
    assert held is not None
    assert facts["changed"] == (outcome in ("generated", "adopted", "retrieved", "republished"))
    assert (facts["epoch"], facts["kid"], facts["lineage"]) == (
        held.keyset.epoch,
        held.keyset.active.kid,
        held.keyset.lineage,
    )
    assert (facts["role"], facts["node"], facts["cluster"]) == (role, "node-a", PLACE.cluster)
    for code in alarms:
        assert f"keydist: alarm [{code}]: " in answer.err


FAILURES: dict[str, tuple[str, list[Step], int, str]] = {
    "nothing came": ("follower", [], 75, "timeout"),
    "unreachable": ("follower", [store_answers(Fault.UNREACHABLE)], 75, "unreachable"),
    "forbidden": ("follower", [store_answers(Fault.FORBIDDEN)], 77, "forbidden"),
    "an emptied bucket": (
        "leader",
        [store_holds(MINE.envelope), lambda node: node.bucket.purge()],
        65,
        "refused-genesis",
    ),
    "tampered": ("leader", [store_holds(altered(MINE.envelope, -30))], 65, "tampered"),
    "another token": ("follower", [store_holds(hold(MINE.keyset, token=OTHER_TOKEN).envelope)], 77, "wrong-token"),
    "no token": ("leader", [token_is_gone], 78, "token"),
    "a refused configuration": (
        "leader",
        [has_state, lambda node: node.config.write_text("cluster: [", encoding="utf-8")],
        78,
        "config",
    ),
    "unsafe state": ("leader", [has_state, lambda node: node.state.chmod(0o777)], 77, "unsafe-file"),
    "damaged, nothing in the store": (
        "leader",
        [has_state, lambda node: node.lose_live(), store_is_wiped],
        65,
        "refused-genesis",
    ),
}


@pytest.mark.parametrize("case", FAILURES.values(), ids=FAILURES)
def test_both_ways_agree_on_every_failure(
    node: CliNode, monkeypatch: pytest.MonkeyPatch, case: tuple[str, list[Step], int, str]
) -> None:
    role, steps, code, name = case
    for step in steps:
        step(node)
    answer = both(node, monkeypatch, f"--role={role}", "--json", "--timeout=0")
    assert (answer.code, answer.error["code"]) == (code, name)
    assert answer.error["message"] in answer.err


OPTIONS: dict[str, tuple[list[str], int]] = {
    "a missing configuration": (["--config", "nowhere"], 78),
    "an empty configuration": (["--config="], 78),
    "a later epoch demanded": (["--min-epoch", "3", "--timeout", "0"], 65),
    "a demanded epoch that is there": (["--min-epoch", "2"], 0),
    "another token file": (["--token-file", "nowhere"], 0),
    "the last one counts": (["--role", "follower", "--role", "leader"], 0),
}


@pytest.mark.parametrize(("arguments", "code"), OPTIONS.values(), ids=OPTIONS)
def test_both_ways_agree_on_every_option(
    node: CliNode, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int
) -> None:
    node.hold(2)
    assert both(node, monkeypatch, *arguments).code == code
    assert both(node, monkeypatch, *arguments, "--json").code == code


def test_for_people(node: CliNode) -> None:
    node.hold(2)
    answer = node.run("bootstrap")
    assert answer.out == (f"node-a (leader): unchanged epoch 2 of lineage {LINEAGE}, key {MINE.keyset.active.kid}\n")
    for mistake in (
        ["--role", "boss"],
        ["--timeout", "soon"],
        ["--timeout="],
        ["--min-epoch", "9" * 5000],
        ["--token-file="],
    ):
        answer = node.run("bootstrap", *mistake, "--json")
        assert (answer.code, answer.error["code"]) == (2, "usage")
    assert node.run("bootstrap", "extra", "--json").error["code"] == "usage"
    assert "Example: keydist bootstrap" in node.run("bootstrap", "--help").out


def test_a_wait_is_told_once_for_each_reason(node: CliNode) -> None:
    answer = node.run("bootstrap", "--role", "follower", "--timeout", "1s", "--json")
    assert answer.code == 75
    assert answer.err.count("waiting for a leader to publish the key: nothing was ever written") == 1
    assert answer.err.startswith("keydist: waiting for a leader")


def test_the_service_manager_is_told(node: CliNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node.hold(2)
    path = node.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        assert node.run("bootstrap").code == 0
        assert listening.recv(4096) == b"READY=1\nSTATUS=holds epoch 2 (unchanged)"


def test_an_interrupt_ends_with_130(node: CliNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_arguments: object, **_named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("keydist.cli.bootstrap.run_bootstrap", interrupt)
    assert node.run("bootstrap").code == 130
    assert node.run("bootstrap", "--", "--json").code == 2


def test_run_can_be_called(node: CliNode, capsys: pytest.CaptureFixture[str]) -> None:
    node.hold(2)
    assert run(BootstrapOptions(as_json=True)) == 0
    assert '"outcome": "unchanged"' in capsys.readouterr().out
    assert gc.isenabled()
    assert callable(run_app)


# --- the last resort ----------------------------------------------------------------------------

PRIVATE_TEXT = "kdt1_what-no-one-may-read"


def stumble(node: CliNode, call: str) -> None:
    """Let something nobody expects happen at a call of the store, with a text that must not be shown."""

    def between(name: str) -> None:
        if name == call:
            raise LookupError(PRIVATE_TEXT)

    node.prepare = lambda opened: setattr(opened, "between", between)


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_defect_is_an_alarm_where_there_is_a_keyset(
    node: CliNode, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    node.hold(2)
    stumble(node, "read_leader")
    answer = both(node, monkeypatch, "--role", role, "--json")
    assert answer.code == 0
    facts = answer.json
    assert (facts["outcome"], facts["epoch"], facts["changed"]) == ("from-disk", 2, False)
    (alarm,) = facts["alarms"]
    assert (alarm["code"], alarm["family"], alarm["found"]) == ("internal", "internal", "LookupError")
    assert alarm["fix"]
    assert PRIVATE_TEXT not in answer.out + answer.err
    assert "Traceback" not in answer.err


def test_a_defect_without_a_keyset_is_reported(node: CliNode, monkeypatch: pytest.MonkeyPatch) -> None:
    stumble(node, "read_leader")
    answer = both(node, monkeypatch, "--role", "leader", "--json")
    assert (answer.code, answer.error["code"], answer.error["found"]) == (70, "internal", "LookupError")
    assert PRIVATE_TEXT not in answer.out + answer.err
    assert answer.err.count("\n") == 1


def test_a_defect_behind_an_installation_starts_from_what_is_there(node: CliNode) -> None:
    node.bucket.put(MINE.envelope)
    stumble(node, "read_leader")  # how a follower confirms what it has just installed
    answer = node.run("bootstrap", "--role", "follower", "--json")
    assert (answer.code, answer.json["epoch"], answer.json["alarms"][0]["code"]) == (0, 2, "internal")


@pytest.mark.parametrize(("call", "code"), [("load", 70), ("settle", 0)])
def test_a_defect_of_the_disk(node: CliNode, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    node.hold(2)

    def fail(*_arguments: object, **_named: object) -> None:
        raise LookupError(PRIVATE_TEXT)

    monkeypatch.setattr(PosixKeysetDisk, call, fail)
    answer = node.run("bootstrap", "--json")
    assert answer.code == code
    told = answer.error if code else answer.json["alarms"][0]
    assert (told["code"], told["found"]) == ("internal", "LookupError")
    assert PRIVATE_TEXT not in answer.out + answer.err


# --- real processes, a real server --------------------------------------------------------------


def keydist(node: CliNode, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "keydist", *arguments],
        env=os.environ | {"KEYDIST_CONFIG": str(node.config)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_leader_a_follower_and_an_outage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    nats_server: EmbeddedServer,
    bucket: str,
) -> None:
    nodes = []
    for name in ("leader", "follower"):
        (tmp_path / name).mkdir()
        nodes.append(CliNode(tmp_path / name, monkeypatch, capsys))
        nodes[-1].use_server(nats_server.url, bucket)
    first, second = nodes
    made = keydist(first, "bootstrap", "--role", "leader")
    assert (made.returncode, made.stderr) == (0, "")
    assert ": generated epoch 1 of lineage " in made.stdout
    got = keydist(second, "bootstrap", "--role", "follower")
    assert ": retrieved epoch 1 of lineage " in got.stdout
    assert made.stdout.partition(" epoch ")[2] == got.stdout.partition(" epoch ")[2]
    second.use_server("nats://127.0.0.1:1", bucket)
    down = keydist(second, "bootstrap")
    assert down.returncode == 0
    assert ": from-disk epoch 1 of lineage " in down.stdout
    assert down.stderr.startswith("keydist: alarm [unreachable]: NATS at nats://127.0.0.1:1 cannot be reached")
    assert keydist(second, "status").returncode == 75


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_streams_that_are_closed_take_nothing(node: CliNode, stream: str) -> None:
    node.hold(2)
    node.hold_tokens()  # so that there is an alarm too
    closed = ">&-" if stream == "stdout" else "2>&-"
    script = f"exec {sys.executable} -m keydist bootstrap {closed}"
    done = subprocess.run(
        ["sh", "-c", script],
        env=os.environ | {"KEYDIST_CONFIG": str(node.config)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stdout + done.stderr
    assert (done.stdout == "") == (stream == "stdout")
    assert (done.stderr == "") == (stream == "stderr")


def test_held_is_what_the_outcome_says(node: CliNode) -> None:
    held: Held = node.hold(2)
    assert node.run("bootstrap", "--json").json["kid"] == held.keyset.active.kid
