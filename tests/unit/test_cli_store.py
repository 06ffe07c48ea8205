"""`keydist store`: buckets, republishing, backup and restore, both sides of a fork."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keydist.adapters.clock import SystemClock
from keydist.adapters.disk.keyset_disk import PosixKeysetDisk
from keydist.adapters.embedded import EmbeddedServer
from keydist.core.accept import Held
from keydist.core.envelope import Place
from keydist.core.strict import b64url_encode
from keydist.errors import BusyError, KeydistError, ReadOnlyDiskError, UnsafeFileError, WrongUserError
from tests.fakes.memory_store import Fault, MemoryBucket, MemoryKeysetStore
from tests.material import (
    LINEAGE,
    OTHER_LINEAGE,
    OTHER_TOKEN,
    PLACE,
    TOKEN,
    Change,
    altered,
    chain,
    extend,
    first,
    hold,
)
from tests.unit.cli_node import CliNode

MINE = chain(2)[-1]
OTHER_SIDE = extend(chain(1)[-1], Change.ROTATE, name="other ")
STRANGER = first("stranger ", lineage=OTHER_LINEAGE)
FOREIGN = hold(MINE.keyset, place=Place(cluster="prod-eu2", location=PLACE.location)).envelope
NEWER_FORMAT = MINE.envelope.replace(
    MINE.envelope.split(b".")[0],
    b"eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwidHlwIjoia2V5ZGlzdC1rZXlzZXQrandlIiwidiI6Mn0",  # v: 2
)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CliNode:
    return CliNode(tmp_path, monkeypatch, capsys)


# --- init, on a real server ---------------------------------------------------------------------


def test_init_makes_both_buckets_once(
    node: CliNode, nats_server: EmbeddedServer, bucket: str, administer: Callable[..., Any]
) -> None:
    node.use_server(nats_server.url, bucket)
    answer = node.run("store", "init", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.json == {"bucket": bucket, "created": True, "problems": [], "changed": True}
    again = node.run("store", "init", "--replicas", "1", "--json")
    assert again.json == {"bucket": bucket, "created": False, "problems": [], "changed": False}
    assert node.run("store", "init").out == f"bucket {bucket}: is there\n"
    assert node.run("bootstrap", "--json").json["outcome"] == "generated"
    assert node.run("status").code == 0


def test_init_names_each_problem_of_a_bucket_that_is_not_as_it_must_be(
    node: CliNode, nats_server: EmbeddedServer, bucket: str, administer: Callable[..., Any]
) -> None:
    async def make_badly() -> None:
        async with administer(nats_server, bucket) as admin:
            subjects = [f"$KV.{bucket}.>"]
            answer = await admin.ask("CREATE", name=f"KV_{bucket}", subjects=subjects, max_age=60_000_000_000)
            assert "error" not in answer

    asyncio.run(make_badly())
    node.use_server(nats_server.url, bucket)
    answer = node.run("store", "init", "--json")
    assert answer.code == 78
    facts = answer.json
    assert facts["created"] is True  # the bucket of records was missing, and is made all the same
    named = {problem.partition(":")[0] for problem in facts["problems"]}
    assert {"deny_delete", "max_age", "allow_direct", "republish"} <= named
    told = node.run("store", "init")
    assert told.code == 78
    assert all(f"keydist: problem: {name}: found" in told.err for name in named)
    assert told.out == f"bucket {bucket}: is there\n"
    few = node.run("store", "init", "--replicas", "3")
    assert few.code == 78
    assert "num_replicas: found 1, expected 3" in few.err


def test_init_asks_for_no_more_replicas_than_there_are_servers(
    node: CliNode, nats_server: EmbeddedServer, bucket: str
) -> None:
    node.use_server(nats_server.url, bucket)
    answer = node.run("store", "init", "--replicas", "3", "--json")
    assert (answer.code, answer.error["family"]) == (78, "configuration")
    assert "--replicas 1" in answer.error["fix"]


@pytest.mark.parametrize("replicas", ["0", "6", "x"])
def test_init_takes_a_number_of_replicas_that_jetstream_has(node: CliNode, replicas: str) -> None:
    answer = node.run("store", "init", "--replicas", replicas, "--json")
    assert (answer.code, answer.error["code"]) == (2, "usage")


def test_init_with_nats_down(node: CliNode) -> None:
    node.use_server("nats://127.0.0.1:1", "keydist")
    answer = node.run("store", "init", "--json")
    assert (answer.code, answer.error["code"]) == (75, "unreachable")


# --- republish ----------------------------------------------------------------------------------


def ancestor(bucket: MemoryBucket) -> None:
    bucket.put(chain(1)[-1].envelope)


LOST: dict[str, Callable[[MemoryBucket], None]] = {
    "bucket missing": MemoryBucket.drop,
    "never written": MemoryBucket.wipe,
    "deleted": MemoryBucket.delete,
    "emptied": MemoryBucket.purge,
    "an ancestor": ancestor,
}


@pytest.mark.parametrize("lose", LOST.values(), ids=LOST)
def test_republish_puts_a_lost_keyset_back(node: CliNode, lose: Callable[[MemoryBucket], None]) -> None:
    node.hold(2)
    lose(node.bucket)
    node.hold_tokens()  # the bytes are sealed already
    answer = node.run("store", "republish", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.json == {"epoch": 2, "revision": node.bucket.last_sequence, "changed": True}
    assert node.bucket.content() == MINE.envelope
    again = node.run("store", "republish", "--json")
    assert again.json == answer.json | {"changed": False}
    assert node.run("store", "republish").out.startswith("the store has it already: epoch 2")
    lose(node.bucket)
    assert node.run("store", "republish").out.startswith("put back epoch 2 at revision")


OTHERS = {
    "newer": extend(MINE, Change.ROTATE).envelope,
    "fork": OTHER_SIDE.envelope,
    "foreign": FOREIGN,
    "newer format": NEWER_FORMAT,
    "tampered": altered(MINE.envelope, -30),
    "another token": hold(MINE.keyset, token=OTHER_TOKEN).envelope,
}


@pytest.mark.parametrize("stored", OTHERS.values(), ids=OTHERS)
def test_republish_overwrites_nothing_else(node: CliNode, stored: bytes) -> None:
    node.hold(2)
    node.bucket.put(stored)
    answer = node.run("store", "republish", "--json")
    assert (answer.code, answer.error["code"]) == (65, "refused-overwrite")
    assert node.bucket.content() == stored


@pytest.mark.parametrize(
    ("fault", "code", "name"),
    [(Fault.UNREACHABLE, 75, "unreachable"), (Fault.FORBIDDEN, 77, "forbidden"), (Fault.TIMEOUT, 75, "store-timeout")],
)
@pytest.mark.parametrize("arguments", [("republish",), ("resolve", "--keep", "local")])
def test_with_a_store_that_does_not_answer(
    node: CliNode, arguments: tuple[str, ...], fault: Fault, code: int, name: str
) -> None:
    node.hold(2)
    node.faults["read"] = fault
    answer = node.run("store", *arguments, "--json")
    assert (answer.code, answer.error["code"]) == (code, name)


@pytest.mark.parametrize("arguments", [("republish",), ("backup", "x"), ("resolve", "--keep", "local")])
def test_a_node_without_a_keyset(node: CliNode, arguments: tuple[str, ...]) -> None:
    answer = node.run("store", *arguments, "--json")
    assert (answer.code, answer.error["code"]) == (75, "not-yet")


# --- backup -------------------------------------------------------------------------------------


def test_backup_writes_the_sealed_keyset_to_a_new_file(node: CliNode) -> None:
    node.hold(2)
    file = node.directory / "backup.jwe"
    answer = node.run("store", "backup", str(file), "--json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.json == {
        "file": str(file),
        "epoch": 2,
        "lineage": LINEAGE,
        "token": TOKEN.token_id,
        "digest": b64url_encode(MINE.digest),
        "changed": True,
    }
    assert file.read_bytes() == MINE.envelope
    assert stat.S_IMODE(file.stat().st_mode) == 0o400
    again = node.run("store", "backup", str(file), "--json")
    assert (again.code, again.error["family"]) == (78, "configuration")
    assert file.read_bytes() == MINE.envelope
    other = node.run("store", "backup", str(node.directory / "other.jwe"))
    assert f"sealed under token {TOKEN.token_id}" in other.out
    assert "store restore --verify" in other.err


@pytest.mark.parametrize(
    ("name", "code"),
    [("no/such/directory", 73), ("", 2), ("link", 78), ("state", 78)],
    ids=["no", "empty", "link", "dir"],
)
def test_backup_where_no_new_file_can_be(node: CliNode, name: str, code: int) -> None:
    node.hold(2)
    (node.directory / "link").symlink_to(node.directory / "elsewhere")
    answer = node.run("store", "backup", str(node.directory / name) if name else "", "--json")
    assert answer.code == code
    assert answer.error["message"]
    assert not (node.directory / "elsewhere").exists()


def test_a_file_name_that_a_terminal_would_obey(node: CliNode) -> None:
    node.hold(2)
    file = str(node.directory / "\x1b]0;owned\x07\u202e\udcff.jwe")
    answer = node.run("store", "backup", file)
    assert answer.code == 0
    assert "\\x1b]0;owned\\x07\\u202e\\udcff.jwe: epoch 2" in answer.out
    assert answer.out.isascii()
    assert answer.err.isascii()
    assert len(answer.out.splitlines()) == len(answer.err.splitlines()) == 1


# --- restore ------------------------------------------------------------------------------------


def backup_of(node: CliNode, held: Held | bytes) -> str:
    file = node.directory / "backup.jwe"
    file.write_bytes(held.envelope if isinstance(held, Held) else held)
    return str(file)


def test_restore_after_the_state_directory_was_wiped(node: CliNode) -> None:
    file = backup_of(node, MINE)
    rehearsal = node.run("store", "restore", "--verify", file, "--json")
    facts = {"epoch": 2, "kid": MINE.keyset.active.kid, "lineage": LINEAGE}
    assert (rehearsal.code, rehearsal.json) == (0, facts | {"verified": True, "noted": False, "changed": False})
    assert not node.state.exists()
    answer = node.run("store", "restore", file, "--json")
    assert (answer.code, answer.json) == (0, facts | {"verified": False, "noted": False, "changed": True})
    assert node.load().held == MINE
    again = node.run("store", "restore", file, "--json")
    assert (again.code, again.json["changed"]) == (0, False)


def test_restore_for_people(node: CliNode) -> None:
    file = backup_of(
        node,
        Held(
            **{name: getattr(MINE, name) for name in ("keyset", "plaintext", "token_id")},
            envelope=MINE.envelope + b"\n",
        ),
    )
    assert f"{file} opens, signs and verifies: epoch 2" in node.run("store", "restore", "--verify", file).out
    done = node.run("store", "restore", file)
    assert f"{file} restored: epoch 2" in done.out
    assert "keydist bootstrap" in done.err
    assert "was here already" in node.run("store", "restore", file).out
    node.bucket.drop()
    assert node.run("bootstrap", "--json").json["outcome"] == "republished"


def test_an_earlier_epoch_is_a_good_backup_but_no_way_back(node: CliNode) -> None:
    node.hold(2)
    file = backup_of(node, chain(1)[-1])
    assert node.run("store", "restore", "--verify", file).code == 0
    answer = node.run("store", "restore", file, "--json")
    assert (answer.code, answer.error["code"]) == (65, "rollback")
    assert node.load().held == MINE


def test_a_rehearsal_is_noted_where_it_succeeds(node: CliNode) -> None:
    node.hold(2)
    assert node.run("store", "restore", "--verify", backup_of(node, altered(MINE.envelope, -30))).code == 65
    assert node.disk().notes().rehearsed is None
    before = SystemClock().now()
    assert node.run("store", "restore", "--verify", backup_of(node, MINE), "--json").json["noted"] is True
    assert before <= (node.disk().notes().rehearsed or 0) <= SystemClock().now()


NOT_NOTED = [ReadOnlyDiskError("read-only"), WrongUserError("another's"), BusyError("busy"), UnsafeFileError("open")]


@pytest.mark.parametrize("failure", NOT_NOTED, ids=lambda failure: failure.code)
def test_a_rehearsal_that_cannot_be_noted_is_told_and_no_failure(
    node: CliNode, monkeypatch: pytest.MonkeyPatch, failure: KeydistError
) -> None:
    node.hold(2)

    def note_done(*_disk: object, **_times: int) -> None:
        raise failure

    monkeypatch.setattr(PosixKeysetDisk, "note_done", note_done)
    answer = node.run("store", "restore", "--verify", backup_of(node, MINE), "--json")
    assert (answer.code, answer.json["verified"], answer.json["noted"]) == (0, True, False)
    assert answer.err == f"keydist: alarm [{failure.code}]: {failure.message}\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_users_state_keeps_nobody_from_rehearsing(node: CliNode) -> None:
    node.hold(2)
    os.chown(node.state, 65_534, 65_534)
    file = backup_of(node, MINE)
    answer = node.run("store", "restore", "--verify", file, "--json")
    assert (answer.code, answer.json["noted"]) == (0, False)
    assert answer.err.startswith("keydist: alarm [wrong-user]: ")
    assert node.run("store", "restore", file).code == 77


@pytest.mark.parametrize(("history", "code"), [(chain(1), 65), (chain(2), 0)], ids=["below the floor", "at the floor"])
def test_restore_under_a_floor_without_a_keyset(node: CliNode, history: tuple[Held, ...], code: int) -> None:
    node.hold(2)
    node.lose_live()
    file = backup_of(node, history[-1])
    assert node.run("store", "restore", "--verify", file).code == code
    assert node.run("store", "restore", file).code == code
    assert (node.load().held is None) == bool(code)


BAD: dict[str, tuple[bytes, int, str]] = {
    "tampered": (altered(MINE.envelope, -30), 65, "tampered"),
    "another token": (hold(MINE.keyset, token=OTHER_TOKEN).envelope, 77, "wrong-token"),
    "another lineage": (STRANGER.envelope, 65, "fork"),
    "another side": (OTHER_SIDE.envelope, 65, "fork"),
    "another cluster": (FOREIGN, 65, "foreign-cluster"),
    "a newer format": (NEWER_FORMAT, 65, "unsupported"),
    "oversized": (bytes(49_153), 65, "malformed"),
    "empty": (b"", 65, "malformed"),
    "random": (bytes(range(256)) * 100, 65, "malformed"),
}


@pytest.mark.parametrize(("content", "code", "name"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("verify", [True, False], ids=["verify", "restore"])
def test_what_is_no_good_backup(node: CliNode, content: bytes, code: int, name: str, *, verify: bool) -> None:
    node.hold(2)
    file = backup_of(node, content)
    answer = node.run("store", "restore", file, *(["--verify"] if verify else []), "--json")
    assert (answer.code, answer.error["code"]) == (code, name)
    assert node.load().held == MINE


@pytest.mark.parametrize("file", ["missing.jwe", ".", os.devnull, "/dev/zero"])
def test_a_backup_that_cannot_be_read(node: CliNode, file: str) -> None:
    node.hold(2)
    answer = node.run("store", "restore", file, "--json")
    assert answer.code in (65, 78)
    assert answer.error["message"]


def test_nobody_restores_without_a_token(node: CliNode) -> None:
    file = backup_of(node, MINE)
    node.hold_tokens()
    for arguments in (("--verify",), ()):
        answer = node.run("store", "restore", file, *arguments, "--json")
        assert (answer.code, answer.error["code"]) == (78, "token")


# --- resolve ------------------------------------------------------------------------------------


def test_without_a_fork_there_is_nothing_to_resolve(node: CliNode) -> None:
    node.hold(2)
    for keep in ("local", "store"):
        answer = node.run("store", "resolve", "--keep", keep, "--json")
        assert (answer.code, answer.err) == (0, "")
        assert (answer.json["fork"], answer.json["changed"], answer.json["epoch"]) == (False, False, 2)
    assert node.run("store", "resolve", "--keep", "local").out.startswith("no fork: epoch 2")


@pytest.mark.parametrize("keep", ["local", "store"])
def test_a_dry_run_shows_both_sides_and_changes_neither(node: CliNode, keep: str) -> None:
    node.hold(2)
    node.bucket.put(OTHER_SIDE.envelope)
    answer = node.run("store", "resolve", "--keep", keep, "--dry-run", "--json")
    assert answer.code == 0
    kept = MINE if keep == "local" else OTHER_SIDE
    assert answer.json == {
        "epoch": 2,
        "kid": kept.keyset.active.kid,
        "lineage": LINEAGE,
        "fork": True,
        "keep": keep,
        "changed": False,
    }
    for held in (MINE, OTHER_SIDE):
        assert b64url_encode(held.digest) in answer.err
    lost = OTHER_SIDE if keep == "local" else MINE
    only = {key.kid for key in lost.keyset.signing_keys()} - {key.kid for key in kept.keyset.signing_keys()}
    assert f"keeping {keep}: JWTs signed by {', '.join(only)} stop being accepted" in answer.err
    assert node.load().held == MINE
    assert node.bucket.content() == OTHER_SIDE.envelope
    assert "would keep epoch 2" in node.run("store", "resolve", "--keep", keep, "--dry-run").out


CONSEQUENCES = {
    "local": (
        "keeping local: the store is overwritten; a node that holds the store's side starts from disk with an",
        "  alarm, until there: keydist store resolve --keep store",
    ),
    "store": (
        "keeping store: this node's side goes to the archive's predecessor, then away; any other node that holds",
        "  it needs the same command",
    ),
}


@pytest.mark.parametrize("keep", ["local", "store"])
def test_sides_and_consequences_in_full(node: CliNode, keep: str) -> None:
    node.hold(2)
    node.bucket.put(STRANGER.envelope)
    lines = node.run("store", "resolve", "--keep", keep, "--dry-run").err.splitlines()
    lost = ", ".join(key.kid for key in (STRANGER if keep == "local" else MINE).keyset.signing_keys())
    assert lines == [
        "keydist: the envelope is of another lineage",
        f"  local   epoch 2 of lineage {LINEAGE}, issued 2027-01-16T08:00:00Z",
        f"          key {MINE.keyset.active.kid}, token {TOKEN.token_id}, digest {b64url_encode(MINE.digest)}",
        f"  store   epoch 1 of lineage {OTHER_LINEAGE}, issued 2027-01-15T08:00:00Z",
        f"          key {STRANGER.keyset.active.kid}, token {TOKEN.token_id}, digest {b64url_encode(STRANGER.digest)}",
        f"keeping {keep}: JWTs signed by {lost} stop being accepted",
        *CONSEQUENCES[keep],
    ]


@pytest.mark.parametrize("keep", ["local", "store"])
@pytest.mark.parametrize("theirs", [OTHER_SIDE, STRANGER], ids=["one lineage", "two lineages"])
def test_the_side_that_is_named_stays(node: CliNode, keep: str, theirs: Held) -> None:
    node.hold(2)
    node.bucket.put(theirs.envelope)
    kept = MINE if keep == "local" else theirs
    answer = node.run("store", "resolve", "--keep", keep, "--json")
    assert (answer.code, answer.json["changed"], answer.json["epoch"]) == (0, True, kept.keyset.epoch)
    assert node.bucket.content() == kept.envelope
    assert node.load().held == kept
    assert node.run("status").code == 0
    again = node.run("store", "resolve", "--keep", keep, "--json")
    assert (again.code, again.json["changed"]) == (0, False)


def test_a_side_that_cannot_be_opened(node: CliNode) -> None:
    node.hold(2)
    node.bucket.put(hold(MINE.keyset, token=OTHER_TOKEN).envelope)
    for arguments in ((), ("--dry-run",)):
        refused = node.run("store", "resolve", "--keep", "store", *arguments, "--json")
        assert (refused.code, refused.error["code"]) == (77, "wrong-token")
        assert "store   cannot be opened" in refused.err
        assert "keeping store" not in refused.err
    assert node.load().held == MINE
    answer = node.run("store", "resolve", "--keep", "local")
    assert answer.code == 0
    assert f"was token {OTHER_TOKEN.token_id} made to replace this node's" in answer.err
    assert "put that token into the token file instead" in answer.err
    assert answer.out.startswith("kept epoch 2")
    node.bucket.put(b"garbage")
    answer = node.run("store", "resolve", "--keep", "local")
    assert (answer.code, "replace this node's" in answer.err) == (0, False)
    assert node.bucket.content() == MINE.envelope


@pytest.mark.parametrize("keep", ["local", "store"])
@pytest.mark.parametrize("stored", [FOREIGN, NEWER_FORMAT, extend(MINE, Change.ROTATE).envelope])
def test_what_is_no_fork_is_overwritten_by_neither_side(node: CliNode, keep: str, stored: bytes) -> None:
    node.hold(2)
    node.bucket.put(stored)
    answer = node.run("store", "resolve", "--keep", keep, "--json")
    assert (answer.code, answer.error["code"]) == (65, "refused-overwrite")
    assert node.bucket.content() == stored
    assert node.load().held == MINE


def test_a_side_is_not_kept_under_another_pinned_lineage(node: CliNode) -> None:
    node.configure(lineage=LINEAGE)
    node.hold(2)
    node.bucket.put(STRANGER.envelope)
    answer = node.run("store", "resolve", "--keep", "store", "--json")
    assert (answer.code, answer.error["code"]) == (65, "fork")
    assert "lineage:" in answer.error["fix"]
    assert node.run("status").code == 65
    assert node.load().held == MINE


def test_resolve_needs_a_side_and_a_token(node: CliNode) -> None:
    node.hold(2)
    for arguments in ((), ("--keep", "both"), ("--keep", "\x1b[31m")):
        answer = node.run("store", "resolve", *arguments, "--json")
        assert (answer.code, answer.error["code"]) == (2, "usage")
        assert "\x1b" not in answer.err
    node.hold_tokens()
    answer = node.run("store", "resolve", "--keep", "local", "--json")
    assert (answer.code, answer.error["code"]) == (78, "token")


def test_a_race_is_told_and_nothing_is_overwritten(node: CliNode) -> None:
    node.hold(2)
    node.bucket.put(OTHER_SIDE.envelope)
    later = extend(OTHER_SIDE, Change.ROTATE).envelope

    def prepare(store: MemoryKeysetStore) -> None:
        def other_writes(call: str) -> None:
            if call == "replace":
                node.bucket.put(later)

        store.between = other_writes

    node.prepare = prepare
    answer = node.run("store", "resolve", "--keep", "local", "--json")
    assert (answer.code, answer.error["code"]) == (75, "conflict")
    assert node.bucket.content() == later
