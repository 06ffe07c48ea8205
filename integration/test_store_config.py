"""What `keydist store config` writes, attacked: real servers with exactly that, each role at what is not its own.

Everything that a role needs works, by real commands; everything else is denied by name, and nothing has changed.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import nats.errors
import pytest

from integration.attacks import ask, everything, leave_traces, of_others, turn_around
from integration.fleet import become
from integration.forbidden import API, ASKED, PUBLISHED, SUBSCRIBED, USE, others_of
from integration.nodes import processes
from integration.secured import Secured, said_after_handshake
from keydist.adapters.nats.bucket import keyset_stream, problems, records_stream, trail_stream
from keydist.adapters.nats.credentials import new_seed
from tests.settled import settled

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with Secured(tmp_path_factory.mktemp("secured")) as made:
        yield made


@pytest.fixture(scope="module")
def keyed(secured: Secured) -> Secured:
    """The servers with a first keyset, and a record and a trail of somebody else."""
    secured.asked("lead-1", "bootstrap")
    asyncio.run(leave_traces(secured, "lead-2", "node-b"))
    return secured


# --- what each role needs -------------------------------------------------------------------------


def test_a_cluster_works_with_it_and_nobody_is_denied_what_it_needs(tmp_path: Path) -> None:
    with Secured(tmp_path, leaders=["lead-1"], followers=["node-a"]) as own:
        first = own.asked("lead-1", "bootstrap")
        assert (first["outcome"], first["alarms"]) == ("generated", [])
        second = own.asked("node-a", "bootstrap")
        assert (second["outcome"], second["kid"], second["alarms"]) == ("retrieved", first["kid"], [])
        assert own.asked("operator", "bootstrap")["kid"] == first["kid"]
        agents = [
            processes.Process(target=become, args=(["agent", "--config", own.config(name)], str(tmp_path / name)))
            for name in ("lead-1", "node-a")
        ]
        for agent in agents:
            agent.start()
        try:
            seen = wait_live(own, {"lead-1", "node-a"})
            assert {row["epoch"] for row in seen.values()} == {1}
            assert own.asked("lead-1", "key", "revoke", first["kid"], "--reason", "a drill")["epoch"] == 2
            wait_live(own, {"lead-1", "node-a"}, epoch=2)
        finally:
            for agent in agents:
                agent.terminate()
                agent.join(20)
        assert own.keydist("operator", "node", "forget", "node-a", "--yes").returncode == 0
        assert {row["node"] for row in own.asked("operator", "node", "list")["nodes"]} == {"lead-1"}
        assert own.keydist("operator", "audit").returncode == 0
        assert own.asked("operator", "store", "init")["problems"] == []
        # What has two names is tried by its own once for each connection, then by the one that is imported.
        tried = {("Publish", subject) for subject in (USE.leader_get, USE.info, USE.records_info)}
        assert set(re.findall(r'(\w+) Violation - Subject "(.*?)"', own.logs())) <= tried
        assert "AuthorizationViolation" not in own.logs()


def test_a_node_that_comes_later_needs_a_reload_and_one_that_is_left_out_is_refused(tmp_path: Path) -> None:
    with Secured(tmp_path, leaders=["lead-1"], followers=["node-a"]) as own:
        kid = own.asked("lead-1", "bootstrap")["kid"]
        own.followers = ("node-b",)
        changed = {Path(file["path"]).parent.name for file in own.write("--force")["files"] if file["state"] != "same"}
        assert changed == {"node-b", *own.hosts}
        own.reload()
        deadline = time.monotonic() + 30
        while (done := own.keydist("node-b", "bootstrap", "--json", "--timeout", "1s")).returncode != 0:
            assert time.monotonic() < deadline, done.stderr
        assert json.loads(done.stdout)["kid"] == kid
        for host in own.hosts:  # each has read its own
            one = own.keydist_at(host, "node-a", "bootstrap", "--json", "--timeout", "1s")
            assert json.loads(one.stdout)["error"]["code"] == "credentials-refused", one.stdout


def wait_live(own: Secured, names: set[str], *, epoch: int = 1) -> dict[str, Any]:
    deadline = time.monotonic() + 40
    while True:
        done = own.keydist("operator", "status", "--fleet", "--json")
        rows = {row["node"]: row for row in json.loads(done.stdout).get("nodes", [])}
        if {name for name, row in rows.items() if row["epoch"] == epoch} == names:
            return rows
        assert time.monotonic() < deadline, done.stdout + done.stderr
        time.sleep(0.2)


async def test_the_streams_are_as_they_must_be_in_three_copies(secured: Secured) -> None:
    wanted = (
        keyset_stream("keydist", replicas=3),
        records_stream("keydist-nodes", replicas=3),
        trail_stream("keydist", replicas=3),
    )
    async with secured.client("operator") as operator:
        for stream in wanted:
            assert problems((await ask(operator, f"{API}.STREAM.INFO.{stream['name']}"))["config"], stream) == []


# --- what no role may publish or hear --------------------------------------------------------------


@pytest.mark.parametrize("role", PUBLISHED)
async def test_what_a_role_may_not_publish_is_denied(role: str, keyed: Secured) -> None:
    before = await everything(keyed)
    async with keyed.client(role) as client:
        for subject in [*PUBLISHED[role], *others_of(role)]:
            # A subject that is denied once is denied in silence by none of the servers: each is told.
            said = await client.denial(client.publish(subject, b"{}", reply=f"_INBOX_{role}.x"), subject)
            assert f'permissions violation for publish to "{subject}"'.lower() in said.lower()
    assert await everything(keyed) == before


@pytest.mark.parametrize("role", SUBSCRIBED)
async def test_what_a_role_may_not_hear_is_denied(role: str, keyed: Secured) -> None:
    async with keyed.client(role) as client:
        for heard in SUBSCRIBED[role]:
            subject, _, queue = heard.partition(" ")
            said = await client.denial(client.subscribe(subject, queue=queue), subject)
            assert f'permissions violation for subscription to "{subject}"'.lower() in said.lower()


# --- what is allowed, turned around: the reply subject ---------------------------------------------


@pytest.mark.parametrize("role", ASKED)
@pytest.mark.parametrize("at", range(3))  # with looser imports it worked on some of the servers only
async def test_no_reply_subject_reaches_anything(at: int, role: str, keyed: Secured) -> None:
    before = await of_others(keyed, role)
    async with keyed.client("node-b", at=at) as victim, keyed.client(role, at=at) as attacker:
        inbox = await victim.subscribe("_INBOX_node-b.>")
        await settled(victim)
        await turn_around(attacker, role)
        assert attacker.denied == []
        with suppress(nats.errors.TimeoutError):
            planted = await inbox.next_msg(timeout=0.5)
            # An account's own inboxes are no secret place: what arrives there is an answer nobody waits for.
            assert planted.subject == "_INBOX_node-b.x"
    assert await of_others(keyed, role) == before


# --- who is nobody --------------------------------------------------------------------------------


def test_in_clear_nothing_is_said(keyed: Secured) -> None:
    for host in keyed.hosts:
        with socket.create_connection((host, keyed.client_port), timeout=5) as plain:
            plain.sendall(b'CONNECT {"verbose":true}\r\nPING\r\n')
            said = b""
            with suppress(OSError):
                while part := plain.recv(4096):
                    said += part
        assert b"INFO" not in said
        assert b"PONG" not in said


def no_certificate(secured: Secured) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=secured.directory / "ca" / "server-ca.pem")


SHOWN: Final[dict[str, tuple[Callable[[Secured], ssl.SSLContext], bool, bool]]] = {
    # certificate: whether clients' port talks to it, whether the servers' does
    "none": (no_certificate, False, False),
    "a follower's": (lambda secured: secured.context("node-a"), True, False),
    "a leader's": (lambda secured: secured.context("lead-1"), True, False),
    "the operator's": (lambda secured: secured.context("operator"), True, False),
    "a server's": (lambda secured: secured.context("127.0.0.1", pair="server"), False, True),
    "the clients' CA's own": (lambda secured: secured.context("ca", pair="client-ca"), True, False),
}


@pytest.mark.parametrize(("context", "client", "route"), SHOWN.values(), ids=SHOWN)
def test_whom_a_server_talks_to(
    context: Callable[[Secured], ssl.SSLContext], *, client: bool, route: bool, keyed: Secured
) -> None:
    shown = context(keyed)
    for host in keyed.hosts:
        assert said_after_handshake(host, keyed.client_port, shown).startswith(b"INFO ") is client
        assert said_after_handshake(host, keyed.route_port, shown).startswith(b"INFO ") is route


def test_one_ca_for_servers_and_clients_would_let_a_follower_join_as_a_server(tmp_path: Path) -> None:
    """Show that the row of the table above is an attack: it is the second CA that stops it."""
    loose = Secured(tmp_path, hosts=["127.0.0.1", "127.0.0.2"])
    loose.write()
    place = loose.directory / "127.0.0.1"
    (place / "both.pem").write_bytes(b"".join((place / f"{kind}-ca.pem").read_bytes() for kind in ("server", "client")))
    text = (place / "nats-server.conf").read_text("utf-8")
    (place / "nats-server.conf").write_text(text.replace("server-ca.pem", "both.pem"), encoding="utf-8")
    shown, deadline = loose.context("node-a"), time.monotonic() + 20
    loose.start_server(0)
    try:
        while not said_after_handshake("127.0.0.1", loose.route_port, shown).startswith(b"INFO "):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        loose.close()


async def refused(connecting: Awaitable[object]) -> str:
    with pytest.raises((nats.errors.Error, OSError)) as caught:
        async with asyncio.timeout(10):
            await connecting
    return str(caught.value).lower()


@pytest.mark.parametrize("who", ["no nkey", "a user and a password", "an unknown nkey", "a token"])
async def test_a_certificate_alone_may_nothing(who: str, keyed: Secured, tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    seed.write_text(new_seed(os.urandom), encoding="ascii")
    options: dict[str, dict[str, Any]] = {
        "no nkey": {"nkeys_seed": None},
        "a user and a password": {"nkeys_seed": None, "user": "node-a", "password": "node-a"},
        "an unknown nkey": {"nkeys_seed": str(seed)},
        "a token": {"nkeys_seed": None, "token": "node-a"},
    }
    said: list[str] = []

    async def note(exc: Exception) -> None:
        said.append(str(exc).lower())

    opened = keyed.client("node-a", error_cb=note, allow_reconnect=False, max_reconnect_attempts=1, **options[who])
    await refused(opened.__aenter__())
    assert any("authorization violation" in one for one in said)
