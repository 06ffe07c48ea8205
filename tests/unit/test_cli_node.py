"""`keydist node`: the fleet's records, and forgetting a node that is gone; with the recommended accounts as well."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keydist.adapters.clock import SystemClock
from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats.accounts import accounts
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.permissions import subjects
from keydist.adapters.nats.records import NatsNodeRecords
from keydist.adapters.nats.server_text import render
from keydist.core.record import Record
from tests.material import NOW, OTHER_TOKEN, chain, make_record, noise, sealed_record
from tests.unit.cli_node import CliNode, Terminal
from tests.unit.fleet_nodes import BUCKET, Nodes, run, set_up, write
from tests.unit.nats_users import users_in

CLOCK = SystemClock()
MINE = chain(2)[-1]
DEAD = make_record(MINE, node="dead", heartbeat=1)
LIVE = make_record(MINE, node="live", heartbeat=1)


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
    """A leader that holds epoch 2; node `dead` has a record."""
    found = CliNode(tmp_path, monkeypatch, capsys)
    found.use_server(server.url, BUCKET)
    found.install(*chain(2))
    run(set_up(server.url, MINE))
    run(write(server.url, "dead", sealed_record(DEAD)))
    return found


def names(server: EmbeddedServer, *, nkey_file: str | None = None) -> set[str]:
    async def read() -> set[str]:
        connection = Connection(Server(urls=(server.url,), node="op", nkey_file=nkey_file))
        try:
            return set(await NatsNodeRecords(connection, bucket=BUCKET).read_all())
        finally:
            await connection.close()

    return asyncio.run(read())


# --- list ---------------------------------------------------------------------------------------


def test_the_list_is_by_name_whatever_the_state(node: CliNode, server: EmbeddedServer) -> None:
    run(write(server.url, "a", sealed_record(make_record(chain(1)[0], node="a", heartbeat=600))))
    run(write(server.url, "z", b"nonsense"))
    answer = node.run("node", "list", "--json")
    assert answer.code == 0
    shown = [(row["node"], row["state"], row["epoch"]) for row in answer.json["nodes"]]
    assert shown == [("a", "behind", 1), ("dead", "current", 2), ("z", "unreadable", None)]
    plain = node.run("node", "list")
    assert [line.split()[0] for line in plain.out.splitlines()] == ["node", "a", "dead", "z"]
    assert "behind?" in plain.out


def test_an_empty_list(node: CliNode, server: EmbeddedServer) -> None:
    run(set_up(server.url, MINE))
    assert node.run("node", "list", "--json").json == {"nodes": []}
    answer = node.run("node", "list")
    assert (answer.code, answer.out) == (0, "")
    assert "no node has a record" in answer.err


# --- forget -------------------------------------------------------------------------------------


def test_a_dead_node_is_forgotten_after_three_of_its_heartbeats(node: CliNode, server: EmbeddedServer) -> None:
    began = CLOCK.monotonic()
    answer = node.run("node", "forget", "dead", "--yes", "--json")
    assert (answer.code, answer.json) == (0, {"node": "dead", "changed": True})
    assert 3 <= CLOCK.monotonic() - began < 6
    assert names(server) == set()


@pytest.mark.parametrize("answers", [True, False], ids=["answers", "only writes"])
def test_a_node_that_lives_is_not_forgotten(node: CliNode, server: EmbeddedServer, *, answers: bool) -> None:
    with Nodes(server.url, LIVE, answers=answers):
        answer = node.run("node", "forget", "live", "--yes", "--json")
    assert (answer.code, answer.error["code"]) == (75, "node-lives")
    assert "would bring it back" in answer.err
    assert names(server) == {"dead", "live"}


def test_who_answers_is_not_waited_for(node: CliNode, server: EmbeddedServer) -> None:
    with Nodes(server.url, replace(LIVE, heartbeat=600)):
        began = CLOCK.monotonic()
        assert node.run("node", "forget", "live", "--yes", "--json").error["code"] == "node-lives"
    assert CLOCK.monotonic() - began < 10


def test_force_does_not_look(node: CliNode, server: EmbeddedServer) -> None:
    run(write(server.url, "slow", sealed_record(replace(DEAD, node="slow", heartbeat=86_400))))
    assert node.run("node", "forget", "slow", "--yes", "--force", "--json").json["changed"] is True
    assert names(server) == {"dead"}


def test_a_node_that_left_need_not_be_watched(node: CliNode, server: EmbeddedServer) -> None:
    run(write(server.url, "left", sealed_record(replace(DEAD, node="left", heartbeat=86_400, leaving=True))))
    assert node.run("node", "forget", "left", "--yes").out == "forgot left\n"
    assert names(server) == {"dead"}


MEANWHILE: dict[str, tuple[Record, int]] = {
    "a new one": (replace(LIVE, counter=2), 75),
    "a new instance": (replace(LIVE, counter=0, instance=noise("new", 16).hex()), 75),
    "an older one, replayed": (replace(LIVE, counter=0), 0),
    "its last one": (replace(LIVE, counter=9, leaving=True), 0),
}


@pytest.mark.parametrize(("record", "code"), MEANWHILE.values(), ids=MEANWHILE)
def test_what_is_written_while_it_is_watched(node: CliNode, server: EmbeddedServer, record: Record, code: int) -> None:
    run(write(server.url, "live", sealed_record(LIVE)))
    later = threading.Timer(1.0, lambda: run(write(server.url, "live", sealed_record(record))))
    later.start()
    answer = node.run("node", "forget", "live", "--yes")
    later.join()
    assert answer.code == code
    assert ("live" in names(server)) == (code != 0)


def test_a_record_that_cannot_be_opened_is_watched_by_its_bytes(node: CliNode, server: EmbeddedServer) -> None:
    node.configure(nats={"servers": [server.url], "bucket": BUCKET}, heartbeat="1s")
    with Nodes(server.url, LIVE, token=OTHER_TOKEN):
        assert node.run("node", "forget", "live", "--yes", "--json").error["code"] == "node-lives"
    run(write(server.url, "live", b"nonsense"))
    assert node.run("node", "forget", "live", "--yes").code == 0


@pytest.mark.parametrize(
    ("name", "fix"),
    [("dad", "did you mean dead?"), ("zzz", "nothing is there"), ("*", "nothing is there"), ("\x1b[2J", "nothing")],
)
def test_an_unknown_name_is_usage(node: CliNode, server: EmbeddedServer, name: str, fix: str) -> None:
    answer = node.run("node", "forget", name, "--yes", "--force", "--json")
    assert (answer.code, answer.error["code"]) == (2, "usage")
    assert fix in answer.error["fix"]
    assert names(server) == {"dead"}


def test_without_a_terminal_it_must_be_said(node: CliNode, server: EmbeddedServer) -> None:
    answer = node.run("node", "forget", "dead", "--json")
    assert (answer.code, answer.error["fix"]) == (2, "say it with: --yes")
    assert names(server) == {"dead"}


@pytest.mark.parametrize(("said", "code", "left"), [("y\n", 0, set()), ("n\n", 1, {"dead"}), ("", 130, {"dead"})])
def test_a_person_is_asked(node: CliNode, server: EmbeddedServer, said: str, code: int, left: set[str]) -> None:
    answer = node.run("node", "forget", "dead", stdin=Terminal(said))
    assert answer.code == code
    assert "Forget node dead? It wrote nothing for 3 s. [y/N]: " in answer.err
    assert names(server) == left


# --- with the recommended accounts --------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedServer, Path]]:
    directory = tmp_path_factory.mktemp("accounts")
    users = users_in(directory, leaders=["lead-1", "lead-2"], followers=["a"])
    started = EmbeddedServer(directory / "nats", extra=render({"accounts": accounts(users, subjects())}))
    started.start()

    async def fill() -> None:
        for name in ("op", "lead-1"):
            connection = Connection(Server(urls=(started.url,), node=name, nkey_file=str(directory / name)))
            records = NatsNodeRecords(connection, bucket=BUCKET)
            if name == "op":
                await records.create_bucket()
            else:
                await records.publish(name, sealed_record(make_record(MINE, node=name, heartbeat=1)))
            await connection.close()

    run(fill())
    yield started, directory
    started.stop()


@pytest.fixture
def user(
    guarded: tuple[EmbeddedServer, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> CliNode:
    found = CliNode(tmp_path, monkeypatch, capsys)
    found.use_server("nats://127.0.0.1:1", BUCKET)
    found.install(*chain(2))
    return found


def become(node: CliNode, guarded: tuple[EmbeddedServer, Path], name: str) -> None:
    server, directory = guarded
    nats = {"servers": [server.url], "bucket": BUCKET, "nkey_file": str(directory / name)}
    node.configure(node=name, nats=nats)


@pytest.mark.parametrize("command", [("status", "--fleet"), ("node", "list")], ids=" ".join)
def test_a_follower_may_not_see_the_fleet(
    user: CliNode, guarded: tuple[EmbeddedServer, Path], command: tuple[str, ...]
) -> None:
    become(user, guarded, "a")
    answer = user.run(*command, "--json")
    assert (answer.code, answer.error["code"]) == (77, "forbidden")
    assert answer.error["fix"].startswith("run it on a leader, or with the operator's credentials")


def test_a_leader_sees_it_and_may_not_forget(user: CliNode, guarded: tuple[EmbeddedServer, Path]) -> None:
    become(user, guarded, "lead-2")
    assert [row["node"] for row in user.run("node", "list", "--json").json["nodes"]] == ["lead-1"]
    answer = user.run("node", "forget", "lead-1", "--yes", "--force", "--json")
    assert (answer.code, answer.error["code"]) == (77, "forbidden")
    assert "operator's credentials" in answer.error["fix"]


def test_the_operator_may_forget_although_it_hears_nobody(user: CliNode, guarded: tuple[EmbeddedServer, Path]) -> None:
    server, directory = guarded
    become(user, guarded, "op")
    answer = user.run("status", "--fleet", "--json")
    assert [(row["node"], row["state"], row["written"]) for row in answer.json["nodes"]] == [("lead-1", "unheard", NOW)]
    assert user.run("node", "forget", "lead-1", "--yes", "--json").json["changed"] is True
    assert names(server, nkey_file=str(directory / "op")) == set()
