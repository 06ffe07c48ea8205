"""`keydist agent` as a service manager runs it: real processes, a real nats-server, a notification socket.

Whatever a process of this file says is searched for secrets, and each line of it must be an event.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

from keydist.adapters.clock import SystemClock
from keydist.adapters.credentials_socket import SOCKET
from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.mints import read_mints
from keydist.core.record import Record, open_record
from keydist.core.strict import b64url_encode
from keydist.errors import UnreachableError
from keydist.signing import Signer, Verifier
from keydist.signing.remote import Agent
from tests.material import OTHER_TOKEN, TOKEN, Change, extend
from tests.unit.agent_host import KEYDIST, Host, Process, eventually, pause
from tests.unit.service_manager import ROOT, address_of, client, read
from tests.unit.serving_node import Answered, ask

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from tests.conftest import Admin, StartServer

    Administer = Callable[..., AbstractAsyncContextManager[Admin]]


@pytest.fixture
def install(tmp_path: Path, nats_server: EmbeddedServer, bucket: str) -> Iterator[Callable[..., Host]]:
    """Return what makes hosts, of one bucket unless said otherwise."""
    hosts: list[Host] = []

    def make(name: str = "a", *, url: str = nats_server.url, **settings: Any) -> Host:  # noqa: ANN401 - configuration
        hosts.append(Host(tmp_path / name, url, bucket, **settings))
        return hosts[-1]

    yield make
    for host in hosts:
        for process in host.processes:
            process.end()
            said = process.log() + "\n".join(message for _, message in process.said)
            assert process.events()
            assert not [secret for secret in host.secrets() if secret in said]
            assert "Traceback" not in said


def rule_for(*users: str) -> dict[str, Any]:
    """Return a rule that lets users mint for the audience `api`."""
    return {"users": list(users), "mint": {"subjects": ["*"], "audiences": ["api"]}}


# --- its start ----------------------------------------------------------------------------------


def test_a_first_boot_with_nats_down_heals_by_itself_and_is_ready_only_with_a_key(
    install: Callable[..., Host], start_server: StartServer
) -> None:
    server = start_server()
    server.stop()
    host = install(url=server.url)
    agent = host.start()
    eventually(agent.statuses)
    pause(0.5)
    assert not agent.times("READY=1")
    assert agent.statuses()[0].startswith("waiting: NATS at ")
    assert int(re.findall(r"EXTEND_TIMEOUT_USEC=(\d+)", agent.said[-1][1])[0]) >= 30_000_000
    server.start()
    agent.wait_for("READY=1")
    assert host.epoch == 1
    assert agent.stop() == 0
    told = [event.get("code", event["event"]) for event in agent.events()]
    assert told == ["started", "serving", "unreachable", "keyset-taken", "unreachable", "stopped"]


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_first_boot_without_a_token_heals_by_itself(install: Callable[..., Host], role: str) -> None:
    host = install(role=role)
    if role == "follower":
        other = install("other")
        other.start().wait_for("READY=1")
    host.hold_tokens()
    agent = host.start()
    eventually(lambda: "token" in "".join(agent.statuses()))
    assert not agent.times("READY=1")
    host.hold_tokens(TOKEN)
    agent.wait_for("READY=1")
    assert host.epoch == 1
    [found] = agent.events("token-found")
    assert found["tokens"] == [TOKEN.token_id]
    assert agent.stop() == 0


def test_with_a_keyset_on_disk_it_is_ready_at_once_whatever_nats_does(
    install: Callable[..., Host], start_server: StartServer
) -> None:
    server = start_server()
    server.stop()
    host = install(url=server.url, role="follower")
    host.install(*host.history())
    host.hold_tokens()
    agent = host.start()
    agent.wait_for("READY=1", within=5)
    eventually(lambda: any(text.startswith("epoch 3, ") for text in agent.statuses()))
    assert agent.stop() == 0


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        pytest.param(lambda host: host.configure(rule="leader"), 78, "config", id="a configuration"),
        pytest.param(
            lambda host: host.configure(socket={"allow": [rule_for("no-such-user")]}), 78, "config", id="a rule"
        ),
        pytest.param(lambda host: host.state.mkdir(mode=0o755), 77, "unsafe-file", id="a state directory"),
    ],
)
def test_what_no_waiting_heals_ends_it_with_one_line(
    install: Callable[..., Host], spoil: Callable[[Host], object], code: int, said: str
) -> None:
    host = install()
    spoil(host)
    agent = host.start()
    assert agent.process.wait(10) == code
    [failed] = agent.events("failed")
    assert (failed["level"], failed["code"]) == ("error", said)
    assert not agent.times("READY=1")
    if host.state.exists():
        host.state.chmod(0o700)


def test_a_defect_ends_it_with_one_line_and_no_traceback(install: Callable[..., Host]) -> None:
    broken = (
        "import keydist.adapters.machine_id as machine_id\n"
        "machine_id.machine_hash = lambda: {}['a secret']\n"
        "from keydist.cli.main import main\n"
        "main()"
    )
    agent = install().start(program=(sys.executable, "-c", broken))
    assert agent.process.wait(10) == 70
    [failed] = agent.events("failed")
    assert (failed["code"], failed["found"]) == ("internal", "KeyError in __main__:2")
    assert "secret" not in agent.log()


def test_a_token_on_standard_input_is_refused(install: Callable[..., Host]) -> None:
    agent = install().start("--token-file", "-")
    assert agent.process.wait(10) == 2
    assert [event["code"] for event in agent.events()] == ["usage"]


# --- while it runs ------------------------------------------------------------------------------


def test_the_watchdog_is_told_more_than_twice_in_its_time(install: Callable[..., Host]) -> None:
    agent = install().start(WATCHDOG_USEC="900000")
    agent.wait_for("WATCHDOG=1", times=8)
    found = agent.times("WATCHDOG=1")
    assert max(later - sooner for sooner, later in pairwise(found)) < 0.45
    assert agent.stop() == 0


def test_a_lock_that_is_not_given_stops_neither_the_watchdog_nor_the_end(install: Callable[..., Host]) -> None:
    host = install(resync="1s", policy={"freshness": "3s"})  # a confirmation is due at each look
    agent = host.start(WATCHDOG_USEC="3000000")
    agent.wait_for("READY=1")
    with (host.state / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        since = perf_counter()
        eventually(lambda: any(event["code"] == "busy" for event in agent.events("alarm")))
        pause(1)
        assert agent.stop() == 0
    found = [since, *(at for at in agent.times("WATCHDOG=1") if at > since)]
    assert max(later - sooner for sooner, later in pairwise(found)) < 2


@pytest.mark.parametrize(
    ("freshness", "written"), [("3s", {"state/confirmed.json"}), ("2m", set())], ids=["due", "not due yet"]
)
def test_idle_nothing_is_written_but_a_confirmation_that_is_due(
    install: Callable[..., Host], freshness: str, written: set[str]
) -> None:
    host = install(heartbeat="1s", resync="1s", policy={"freshness": freshness})
    agent = host.start()
    agent.wait_for("READY=1")
    eventually((host.state / "confirmed.json").exists)
    eventually((host.state / "audit" / "shipped.json").exists)
    pause(0.5)
    before = stamps(host)
    pause(3)
    changed = {name for name, stamp in stamps(host).items() if before.get(name) != stamp}
    assert changed == written
    assert agent.stop() == 0


def stamps(host: Host) -> dict[str, tuple[int, int]]:
    """Return inode and time of each file of the node, but its directories and logs."""
    found = {}
    for folder in ("state", "run"):
        for path in (host.directory / folder).rglob("*"):
            if not path.is_dir() or path.is_symlink():
                with suppress(FileNotFoundError):  # it was on its way to another name
                    stat = path.lstat()
                    found[str(path.relative_to(host.directory))] = (stat.st_ino, stat.st_mtime_ns)
    return found


async def test_a_leader_heals_the_store_byte_for_byte_and_followers_go_on(
    install: Callable[..., Host], start_server: StartServer, administer: Administer
) -> None:
    server = start_server()
    leader, follower = install("a", url=server.url), install("b", url=server.url, role="follower")
    agents = [leader.start(), follower.start()]
    for agent in agents:
        agent.wait_for("READY=1")
    bucket = leader.place.location.split("/")[1]
    held = leader.held
    assert held is not None

    async def content() -> bytes:
        async with administer(server, bucket) as admin:
            answer = await admin.ask("MSG.GET", last_by_subj=admin.subject)
            return base64.b64decode(answer.get("message", {}).get("data", ""))

    async def healed() -> None:
        begun = perf_counter()
        while await content() != held.envelope:
            assert perf_counter() - begun < 8
            pause(0.05)

    server.stop()
    pause(0.5)
    server.start()
    await healed()
    server.stop(kill=True)
    server.wipe()
    server.start()
    await healed()
    async with administer(server, bucket) as admin:
        await admin.purge()
    await healed()
    async with administer(server, bucket) as admin:
        await admin.drop()
    await healed()
    after = leader.sealed(extend(held, Change.ROTATE))
    async with administer(server, bucket) as admin:
        await admin.publish(after.envelope)
    eventually(lambda: leader.held == follower.held == after)
    for agent in agents:
        assert agent.stop() == 0
    assert "republished" not in {event.get("how") for event in agents[0].events("keyset-taken")}


# --- SIGHUP -------------------------------------------------------------------------------------


async def test_a_reload_with_a_second_token_accepts_what_is_sealed_under_it(
    install: Callable[..., Host], nats_server: EmbeddedServer, administer: Administer, bucket: str
) -> None:
    host = install()
    agent = host.start()
    agent.wait_for("READY=1")
    held = host.held
    assert held is not None
    host.hold_tokens(TOKEN, OTHER_TOKEN)
    agent.hang_up()
    agent.wait_for("READY=1", times=2)
    [reloading] = [message for _, message in agent.said if message.startswith("RELOADING=1\nMONOTONIC_USEC=")]
    order = [message.split("\n")[0] for _, message in agent.said]
    assert order.index("READY=1") < order.index("RELOADING=1") < len(order) - 1 - order[::-1].index("READY=1")
    assert int(reloading.rpartition("=")[2]) > 0
    [reloaded] = agent.events("reloaded")
    assert reloaded["tokens"] == [TOKEN.token_id, OTHER_TOKEN.token_id]
    after = host.sealed(extend(held, Change.RESEAL), OTHER_TOKEN)
    async with administer(nats_server, bucket) as admin:
        await admin.publish(after.envelope)
    eventually(lambda: host.held == after)
    assert agent.stop() == 0


def broken(host: Host) -> None:
    host.config.write_text("cluster: [", encoding="utf-8")


def no_token(host: Host) -> None:
    host.hold_tokens()


def short_token(host: Host) -> None:
    host.hold_tokens()
    (host.directory / "token").write_text("kdt1_short", encoding="ascii")
    (host.directory / "token").chmod(0o400)


async def test_a_reload_that_cannot_be_used_is_told_and_leaves_what_runs_alone(
    install: Callable[..., Host], nats_server: EmbeddedServer, administer: Administer, bucket: str
) -> None:
    host = install()
    agent = host.start()
    agent.wait_for("READY=1")
    held = host.held
    assert held is not None
    good = host.config.read_text(encoding="utf-8")
    nats = {"servers": [nats_server.url], "bucket": bucket}
    refused: list[tuple[Callable[[Host], object], str]] = [
        (broken, "config"),
        (no_token, "token"),
        (short_token, "token"),
        (lambda host: host.configure(role="follower"), "role"),
        (lambda host: host.configure(cluster="prod-eu2"), "cluster"),
        (lambda host: host.configure(state_dir="elsewhere"), "state_dir"),
        (lambda host: host.configure(node="b"), "node"),
        (lambda host: host.configure(nats=nats | {"bucket": "elsewhere"}), "nats.bucket"),
        (lambda host: host.configure(lineage="0" * 32), "lineage"),
        (lambda host: host.configure(socket={"group": "no-such-group"}), "socket.group"),
        (lambda host: host.configure(socket={"allow": [rule_for("no-such-user")]}), "socket.allow"),
    ]
    given = dict(host._settings)
    for number, (spoil, named) in enumerate(refused, 1):
        spoil(host)
        agent.hang_up()
        agent.wait_for("READY=1", times=number + 1)
        reason = agent.events("reload-refused")[-1]
        assert named in reason["code"] + reason["message"]
        assert any(text.startswith("reload refused: ") for text in agent.statuses())
        host._settings = dict(given)
        host.config.write_text(good, encoding="utf-8")
        host.hold_tokens(TOKEN)
    assert len(agent.events("reload-refused")) == len(refused)
    assert not agent.events("reloaded")
    assert not (host.directory / "elsewhere").exists()
    after = host.sealed(extend(held, Change.ROTATE))
    async with administer(nats_server, bucket) as admin:
        await admin.publish(after.envelope)
    eventually(lambda: host.held == after)
    agent.hang_up()
    eventually(lambda: agent.events("reloaded"))
    assert agent.stop() == 0


def test_before_it_is_ready_nobody_waits_for_the_end_of_a_reload(install: Callable[..., Host]) -> None:
    host = install(role="follower")
    agent = host.start()
    eventually(agent.statuses)
    good = host.config.read_text(encoding="utf-8")
    broken(host)
    agent.hang_up()
    eventually(lambda: agent.events("reload-refused"))
    host.config.write_text(good, encoding="utf-8")
    agent.hang_up()
    eventually(lambda: agent.events("reloaded"))
    assert not agent.times("RELOADING=1")
    assert not agent.times("READY=1")
    assert agent.stop() == 0


def test_a_sealed_node_does_not_reload_the_token_of_its_keyset_away(install: Callable[..., Host]) -> None:
    host = install(at_rest="sealed")
    agent = host.start()
    agent.wait_for("READY=1")
    host.hold_tokens(OTHER_TOKEN)
    agent.hang_up()
    agent.wait_for("READY=1", times=2)
    assert [event["code"] for event in agent.events("reload-refused")] == ["wrong-token"]
    assert agent.stop() == 0


async def test_a_start_that_the_disk_takes_no_note_of_is_no_other_instance(
    install: Callable[..., Host], nats_server: EmbeddedServer, administer: Administer, bucket: str
) -> None:
    host = install()
    agent = host.start()
    agent.wait_for("READY=1")

    async def said() -> Record | None:
        async with administer(nats_server, f"{bucket}-nodes") as admin:
            answer = await admin.ask("MSG.GET", last_by_subj=f"$KV.{bucket}-nodes.a")
            raw = base64.b64decode(answer.get("message", {}).get("data", ""))
            return open_record(raw, node="a", place=host.place, tokens=(TOKEN,)) if raw else None

    async def counted(least: int) -> Record:
        begun = perf_counter()
        while (record := await said()) is None or record.counter < least:
            assert perf_counter() - begun < 10
            pause(0.05)
        return record

    before = await counted(1)
    with (host.state / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        agent.hang_up()
        agent.wait_for("READY=1", times=2)
        assert len(agent.events("start-not-counted")) == 1
        after = await counted(before.counter + (1 << 20) - 1000)
        assert after.instance == before.instance
        assert agent.stop() == 0
        eventually(lambda: SystemClock().now() > after.counter >> 20)  # starts are told apart by their second
        again = host.start()
        again.wait_for("READY=1")
        assert len(again.events("start-not-counted")) == 1
        assert (await counted(after.counter + (1 << 20) - 1000)).instance == before.instance
    assert again.stop() == 0


def test_many_hang_ups_and_a_stop_at_once_stop_it(install: Callable[..., Host]) -> None:
    agent = install().start()
    agent.wait_for("READY=1")
    for _ in range(20):
        agent.hang_up()
        pause(0.01)
    assert agent.stop() == 0
    assert agent.events()[-1]["event"] == "stopped"


# --- its end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_it_is_told_to(install: Callable[..., Host], number: signal.Signals) -> None:
    agent = install().start()
    agent.wait_for("READY=1")
    assert agent.stop(number) == 0
    assert agent.events()[-1]["event"] == "stopped"


@pytest.mark.parametrize("has_keyset", [True, False], ids=["with a keyset", "waiting for a first key"])
@pytest.mark.parametrize("nats", ["down", "hangs", "nobody takes connections"])
def test_it_ends_in_time_whatever_nats_does(
    install: Callable[..., Host], start_server: StartServer, nats: str, *, has_keyset: bool
) -> None:
    server = start_server()
    host = install(url=server.url, role="follower")
    if has_keyset:
        host.install(*host.history())
    pid = server.pid
    assert pid is not None
    try:
        if nats == "down":
            server.stop()
        if nats == "nobody takes connections":
            os.kill(pid, signal.SIGSTOP)
        agent = host.start()
        eventually(agent.statuses)
        if nats == "hangs":
            os.kill(pid, signal.SIGSTOP)
            pause(2.5)  # the next look has begun
        pause(0.3)
        assert agent.stop() == 0
    finally:
        if nats != "down":
            os.kill(pid, signal.SIGCONT)


def test_it_ends_in_time_while_a_hook_runs_and_takes_the_hook_with_it(install: Callable[..., Host]) -> None:
    host = install()
    mark = host.directory / "pid"
    host.configure(
        hooks=[{"on": "key", "run": ["/bin/sh", "-c", f"trap '' TERM; echo $$ > {mark}; sleep 60; sleep 60"]}]
    )
    agent = host.start()
    eventually(lambda: mark.exists() and mark.read_text())
    assert agent.stop() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_a_hook_that_fails_is_an_alarm(install: Callable[..., Host]) -> None:
    host = install()
    host.configure(hooks=[{"on": "key", "run": ["/bin/false"], "retries": 0}], heartbeat="1s")
    agent = host.start()
    eventually(lambda: [event for event in agent.events("alarm") if event["code"] == "hook-failed"])
    agent.stop()


# --- credentials for units ----------------------------------------------------------------------


@ROOT
@pytest.mark.parametrize("at_rest", ["plain", "sealed"])
def test_units_take_credentials_by_the_rules_of_the_moment_while_it_runs(
    install: Callable[..., Host], at_rest: str
) -> None:
    host = install(at_rest=at_rest, credentials=[{"unit": "web.service", "names": ["signing-key"]}])
    path = host.directory / "run" / SOCKET
    agent = host.start()
    agent.wait_for("READY=1")
    eventually(path.exists)

    def ask(unit: str, credential: str) -> bytes | None:
        return read(client(path, address_of(unit, credential)))

    folder = host.directory / "run" if at_rest == "sealed" else host.state / "live"
    assert ask("web.service", "signing-key") == (folder / "signing-key.pem").read_bytes()
    assert ask("new.service", "jwks") is None
    host.configure(credentials=[{"unit": "new.service", "names": ["jwks"]}])
    agent.hang_up()
    eventually(lambda: agent.events("reloaded"))
    assert ask("web.service", "signing-key") is None
    assert ask("new.service", "jwks") == (host.state / "live/jwks.json").read_bytes()
    host.configure(credentials=[])
    agent.hang_up()
    eventually(lambda: not path.exists())
    assert agent.stop() == 0
    assert [event["unit"] for event in agent.events("credential-given")] == ["web.service", "new.service"]
    assert [event["unit"] for event in agent.events("credential-refused")] == ["new.service", "web.service"]


def test_the_socket_for_credentials_goes_with_the_agent(install: Callable[..., Host]) -> None:
    host = install(credentials=[{"unit": "web.service", "names": ["jwks"]}])
    agent = host.start()
    eventually((host.directory / "run" / SOCKET).exists)
    assert agent.stop() == 0
    assert not (host.directory / "run" / SOCKET).exists()


# --- what it serves -----------------------------------------------------------------------------


def serving(agent: Process, what: str) -> list[str]:
    """Return where something was served, one place a reload."""
    return [event["at"] for event in agent.events("serving") if event["what"] == what]


def http_get(at: str, path: str) -> Answered:
    return ask(http.client.HTTPConnection(at, timeout=10), "GET", path, None, {})


def test_it_serves_what_its_disk_holds_and_a_reload_changes_what_and_where(install: Callable[..., Host]) -> None:
    host = install(issuer="https://issuer", http={"listen": "127.0.0.1:0"})
    agent = host.start()
    agent.wait_for("READY=1")
    eventually(lambda: serving(agent, "http"))
    [path], [at] = serving(agent, "socket"), serving(agent, "http")
    assert path == str(host.directory / "run" / "agent.sock")
    with Signer.connect(path) as signer, Verifier.connect(path) as verifier:
        jwt = signer.mint({}, subject="s", audience="api")
        assert verifier.verify(jwt, audience="api", issuer="https://issuer").subject == "s"
        assert http_get(at, "/.well-known/jwks.json").json == verifier.jwks()
        assert http_get(at, "/readyz").status == 200
        asking = Agent(path)
        status = asking.ask("GET", "/v1/status")
        assert (status["epoch"], status["node"], status["healthy"]) == (1, "a", True)
        assert asking.ask("POST", "/v1/refresh", {}) == {"epoch": 1}
        asking.close()
        elsewhere = host.directory / "elsewhere.sock"
        host.configure(http={"listen": None}, socket={"path": str(elsewhere), "mode": "0600"})
        agent.hang_up()
        eventually(lambda: len(serving(agent, "socket")) > 1)
        assert elsewhere.stat().st_mode & 0o777 == 0o600
        with pytest.raises(UnreachableError):
            signer.mint({}, subject="s", audience="api")
    with pytest.raises(ConnectionRefusedError):
        http_get(at, "/healthz")
    with Signer.connect(str(elsewhere)) as signer:
        signer.mint({}, subject="s", audience="api")
    assert agent.stop() == 0
    assert not elsewhere.exists()
    counted = read_mints(str(host.directory / "run"))
    assert sum(minted.jwts for minted in counted.values()) == 2


def test_a_reload_is_not_noticed_by_who_mints(install: Callable[..., Host]) -> None:
    agent = install(issuer="https://issuer", http={"listen": "127.0.0.1:0"}).start()
    agent.wait_for("READY=1")
    eventually(lambda: serving(agent, "http"))
    [path], [at] = serving(agent, "socket"), serving(agent, "http")
    with Signer.connect(path) as signer:
        for reloads in range(1, 4):
            agent.hang_up()
            while len(agent.events("reloaded")) < reloads:
                signer.mint({}, subject="s", audience="api")
            signer.mint({}, subject="s", audience="api")
    assert http_get(at, "/healthz").status == 200, "at the same port, although any free one would do"
    assert agent.stop() == 0


def test_an_address_that_cannot_be_had_is_an_alarm_and_no_end(install: Callable[..., Host]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = install(http={"listen": f"127.0.0.1:{taken.getsockname()[1]}"})
        agent = host.start()
        agent.wait_for("READY=1")
        eventually(lambda: agent.events("alarm"))
        [alarm] = agent.events("alarm")
        assert (alarm["code"], alarm["found"]) == ("cannot-listen", "address already in use")
    eventually(lambda: agent.events("alarm-over"), within=15)
    assert serving(agent, "http")
    assert agent.stop() == 0


# --- the audit trail ----------------------------------------------------------------------------


def test_what_happened_while_nats_was_away_reaches_the_trail_afterwards(
    install: Callable[..., Host], start_server: StartServer
) -> None:
    server = start_server()
    host = install(url=server.url, issuer="https://a.example", audit={"mints": True})
    agent = host.start()
    agent.wait_for("READY=1")
    eventually((host.state / "audit" / "shipped.json").exists)
    eventually((host.state / "confirmed.json").exists)
    server.stop()
    with Signer.open(str(host.config)) as signer:
        jwts = [signer.mint({"jti": str(number)}, subject="alice", audience="api") for number in range(3)]
    with closing(Agent(str(host.directory / "run" / "agent.sock"), seconds=10)) as local:
        asked = local.ask("POST", "/v1/mint", {"subject": "alice", "audience": "api", "claims": {"jti": "3"}})
    jwts.append(str(asked["jwt"]))  # what the agent mints for others is recorded too
    eventually(lambda: not list((host.directory / "run" / "audit-mints").iterdir()))
    server.start()
    shipped = (host.state / "audit" / "shipped.json").read_bytes()
    eventually(lambda: (host.state / "audit" / "shipped.json").read_bytes() != shipped, within=30)
    run = partial(subprocess.run, capture_output=True, check=True)
    command = [*KEYDIST, "audit", "--config", str(host.config), "--json"]
    genesis, *minted = [json.loads(line) for line in run(command).stdout.splitlines()]
    assert (genesis["what"], genesis["who"]["program"]) == ("genesis", "agent")
    hashes = [b64url_encode(hashlib.sha256(jwt.encode()).digest()) for jwt in jwts]
    found = [(one["sha256"], one["jti"]) for record in minted for one in record["minted"]]
    assert {one["uid"] for record in minted for one in record["minted"]} == {os.getuid()}
    assert sorted(found) == sorted(zip(hashes, "0123", strict=True))
    assert json.loads(run([*command, "--verify"]).stdout)["whole"]
    assert agent.stop() == 0


def test_what_waits_for_the_lock_of_the_journal_outlives_a_reload(install: Callable[..., Host]) -> None:
    host = install()
    agent = host.start()
    agent.wait_for("READY=1")
    journal = host.state / "audit"
    eventually(lambda: list(journal.glob("*.jsonl")))
    revoke = ["key", "revoke", "--all", "--reason", "a test", "--yes", "--config", str(other_node(host))]
    with (journal / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for epoch in (2, 3):
            subprocess.run([*KEYDIST, *revoke], capture_output=True, check=True)
            eventually(lambda epoch=epoch: host.epoch == epoch)  # type: ignore[misc]
        eventually(lambda: any(event["code"] == "busy" for event in agent.events("alarm")), within=20)
        agent.hang_up()
        agent.wait_for("READY=1", times=2)
    (file,) = journal.glob("*.jsonl")
    eventually(lambda: len(file.read_bytes().splitlines()) > 2)
    records = [json.loads(line) for line in file.read_bytes().splitlines()]
    told = [(record["what"], record["epoch"], record["facts"].get("reason")) for record in records]
    assert told == [("genesis", 1, None), ("epoch", 2, "a test"), ("epoch", 3, "a test")]
    assert agent.stop() == 0


def other_node(host: Host) -> Path:
    """Return the configuration of a second node of the host's cluster that holds the keyset, without an agent."""
    path = host.directory / "other.yaml"
    mine = json.loads(host.config.read_text(encoding="utf-8"))
    own = {"node": "other", "state_dir": "other-state", "runtime_dir": "other-run"}
    path.write_text(json.dumps(mine | own), encoding="utf-8")
    subprocess.run([*KEYDIST, "bootstrap", "--config", str(path)], capture_output=True, check=True)
    return path
