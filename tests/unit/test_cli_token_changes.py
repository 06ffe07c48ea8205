"""`keydist token rotate | retire`: what they print, their exit codes, and that no secret is ever among it."""

from __future__ import annotations

from pathlib import Path

import pytest

from keydist.core.token import BootstrapToken, format_token
from tests.fakes.memory_store import Fault
from tests.material import IMPOSTOR, OTHER_TOKEN, TOKEN, Change, chain, extend, noise
from tests.unit.cli_operator import CliOperator

OLD, NEW = TOKEN, OTHER_TOKEN
THIRD = BootstrapToken(token_id="aaaaaaaaaa", secret=noise("third token", 32))
MINE = chain(2)[-1]
LATER = extend(MINE, Change.ROTATE)
MOVED = extend(MINE, Change.RESEAL, token=NEW)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CliOperator:
    made = CliOperator(tmp_path, monkeypatch, capsys)
    made.hold_for(*chain(2))
    made.hold_tokens(OLD, NEW)
    return made


def rotate(node: CliOperator, *arguments: str) -> tuple[str, ...]:
    return ("token", "rotate", "--new-token-file", node.write_new(), *arguments)


RETIRE = ("token", "retire", OLD.token_id)


# --- rotate -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [(OLD, NEW), (NEW, OLD)], ids=["old first", "new first"])
def test_the_whole_way(node: CliOperator, lines: tuple[BootstrapToken, ...]) -> None:
    node.hold_tokens(*lines)
    peer = node.peer("node-b", tokens=(OLD, NEW))
    answer = node.run(*rotate(node, "--wait", "--json"))
    assert (answer.code, answer.json) == (
        0,
        {
            "epoch": 3,
            "token_id": NEW.token_id,
            "previous_token_id": OLD.token_id,
            "lacking": [],
            "acknowledged": ["node-b"],
            "alarms": [],
            "changed": True,
        },
    )
    assert f"backups sealed under {OLD.token_id} need it still" in answer.err
    assert f"on each: keydist token retire {OLD.token_id}" in answer.err
    assert f"every live node uses token {NEW.token_id}: node-b" in answer.err
    node.clock.advance(900)
    assert node.run("key", "rotate").code == 0
    assert (node.held_now().token_id, node.held_now().keyset.epoch) == (NEW.token_id, 4)
    peer.follow()
    assert peer.held == node.held_now()

    answer = node.dry(*RETIRE)
    assert answer.out == f"token {OLD.token_id} would go from this node's token file\n"
    answer = node.run(*RETIRE)
    assert (answer.code, answer.out) == (0, f"token {OLD.token_id} is gone from this node's token file\n")
    assert "systemctl reload keydist" in answer.err
    assert f"backups sealed under {OLD.token_id} cannot be opened without it" in answer.err
    assert node.token_file.read_text() == f"{format_token(NEW)}\n"
    assert node.token_file.stat().st_mode & 0o777 == 0o400
    assert node.run("bootstrap", "--json").json["outcome"] == "unchanged"
    answer = node.run(*RETIRE, "--json")
    assert (answer.code, answer.json) == (0, {"id": NEW.token_id, "ids": [NEW.token_id], "changed": False})
    assert node.run(*RETIRE).out == f"token {OLD.token_id} is not in this node's token file\n"


def test_the_plan(node: CliOperator) -> None:
    node.peer("node-b", tokens=(OLD, NEW))
    node.peer("node-c", tokens=(OLD,))
    answer = node.dry(*rotate(node))
    assert (answer.code, answer.out.splitlines()) == (
        0,
        [
            f"epoch 3: the same keys, sealed under token {NEW.token_id} instead of {OLD.token_id}",
            "  without it      node-c",
            f"  a node that holds only {OLD.token_id} keeps serving, but cannot follow",
            f"  every backup sealed under {OLD.token_id} still needs {OLD.token_id}: take a new one afterwards",
        ],
    )
    node.bucket.put(LATER.envelope)
    answer = node.dry(*rotate(node, "--without", "node-c", "--json"))
    assert answer.json == {
        "epoch": 4,
        "token_id": NEW.token_id,
        "previous_token_id": OLD.token_id,
        "lacking": [],
        "without": ["node-c"],
        "behind": 2,
        "changed": False,
    }
    assert "left behind: node-c; they keep serving what they have" in answer.err


def test_a_live_node_without_it_is_named(node: CliOperator) -> None:
    node.peer("node-c", tokens=(OLD,))
    error = node.refuse(*rotate(node))
    assert (error["exit"], error["code"]) == ("75", "not-yet")
    assert f"live nodes do not hold token {NEW.token_id}: node-c" in error["message"]


def test_a_node_that_is_left_behind_is_not_waited_for_either(node: CliOperator) -> None:
    peer = node.peer("node-c", tokens=(OLD,))
    answer = node.run(*rotate(node, "--without", "node-c", "--wait"))
    assert answer.code == 0
    assert node.clock.monotonic() < 5
    assert peer.held == MINE


def test_a_wait_that_ends_names_who_has_not_moved(node: CliOperator) -> None:
    node.peer("node-c", tokens=(OLD, NEW), follows=False)
    answer = node.run(*rotate(node, "--wait", "--timeout", "30s", "--json"))
    assert (answer.code, answer.json["lacking"], answer.json["changed"]) == (75, ["node-c"], True)
    again = node.run(*rotate(node, "--wait", "--timeout", "30s", "--json"))
    assert (again.code, again.json["lacking"], again.json["changed"]) == (75, ["node-c"], False)


def test_done_already_is_done(node: CliOperator) -> None:
    node.run(*rotate(node))
    writes = node.bucket.writes
    for tokens in ((NEW,), (OLD, NEW), (NEW, OLD)):
        path = node.write_new(*tokens)
        answer = node.run("token", "rotate", "--new-token-file", path, "--json")
        assert (answer.code, answer.json["changed"], answer.json["epoch"]) == (0, False, 3)
        assert answer.err == ""
    assert node.bucket.writes == writes
    assert node.run(*rotate(node)).out == f"epoch 3 is sealed under token {NEW.token_id} already\n"
    assert node.dry(*rotate(node)).out == f"epoch 3 is sealed under token {NEW.token_id} already\n"


def test_a_token_that_was_replaced_is_refused(node: CliOperator) -> None:
    node.run(*rotate(node))
    error = node.refuse("token", "rotate", "--new-token-file", node.write_new(OLD))
    assert (error["exit"], error["code"]) == ("77", "wrong-token")


def test_its_own_token_file_must_hold_it(node: CliOperator) -> None:
    node.hold_tokens(OLD)
    error = node.refuse(*rotate(node))
    assert (error["exit"], error["code"], error["found"]) == ("78", "token", OLD.token_id)
    node.token_file.chmod(0o444)
    assert node.refuse(*rotate(node))["code"] == "unsafe-file"
    assert node.stores == []


@pytest.mark.parametrize(
    ("tokens", "exit_code"), [((NEW, THIRD), "78"), ((IMPOSTOR,), "75"), ((), "78")], ids=["two", "an old id", "none"]
)
def test_what_brings_no_new_token(node: CliOperator, tokens: tuple[BootstrapToken, ...], exit_code: str) -> None:
    path = node.write_new(*tokens)
    if not tokens:
        Path(path).unlink()
    if exit_code == "75":  # the id of the token in use: done already
        assert node.run("token", "rotate", "--new-token-file", path, "--json").json["changed"] is False
    else:
        assert node.refuse("token", "rotate", "--new-token-file", path)["exit"] == exit_code


def test_an_empty_name_is_a_mistake(node: CliOperator) -> None:
    assert node.refuse("token", "rotate", "--new-token-file", "")["exit"] == "2"
    assert node.refuse(*rotate(node, "--timeout", "soon"))["exit"] == "2"


# --- from disk ----------------------------------------------------------------------------------


def test_a_plain_node_seals_again_where_the_old_token_is_lost(node: CliOperator) -> None:
    node.hold_tokens(NEW)
    node.peer("node-b", tokens=(OLD, NEW))
    plan = node.dry(*rotate(node, "--from-disk", "--json"))
    assert (plan.code, plan.json["epoch"]) == (0, 3)
    answer = node.run(*rotate(node, "--from-disk"))
    assert answer.code == 0
    assert "records that cannot be opened do not count: node-b" in answer.err
    assert node.held_now().token_id == NEW.token_id
    assert node.cluster.held(NEW) == node.held_now()


def test_not_over_anything_else_and_not_without_being_asked(node: CliOperator) -> None:
    node.hold_tokens(NEW)
    error = node.refuse(*rotate(node))
    assert (error["exit"], error["code"]) == ("77", "wrong-token")
    assert "--from-disk" in error["fix"]
    node.bucket.put(LATER.envelope)
    assert node.refuse(*rotate(node, "--from-disk"))["exit"] == "65"
    assert node.refuse(*rotate(node))["exit"] == "77"


def test_a_fleet_that_cannot_be_seen_is_said(node: CliOperator) -> None:
    node.hold_tokens(NEW)
    node.record_faults["read_all"] = Fault.FORBIDDEN
    answer = node.run(*rotate(node, "--from-disk", "--wait", "--json"))
    assert (answer.code, answer.json["changed"], answer.json["alarms"][0]["code"]) == (75, True, "forbidden")
    assert "who holds the new token is not known" in answer.err


def test_a_sealed_node_cannot(node: CliOperator) -> None:
    node.configure(at_rest="sealed")
    node.hold_tokens(OLD, NEW)
    node.run("bootstrap")
    node.hold_tokens(NEW)
    error = node.refuse(*rotate(node, "--from-disk"))
    assert (error["exit"], "at_rest: plain" in error["fix"]) == ("77", True)
    assert node.held_now().token_id == OLD.token_id


# --- nodes that were away -----------------------------------------------------------------------


def test_a_node_that_was_off_joins_with_both_lines_and_serves_with_one(node: CliOperator) -> None:
    node.bucket.put(MOVED.envelope)
    node.configure(role="follower")
    node.hold_tokens(OLD)
    answer = node.run("bootstrap", "--json")
    assert (answer.code, answer.json["outcome"], answer.json["epoch"]) == (0, "from-disk", 2)
    assert [alarm["code"] for alarm in answer.json["alarms"]] == ["wrong-token"]
    node.hold_tokens(OLD, NEW)
    answer = node.run("bootstrap", "--json")
    assert (answer.json["outcome"], answer.json["epoch"], answer.json["alarms"]) == ("retrieved", 3, [])


# --- retire -------------------------------------------------------------------------------------


def test_a_token_in_use_here_or_elsewhere_stays(node: CliOperator) -> None:
    assert node.refuse(*RETIRE)["exit"] == "75"
    peer = node.peer("node-b", tokens=(OLD, NEW))
    node.run(*rotate(node))
    peer.follows, peer.held = False, MINE
    peer.beat()
    error = node.refuse(*RETIRE)
    assert error["message"].endswith(f"token {OLD.token_id}: node-b")
    assert node.token_file.read_text().count("kdt1") == 2


@pytest.mark.parametrize("text", ["", "xyz", "0123456789a", OLD.token_id.upper() + "G", "kdt1_0123456789"])
def test_what_is_no_id_is_a_mistake(node: CliOperator, text: str) -> None:
    assert node.refuse("token", "retire", text)["exit"] == "2"


def test_a_follower_retires_what_it_has_seen_replaced(node: CliOperator) -> None:
    node.configure(role="follower")
    error = node.refuse("token", "retire", NEW.token_id)
    assert (error["exit"], "not seen" in error["message"]) == ("75", True)
    node.install(MOVED)
    answer = node.run(*RETIRE)
    assert answer.code == 0
    assert "a follower does not see the fleet" in answer.err
    assert node.token_file.read_text() == f"{format_token(NEW)}\n"


def test_a_file_that_cannot_be_used_is_told(node: CliOperator) -> None:
    node.token_file.chmod(0o444)
    assert node.refuse(*RETIRE)["code"] == "unsafe-file"


def test_a_credential_of_systemd_is_not_ours_to_change(node: CliOperator, monkeypatch: pytest.MonkeyPatch) -> None:
    node.run(*rotate(node))
    credentials = node.directory / "credentials"
    credentials.mkdir()
    node.token_file.replace(credentials / "keydist.token")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    for arguments in (RETIRE, (*RETIRE, "--dry-run")):
        error = node.refuse(*arguments)
        assert (error["exit"], error["code"]) == ("78", "config")
        assert "LoadCredential" in error["fix"]


def test_retire_where_the_disk_refuses(node: CliOperator, monkeypatch: pytest.MonkeyPatch) -> None:
    node.run(*rotate(node))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("keydist.adapters.token_file.os.replace", full)
        error = node.refuse(*RETIRE)
    assert error["exit"] == "73"
    assert node.token_file.read_text().count("kdt1") == 2
