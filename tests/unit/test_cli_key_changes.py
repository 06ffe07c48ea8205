"""`keydist key rotate | revoke | extend`: what they print, their exit codes, and that dry runs write nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from keydist.adapters.disk.records import format_notes
from keydist.core.keyset import MAX_RETIRED, State
from keydist.core.record import Minted
from keydist.core.restart import InStore
from keydist.services.dates import date
from tests.fakes.memory_store import Fault
from tests.material import NOW, OTHER_TOKEN, TOKEN, Change, chain, extend, make_record, notes_of, sealed_record
from tests.unit.cli_node import Terminal
from tests.unit.cli_operator import CliOperator
from tests.unit.command_world import D

MINE = chain(3)[-1]
LATER = extend(MINE, Change.ROTATE)
ACTIVE, NEXT, RETIRED = (
    next(key.kid for key in MINE.keyset.signing_keys() if key.state is state)
    for state in (State.ACTIVE, State.NEXT, State.RETIRED)
)
ENC = next(key.kid for key in MINE.keyset.keys if key.use == "enc" and key.state is State.ACTIVE)
REVOKE = ("key", "revoke", ACTIVE, "--reason", "stolen")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CliOperator:
    made = CliOperator(tmp_path, monkeypatch, capsys)
    made.hold_for(*chain(3))
    return made


# --- rotate -------------------------------------------------------------------------------------


def test_a_rotation_for_programs(node: CliOperator) -> None:
    node.peer("node-b")
    answer = node.run("key", "rotate", "--wait", "--json")
    assert (answer.code, answer.json) == (
        0,
        {
            "epoch": 4,
            "kid": NEXT,
            "previous_kid": ACTIVE,
            "lacking": [],
            "acknowledged": ["node-b"],
            "complete": True,
            "opens": None,
            "alarms": [],
            "changed": True,
        },
    )
    assert "every live node uses epoch 4: node-b" in answer.err


def test_a_rotation_for_people(node: CliOperator) -> None:
    node.peer("node-b")
    answer = node.run("key", "rotate")
    assert (answer.code, answer.out) == (0, f"epoch 4: {NEXT} signs, {ACTIVE} only verifies\n")
    assert answer.err == ""


def test_where_nobody_acknowledges_that_is_said(node: CliOperator) -> None:
    answer = node.dry("key", "rotate")
    assert "nobody: no node says that it lives, so only the time counts" in answer.out
    answer = node.run("key", "rotate", "--wait")
    assert answer.code == 0
    assert "nobody had acknowledged the key" in answer.err
    assert "nobody acknowledged epoch 4" in answer.err


def test_a_wait_that_ends_names_who_is_missing_and_the_change_is_made(node: CliOperator) -> None:
    node.peer("node-b")
    peer = node.peer("node-c")
    node.prepare = lambda store: setattr(peer, "follows", False)
    answer = node.run("key", "rotate", "--wait", "--timeout", "45s", "--json")
    assert (answer.code, answer.json["lacking"], answer.json["acknowledged"]) == (75, ["node-c"], ["node-b"])
    assert (answer.json["changed"], node.held_now().keyset.epoch) == (True, 4)
    assert "the change is made, but not acknowledged by: node-c" in answer.err
    assert "waiting for epoch 4 at: node-b, node-c" in answer.err


def test_a_node_that_dies_meanwhile_is_not_waited_for(node: CliOperator) -> None:
    node.peer("node-c", dead=True)
    answer = node.run("key", "rotate", "--wait")
    assert answer.code == 0
    assert node.clock.monotonic() < 65


def test_a_node_that_is_left_out_is_neither_waited_for_before_nor_after(node: CliOperator) -> None:
    node.peer("node-c", chain(2)[-1], follows=False)
    plan = node.dry("key", "rotate", "--without", "node-c", "--json")
    assert (plan.json["lacking"], plan.json["without"]) == ([], ["node-c"])
    answer = node.run("key", "rotate", "--without", "node-c", "--wait")
    assert answer.code == 0
    assert "not waited for: node-c; until they follow they refuse JWTs of the new key" in answer.err


def test_who_keeps_it_from_rotating_is_named(node: CliOperator) -> None:
    node.peer("node-c", chain(2)[-1], follows=False)
    error = node.refuse("key", "rotate", "--timeout", "30s")
    assert (error["exit"], error["code"]) == ("75", "not-yet")
    assert "node-c" in error["message"]


def test_the_plan_for_people(node: CliOperator) -> None:
    node.note(MINE, since=D - 100)
    node.peer("node-b")
    node.peer("node-c", chain(2)[-1], follows=False)
    answer = node.dry("key", "rotate")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[0] == f"epoch 4: {NEXT} signs, {ACTIVE} only verifies"
    assert lines[1] == f"  not before      {date(NOW + 100)}"
    assert lines[2] == "  waits for       node-c"
    assert lines[3] == "a new key (EdDSA) is published as next"
    assert lines[4].startswith(f"{ACTIVE} may leave the keyset from 2027-01-2")


def test_the_plan_for_programs(node: CliOperator) -> None:
    node.note(MINE, since=60 * 86_400)
    node.peer("node-b")
    plan = node.dry("key", "rotate", "--json").json
    assert plan.items() >= {
        "epoch": 4, "kid": NEXT, "previous_kid": ACTIVE, "alg": "EdDSA", "bits": None, "epochs": 1, "lacking": [],
        "acknowledged": ["node-b"], "room_at": None, "behind": None, "changed": False,
    }.items()  # fmt: skip
    assert RETIRED in plan["drop"]
    assert f"  leaves          {RETIRED}" in node.dry("key", "rotate").out
    assert "nobody: acknowledged by node-b" in node.dry("key", "rotate").out


def test_the_plan_on_a_node_that_is_behind_takes_nothing(node: CliOperator) -> None:
    node.bucket.put(LATER.envelope)
    answer = node.dry("key", "rotate", "--json")
    assert (answer.json["epoch"], answer.json["behind"]) == (5, 3)
    assert "this node has epoch 3, the store epoch 4: the command takes that first" in answer.err
    node.bucket.purge()
    answer = node.dry("key", "rotate", "--json")
    assert (answer.code, answer.error["code"]) == (75, "not-yet")
    node.run("reset", "--yes")
    node.bucket.put(LATER.envelope)
    answer = node.run("key", "rotate", "--dry-run")
    assert "this node has no keyset, the store epoch 4" in answer.err


def test_no_room_is_told_with_the_time(node: CliOperator) -> None:
    held = node.hold_for(*chain(MAX_RETIRED + 1)[3:])
    (node.state / "seen.json").write_bytes(format_notes(notes_of(held, at=NOW - D)))
    plan = node.dry("key", "rotate")
    assert "  no room before  2027-01-" in plan.out
    error = node.refuse("key", "rotate")
    assert (error["exit"], error["code"]) == ("75", "not-yet")
    assert error["expected"].startswith("2027-01-")


def test_another_algorithm_in_two_steps(node: CliOperator) -> None:
    plan = node.dry("key", "rotate", "--alg", "ES256")
    assert "--timeout 25m this command does both" in plan.out
    assert f"epoch 4: another next key (ES256) is published; {ACTIVE} still signs" in plan.out
    assert node.dry("key", "rotate", "--alg", "ES256", "--json").json.items() >= {
        "kid": None, "epochs": 2, "opens": None, "alg": "ES256", "bits": None,
    }.items()  # fmt: skip
    answer = node.run("key", "rotate", "--alg", "ES256")
    assert (answer.code, answer.out) == (0, f"epoch 4: a new key is published as next; {ACTIVE} still signs\n")
    assert f"from {date(NOW + D)}, once every live node has it: keydist key rotate" in answer.err
    assert node.refuse("key", "rotate")["exit"] == "75"
    node.clock.advance(D)
    assert node.run("key", "rotate", "--json").json["complete"]
    assert node.held_now().keyset.active.alg == "ES256"


def test_another_algorithm_carried_through(node: CliOperator) -> None:
    node.peer("node-b")
    answer = node.run("key", "rotate", "--alg", "ES256", "--wait", "--timeout", "1h", "--json")
    assert answer.code == 0
    assert (answer.json["epoch"], answer.json["complete"], answer.json["previous_kid"]) == (5, True, ACTIVE)
    assert node.held_now().keyset.active.alg == "ES256"
    assert "waiting until the next key may sign" in answer.err


def test_too_little_time_for_both_is_75_with_the_first_made(node: CliOperator) -> None:
    node.peer("node-b")
    answer = node.run("key", "rotate", "--alg", "ES256", "--wait", "--json")
    assert answer.code == 75
    assert answer.json.items() >= {
        "epoch": 4, "complete": False, "opens": NOW + D, "acknowledged": ["node-b"], "changed": True,
    }.items()  # fmt: skip
    assert [alarm["code"] for alarm in answer.json["alarms"]] == ["not-yet"]
    assert "epoch 4 is written, the next one is not: the next key was published too recently" in answer.err
    assert "--timeout 960s" in answer.err


def test_a_record_that_cannot_be_opened_is_said(node: CliOperator) -> None:
    for number in range(6):
        name = f"odd-{number}"
        node.records.put(name, sealed_record(make_record(node=name), token=OTHER_TOKEN))
    answer = node.run("key", "rotate")
    assert "records that cannot be opened do not count: odd-0, odd-1, odd-2, odd-3 and 2 more" in answer.err


MISTAKES = {
    "no such algorithm": ("key", "rotate", "--alg", "HS256"),
    "a size of none": ("key", "rotate", "--alg", "ES256", "--bits", "3072"),
    "a size of the current one": ("key", "rotate", "--bits", "3072"),
    "an odd size": ("key", "rotate", "--bits", "3071"),
    "no time": ("key", "rotate", "--timeout", "soon"),
    "no key": ("key", "revoke", "--reason", "x"),
    "a key and all": (*REVOKE, "--all"),
    "no reason": ("key", "revoke", ACTIVE),
    "an empty reason": ("key", "revoke", ACTIVE, "--reason", ""),
    "a long reason": ("key", "revoke", ACTIVE, "--reason", "x" * 65),
    "another reason": ("key", "revoke", ACTIVE, "--reason", "café"),
    "an unknown key": ("key", "revoke", "nonsense", "--reason", "x"),
    "an unknown key to extend": ("key", "extend", "nonsense", "--until", "+1d"),
    "no day": ("key", "extend", ACTIVE, "--until", "tomorrow"),
    "a day without a zone": ("key", "extend", ACTIVE, "--until", "2027-06-30T00:00:00"),
    "a negative number": ("key", "extend", ACTIVE, "--until=-5"),
    "no duration": ("key", "extend", ACTIVE, "--until", "+"),
    "digits of another script": ("key", "extend", ACTIVE, "--until", "١٨٠٠٠٠٠٠٠٠"),
    "the first year": ("key", "extend", ACTIVE, "--until", "0001-01-01T00:00:00+14:00"),
    "the past": ("key", "extend", ACTIVE, "--until", "2026-01-01T00:00:00Z"),
    "beyond numbers": ("key", "extend", ACTIVE, "--until", "9" * 15 + "9" * 9),
}


@pytest.mark.parametrize("arguments", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_2_and_says_how_it_goes(node: CliOperator, arguments: tuple[str, ...]) -> None:
    error = node.refuse(*arguments)
    assert (error["exit"], error["code"]) == ("2", "usage")
    assert node.held_now() == MINE


@pytest.mark.parametrize(
    ("settings", "faults", "record_faults", "code"),
    [
        ({"role": "follower"}, {}, {}, "77"),
        ({}, {"read": Fault.UNREACHABLE}, {}, "75"),
        ({}, {"read": Fault.FORBIDDEN}, {}, "77"),
        ({}, {"replace": Fault.FORBIDDEN}, {}, "77"),
        ({}, {}, {"read_all": Fault.FORBIDDEN}, "77"),
        ({}, {}, {"read_all": Fault.TIMEOUT}, "75"),
        ({"token_file": "no-such"}, {}, {}, "78"),
        ({"lineage": "0" * 32}, {}, {}, "65"),
        ({"heartbeat": "soon"}, {}, {}, "78"),
    ],
)
def test_what_stops_a_rotation(
    node: CliOperator,
    settings: dict[str, object],
    faults: dict[str, Fault],
    record_faults: dict[str, Fault],
    code: str,
) -> None:
    node.configure(**settings)
    node.faults.update(faults)
    node.record_faults.update(record_faults)
    assert node.refuse("key", "rotate")["exit"] == code


def _scribble(path: Path) -> None:
    path.chmod(0o600)
    path.write_text("kdt1_junk\n", encoding="ascii")


TOKEN_FILES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "unsafe": (lambda path: path.chmod(0o644), "unsafe-file", "77"),
    "missing": (lambda path: path.unlink(), "token", "78"),
    "malformed": (_scribble, "token", "78"),
}
CHANGES = {
    "rotate": ("key", "rotate"),
    "revoke": REVOKE,
    "extend": ("key", "extend", RETIRED, "--until", "+1d"),
    "policy": ("policy", "set", "freshness=3m"),
    "node list": ("node", "list"),
}


@pytest.mark.parametrize("arguments", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(("spoil", "code", "exits"), TOKEN_FILES.values(), ids=TOKEN_FILES)
def test_a_token_file_that_cannot_be_used_is_the_cause_that_is_named(
    node: CliOperator, spoil: Callable[[Path], object], code: str, exits: str, arguments: tuple[str, ...]
) -> None:
    spoil(node.token_file)
    error = node.refuse(*arguments)
    assert (error["exit"], error["code"]) == (exits, code)
    assert "--from-disk" not in error["fix"]
    assert node.held_now() == MINE


def test_a_race_that_is_lost(node: CliOperator) -> None:
    def race(call: str) -> None:
        if call == "replace":
            node.bucket.put(LATER.envelope)

    node.prepare = lambda store: setattr(store, "between", race)
    answer = node.run("key", "rotate", "--json")
    assert (answer.code, answer.error["code"], answer.error["family"]) == (75, "conflict", "conflict")


# --- revoke -------------------------------------------------------------------------------------


def test_a_revocation_for_programs(node: CliOperator) -> None:
    node.peer("node-b")
    answer = node.run(*REVOKE, "--wait", "--json")
    assert (answer.code, answer.json) == (
        0,
        {
            "epoch": 4,
            "kid": NEXT,
            "revoked": [ACTIVE],
            "lacking": [],
            "acknowledged": ["node-b"],
            "alarms": [],
            "changed": True,
        },
    )


def test_a_revocation_again_changes_nothing_and_may_wait(node: CliOperator) -> None:
    first = node.run(*REVOKE)
    assert first.out == f"epoch 4: revoked {ACTIVE}; {NEXT} signs\n"
    writes = node.bucket.writes
    answer = node.run(*REVOKE, "--wait")
    assert (answer.code, answer.out) == (0, f"epoch 4: {ACTIVE} is revoked already; {NEXT} signs\n")
    assert (node.run(*REVOKE, "--json").json["changed"], node.bucket.writes) == (False, writes)
    assert node.dry(*REVOKE).out == f"{ACTIVE} is revoked already: nothing would change\n"


def test_a_store_that_is_put_back_is_refused(node: CliOperator) -> None:
    node.run(*REVOKE)
    node.bucket.put(MINE.envelope)
    node.configure(role="follower")
    answer = node.run("bootstrap", "--json")
    assert [alarm["code"] for alarm in answer.json["alarms"]] == ["rollback"]
    assert node.held_now().keyset.state_of(ACTIVE) is State.REVOKED
    assert InStore.ANCESTOR.value in node.run("status").out


def test_what_a_revocation_breaks_is_told_before(node: CliOperator) -> None:
    node.peer("node-b", minted={ACTIVE: Minted(3, NOW + 50)})
    node.peer("node-c", chain(2)[-1], follows=False, minted={RETIRED: Minted(1, NOW)})
    lines = node.dry("key", "revoke", ACTIVE).out.splitlines()
    assert lines == [
        f"{ACTIVE}  sig, active",
        f"  3 JWTs were minted with it, as far as nodes say; the last one expires at {date(NOW + 50)}",
        f"then signs: {NEXT}",
        "  it is published already: verifiers with a fresh JWK Set have it",
        "  cannot verify it until they follow: node-c",
    ]
    assert "1 JWT was minted with it" in node.dry("key", "revoke", RETIRED).out
    assert f"still signs: {ACTIVE}" in node.dry("key", "revoke", NEXT).out
    assert "no node says that it minted" in node.dry("key", "revoke", NEXT).out
    assert "can no longer be decrypted" in node.dry("key", "revoke", ENC).out
    every = node.dry("key", "revoke", "--all")
    assert "then signs: a new key, which nobody has seen yet" in every.out
    assert "refuses its JWTs for up to 5m" in every.out
    plan = node.dry(*REVOKE, "--json").json
    broken = {"kid": ACTIVE, "use": "sig", "state": "active", "jwts": 3, "last_expiry": NOW + 50}
    assert plan == {
        "epoch": 4,
        "kid": NEXT,
        "revoked": [ACTIVE],
        "broken": [broken],
        "lacking": ["node-c"],
        "behind": None,
        "changed": False,
        "token_replaced": True,
    }


def test_all_keys_under_a_token_that_may_be_known(node: CliOperator) -> None:
    answer = node.dry("key", "revoke", "--all", "--json")
    assert answer.json["token_replaced"] is False
    assert f"token {TOKEN.token_id} was not replaced since these keys were made" in answer.err
    answer = node.run("key", "revoke", "--all", "--reason", "leaked", "--json")
    assert f"token {TOKEN.token_id} was not replaced" in answer.err
    assert set(answer.json["revoked"]) == {key.kid for key in MINE.keyset.keys}
    assert len(node.held_now().keyset.keys) == 4


def test_a_fleet_that_cannot_be_seen_stops_no_emergency(node: CliOperator) -> None:
    node.record_faults["read_all"] = Fault.FORBIDDEN
    answer = node.run(*REVOKE, "--wait", "--json")
    assert (answer.code, answer.json["changed"], answer.json["alarms"][0]["code"]) == (75, True, "forbidden")
    assert "the fleet cannot be seen, so what breaks is not known" in answer.err
    assert "the change is made, but who follows cannot be seen" in answer.err


@pytest.mark.parametrize(("said", "code"), [("n\n", 1), ("\n", 1), ("", 130)])
def test_a_person_is_asked_and_may_say_no(node: CliOperator, said: str, code: int) -> None:
    before = node.files()
    answer = node.run(*REVOKE, stdin=Terminal(said))
    assert (answer.code, answer.out, node.files()) == (code, "", before)
    assert "no node says that it minted a JWT with it" in answer.err
    assert "Revoke 1 key(s)? It cannot be taken back. [y/N]:" in answer.err


def test_a_person_says_yes_once_or_beforehand(node: CliOperator) -> None:
    answer = node.run(*REVOKE, "--json", stdin=Terminal("y\n"))
    assert (answer.code, answer.json["changed"]) == (0, True)
    answer = node.run("key", "revoke", RETIRED, "--reason", "x", "--yes", stdin=Terminal(""))
    assert answer.code == 0
    assert "[y/N]" not in answer.err
    assert node.run(*REVOKE, stdin=Terminal("")).code == 0  # nothing is left to ask about


@pytest.mark.parametrize("verb", ["revoke", "extend"])
def test_a_kid_may_begin_with_a_dash(node: CliOperator, verb: str) -> None:
    kid = "-" + "x" * 42
    more = ("--reason", "x") if verb == "revoke" else ("--until", "+1d")
    assert "no key" in node.refuse("key", verb, kid, *more)["message"]


# --- extend -------------------------------------------------------------------------------------

TIMES = {
    "RFC 3339": ("2027-06-30T00:00:00Z", 1_814_313_600),
    "with an offset": ("2027-06-30T02:00:00+02:00", 1_814_313_600),
    "unix seconds": ("1814313600", 1_814_313_600),
    "from now": ("+30d", NOW + 30 * 86_400),
    "far off": ("9" * 15, 10**15 - 1),
}


@pytest.mark.parametrize(("text", "at"), TIMES.values(), ids=TIMES)
def test_a_key_is_kept_until_a_time(node: CliOperator, text: str, at: int) -> None:
    arguments = ("key", "extend", ACTIVE, "--until", text)
    plan = node.dry(*arguments, "--json")
    assert plan.json == {"epoch": 4, "kid": ACTIVE, "verify_until": at, "behind": None, "changed": False}
    assert node.dry(*arguments).out == f"epoch 4: {ACTIVE} would verify until {date(at)} at least\n"
    assert node.run(*arguments, "--json").json == plan.json | {"changed": True}
    assert node.held_now().keyset.active.verify_until == at
    writes = node.bucket.writes
    assert (node.run(*arguments, "--json").json, node.bucket.writes) == (plan.json, writes)
    assert node.run(*arguments).out == f"epoch 4: {ACTIVE} verifies until {date(at)} at least\n"


def test_a_key_is_never_kept_for_less(node: CliOperator) -> None:
    node.run("key", "extend", ACTIVE, "--until", "+30d")
    error = node.refuse("key", "extend", ACTIVE, "--until", "+29d")
    assert (error["exit"], error["message"]) == ("2", "verify_until is never lowered")
