"""What the doctor makes of what it sees: one table a check."""

from __future__ import annotations

from typing import Final

import pytest

from keydist.adapters.doctor.units import parse_exposures, parse_show
from keydist.core.doctor import around, files, nats, times
from keydist.core.doctor.around import AgentSeen, HookSeen, NodeSeen, Unit, agent_of
from keydist.core.doctor.files import File
from keydist.core.doctor.nats import Greeting, Outcome, Peer, Right, StreamSeen, Synced
from keydist.core.doctor.times import Offset, Term
from keydist.core.doctor.verdict import Finding, Level, Verdict, failed, failing, fine, together, unseen, warning
from keydist.core.restart import Role
from keydist.errors import ConfigError, DiskFullError, WrongTokenError

OK, WARN, FAIL, UNSEEN = (Level.OK, 0), (Level.WARN, 0), Level.FAIL, (Level.UNSEEN, 0)
ME: Final = 1000
DAY: Final = 86_400
NOW: Final = 1_800_000_000


def came_to(found: Verdict) -> tuple[Level, int]:
    """Return level and exit code; whatever is not fine says what to do."""
    assert found.detail
    assert found.fix or found.level in (Level.OK, Level.UNSEEN)
    assert (found.exit_code != 0) == (found.level is Level.FAIL)
    return found.level, found.exit_code


# --- verdicts -----------------------------------------------------------------------------------


def test_several_verdicts_are_as_bad_as_the_worst_and_tell_only_that() -> None:
    bad, worse = warning("a little", "do a"), failed(DiskFullError, "badly", found="x", fix="do b")
    assert together([fine("well"), unseen("dark")]) == fine("well")
    assert together([unseen("dark"), unseen("darker")]) == unseen("dark; darker")
    assert together([fine("well"), bad]) == bad
    assert together([bad, worse, fine("well")]) == Verdict(FAIL, "badly (found x)", "do b", 73)
    assert together([]).level is Level.UNSEEN
    many = together([failed(ConfigError, str(number), fix="do it") for number in range(6)])
    assert (many.detail, many.fix, many.exit_code) == ("0; 1; 2; 3; and 2 more", "do it", 78)


def test_a_failure_is_told_in_the_words_of_its_error() -> None:
    error = WrongTokenError("another token", have=("a",), need="b", fix="bring b")
    assert failing(error) == Verdict(FAIL, "another token (expected token b, found a)", "bring b", 77)


def test_a_program_reads_the_four_members_and_the_level() -> None:
    found = Finding("space", failed(DiskFullError, "full", fix="free some")).as_json()
    assert found == {"name": "space", "ok": False, "level": "fail", "detail": "full", "fix": "free some"}
    assert [Finding("x", one).as_json()["ok"] for one in (fine("a"), warning("a", "b"), unseen("c"))] == [True] * 3


# --- files --------------------------------------------------------------------------------------


def entry(
    name: str = "state/floor.json", *, kind: str = "file", uid: int = ME, mode: int = 0o600, gid: int = 7
) -> File:
    return File(f"/{name}", kind, uid, gid, mode)


ROOT = entry("state", kind="directory", mode=0o700)
STATES = {
    "nothing there": (None, (), ME, None, OK),
    "empty": (ROOT, (), ME, None, OK),
    "as keydist makes it": (
        ROOT,
        (
            entry("state/live", kind="link", mode=0o777),
            entry("state/archive", kind="directory", mode=0o700),
            entry("state/archive/000001/jwks.json", mode=0o644),
            entry("state/public/x.jwk", mode=0o644),
            entry("state/public/x.revoked", mode=0o644),
            entry(),
        ),
        ME,
        None,
        OK,
    ),
    "root looks": (ROOT, (entry(),), 0, None, OK),
    "another user looks": (ROOT, (), 1001, None, UNSEEN),
    "a link": (entry("state", kind="link"), (), ME, None, (FAIL, 77)),
    "open to others": (ROOT._replace(mode=0o755), (), ME, None, (FAIL, 77)),
    "open to the group without group:": (ROOT._replace(mode=0o750), (), ME, None, (FAIL, 77)),
    "open to the group with group:": (ROOT._replace(mode=0o750), (), ME, 7, OK),
    "another's file": (ROOT, (entry(uid=0),), ME, None, (FAIL, 77)),
    "another's link": (ROOT, (entry("state/live", kind="link", uid=5),), ME, None, (FAIL, 77)),
    "a file that others read": (ROOT, (entry(mode=0o604),), ME, None, (FAIL, 77)),
    "a file that the group reads": (ROOT, (entry(mode=0o640),), ME, 7, (FAIL, 77)),
    "the PEM for the group": (ROOT, (entry("state/x/signing-key.pem", mode=0o640),), ME, 7, OK),
    "the PEM for another group": (ROOT, (entry("state/x/signing-key.pem", mode=0o640, gid=8),), ME, 7, (FAIL, 77)),
    "the PEM for the group, without group:": (
        ROOT,
        (entry("state/x/signing-key.pem", mode=0o640),),
        ME,
        None,
        (FAIL, 77),
    ),
    "a public key that others write": (ROOT, (entry("state/public/x.jwk", mode=0o666),), ME, None, (FAIL, 77)),
}


@pytest.mark.parametrize(("root", "entries", "me", "group", "expected"), STATES.values(), ids=STATES)
def test_the_state_directory(
    root: File | None, entries: tuple[File, ...], me: int, group: int | None, expected: tuple[Level, int]
) -> None:
    assert came_to(files.state(root, entries, path="/state", me=me, group=group)) == expected


def test_what_is_wrong_with_a_file_is_told_with_its_path_and_a_command() -> None:
    found = files.state(ROOT, (entry(mode=0o644),), path="/state", me=ME, group=None)
    assert found.detail == "/state/floor.json can be used by others (expected mode 0600, found mode 0644)"
    assert found.fix.endswith("chmod 0600 /state/floor.json")


RUN = entry("run", kind="directory", mode=0o700)
RUNTIMES = {
    "nothing there": (None, None, False, "ext4", OK),
    "plain, on a disk": (RUN, None, False, "ext4", OK),
    "others may enter": (RUN._replace(mode=0o755), None, False, "tmpfs", OK),
    "others may write": (RUN._replace(mode=0o777), None, False, "tmpfs", (FAIL, 77)),
    "sealed, in memory": (RUN, entry("run/signing-key.pem"), True, "tmpfs", OK),
    "sealed, on a disk": (RUN, None, True, "ext4", (FAIL, 77)),
    "sealed, on a disk that is not there yet": (None, None, True, "xfs", (FAIL, 77)),
    "sealed, unknown": (RUN, None, True, "", OK),
    "a PEM that others read": (RUN, entry("run/signing-key.pem", mode=0o644), True, "tmpfs", (FAIL, 77)),
    "no directory": (entry("run"), None, False, "tmpfs", (FAIL, 77)),
    "another's": (RUN._replace(uid=5), None, False, "tmpfs", UNSEEN),
}


@pytest.mark.parametrize(("root", "pem", "sealed", "kind", "expected"), RUNTIMES.values(), ids=RUNTIMES)
def test_the_runtime_directory(
    *, root: File | None, pem: File | None, sealed: bool, kind: str, expected: tuple[Level, int]
) -> None:
    found = files.runtime(root, pem, path="/run", sealed=sealed, filesystem=kind, me=ME)
    assert came_to(found) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, OK),
        (entry(mode=0o644), OK),
        (entry(mode=0o644, uid=0), OK),
        (entry(mode=0o664), (FAIL, 77)),
        (entry(mode=0o646), (FAIL, 77)),
        (entry(uid=5), (FAIL, 77)),
        (entry(mode=0o600, uid=0), (FAIL, 77)),
        (entry(mode=0o640, uid=0), OK),
    ],
)
def test_the_configuration_file(found: File | None, expected: tuple[Level, int]) -> None:
    assert came_to(files.config_file(found, path="/etc/x", reader=ME)) == expected


MIB: Final = 1 << 20


@pytest.mark.parametrize(
    ("free", "left", "read_only", "expected"),
    [
        (1000 * MIB, 100_000, False, OK),
        (1000 * MIB, None, False, OK),
        (64 * MIB - 1, 100_000, False, WARN),
        (1000 * MIB, 1000, False, WARN),
        (4 * MIB - 1, None, False, (FAIL, 73)),
        (1000 * MIB, 63, False, (FAIL, 73)),
        (1000 * MIB, None, True, (FAIL, 73)),
    ],
)
def test_room(*, free: int, left: int | None, read_only: bool, expected: tuple[Level, int]) -> None:
    assert came_to(files.space(path="/state", free=free, files=left, read_only=read_only)) == expected


@pytest.mark.parametrize(
    ("found", "is_wrong"),
    [
        (None, False),
        (entry(mode=0o400), False),
        (entry(mode=0o640, uid=0), False),
        (entry(mode=0o640), False),
        (entry(mode=0o600, uid=0), True),
        (entry(mode=0o660), True),
        (entry(mode=0o604), True),
        (entry(uid=5, mode=0o600), True),
    ],
)
def test_a_file_with_a_secret_of_nats(*, found: File | None, is_wrong: bool) -> None:
    wrong = files.secret_file(found, path="/seed", setting="nats.nkey_file", reader=ME)
    assert (wrong is not None) == is_wrong
    assert wrong is None or came_to(wrong) == (FAIL, 77)


# --- times --------------------------------------------------------------------------------------

TERMS = {
    "no end": (Term(None, None), OK),
    "long": (Term(NOW - DAY, NOW + 400 * DAY), OK),
    "14 days": (Term(None, NOW + 14 * DAY), OK),
    "not 14 days": (Term(None, NOW + 14 * DAY - 1), WARN),
    "over": (Term(None, NOW), (FAIL, 77)),
    "long over": (Term(None, NOW - 90 * DAY), (FAIL, 77)),
    "not yet": (Term(NOW + 60, NOW + 400 * DAY), (FAIL, 77)),
}


@pytest.mark.parametrize(("found", "expected"), TERMS.values(), ids=TERMS)
def test_credentials_expire(found: Term, expected: tuple[Level, int]) -> None:
    assert came_to(times.credentials("/creds", found, now=NOW)) == expected


CLOCKS = {
    "the same": (Offset(0.0, 0.001), None, OK),
    "a little behind": (Offset(14.9, 0.1), None, OK),
    "half the skew": (Offset(16.0, 0.1), None, WARN),
    "behind": (Offset(31.0, 0.1), None, (FAIL, 75)),
    "ahead": (Offset(-31.0, 0.1), None, (FAIL, 75)),
    "perhaps": (Offset(31.0, 2.0), None, WARN),
    "nothing to compare": (None, None, UNSEEN),
    "later than what was stored": (None, NOW - 100, UNSEEN),
    "as what was stored, but for the skew": (None, NOW + 30, UNSEEN),
    "before what was stored": (None, NOW + 31, (FAIL, 75)),
}


@pytest.mark.parametrize(("found", "stored", "expected"), CLOCKS.values(), ids=CLOCKS)
def test_the_clock(found: Offset | None, stored: int | None, expected: tuple[Level, int]) -> None:
    assert came_to(times.clock(found, stored=stored, now=NOW, skew=30)) == expected


# --- NATS ---------------------------------------------------------------------------------------

LOCAL, AWAY = Greeting(url="nats://127.0.0.1:1", is_local=True), Greeting(url="nats://n:1", is_local=False)
GOOD = Term(NOW - DAY, NOW + 90 * DAY)
GREETINGS = {
    "plain, on this machine": (False, LOCAL._replace(in_clear=True), OK),
    "plain, over a network": (False, AWAY._replace(in_clear=True), (FAIL, 78)),
    "plain, over a network, down": (False, AWAY._replace(error="refused"), (FAIL, 78)),
    "plain, though TLS is offered": (False, LOCAL._replace(in_clear=True, offers=True), WARN),
    "plain, down": (False, LOCAL._replace(error="refused"), WARN),
    "TLS": (True, AWAY._replace(tls="TLSv1.3", certificate=GOOD), OK),
    "TLS, certificate unknown": (True, AWAY._replace(tls="TLSv1.3"), OK),
    "TLS, certificate soon over": (True, AWAY._replace(tls="TLSv1.3", certificate=Term(0, NOW + DAY)), WARN),
    "TLS, certificate over": (True, AWAY._replace(tls="TLSv1.3", certificate=Term(0, NOW - DAY)), (FAIL, 78)),
    "TLS, or a greeting in clear": (True, AWAY._replace(tls="TLSv1.3", in_clear=True, offers=True), WARN),
    "no TLS": (True, AWAY._replace(in_clear=True, error="wrong version"), (FAIL, 78)),
    "TLS after a greeting": (True, AWAY._replace(in_clear=True, offers=True, error="wrong version"), (FAIL, 78)),
    "down": (True, AWAY._replace(error="refused"), UNSEEN),
}


@pytest.mark.parametrize(("asked", "found", "expected"), GREETINGS.values(), ids=GREETINGS)
def test_tls(*, asked: bool, found: Greeting, expected: tuple[Level, int]) -> None:
    assert came_to(nats.tls((found,), is_asked_for=asked, now=NOW)) == expected


def test_one_bad_server_of_several_is_the_one_that_is_told() -> None:
    good, bad = AWAY._replace(tls="TLSv1.3", certificate=GOOD), AWAY._replace(url="tls://bad:1", in_clear=True)
    found = nats.tls((good, bad, good), is_asked_for=True, now=NOW)
    assert found.level is Level.FAIL
    assert "tls://bad:1" in found.detail


SEEN = StreamSeen("KV_k", (), 3, (Peer("n2", True, False), Peer("n3", True, False)))


@pytest.mark.parametrize(
    ("found", "needed", "expected"),
    [
        (SEEN, True, OK),
        (None, False, WARN),
        (None, True, (FAIL, 75)),
        (SEEN._replace(problems=("a",)), True, (FAIL, 78)),
    ],
)
def test_a_stream(*, found: StreamSeen | None, needed: bool, expected: tuple[Level, int]) -> None:
    assert came_to(nats.stream(found, name="KV_k", is_needed=needed)) == expected


@pytest.mark.parametrize(
    ("found", "clustered", "expected"),
    [
        ((SEEN,), True, OK),
        ((SEEN._replace(replicas=5),), True, OK),
        ((SEEN, SEEN._replace(replicas=1)), True, (FAIL, 78)),
        ((SEEN._replace(peers=(Peer("n2", True, True),)),), True, WARN),
        ((SEEN._replace(peers=(Peer("n2", False, False),)),), True, WARN),
        ((SEEN,), False, WARN),
        ((), False, WARN),
    ],
)
def test_replicas(*, found: tuple[StreamSeen, ...], clustered: bool, expected: tuple[Level, int]) -> None:
    assert came_to(nats.replicas(found, is_clustered=clustered)) == expected


URL: Final = "http://n1:8222"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((), UNSEEN),
        ((Synced(URL, error="refused"),), UNSEEN),
        ((Synced(URL, always=True),), OK),
        ((Synced(URL, always=True), Synced(URL, error="refused")), OK),
        ((Synced(URL, always=True), Synced(URL, seconds=120)), WARN),
        ((Synced(URL),), WARN),
    ],
)
def test_how_often_servers_sync(found: tuple[Synced, ...], expected: tuple[Level, int]) -> None:
    verdict = nats.sync(found)
    assert came_to(verdict) == expected
    assert found or "sync_interval: always" in verdict.fix


def right(outcome: Outcome, stream: str = "KV_k") -> Right:
    return Right("write its own record", "$KV.k.x", outcome, stream)


@pytest.mark.parametrize(
    ("outcome", "missing", "has_key", "expected"),
    [
        (Outcome.ALLOWED, (), True, OK),
        (Outcome.DENIED, (), True, (FAIL, 77)),
        (Outcome.DENIED, ("KV_k",), False, (FAIL, 77)),
        (Outcome.UNKNOWN, (), True, (FAIL, 75)),
        (Outcome.NOBODY, (), True, (FAIL, 75)),
        (Outcome.NOBODY, ("KV_k",), True, WARN),
        (Outcome.NOBODY, (), False, WARN),
    ],
)
def test_a_right_that_is_needed(
    *, outcome: Outcome, missing: tuple[str, ...], has_key: bool, expected: tuple[Level, int]
) -> None:
    found = nats.needed((right(Outcome.ALLOWED), right(outcome)), missing=missing, has_key=has_key)
    assert came_to(found) == expected


FOLLOWER, LEADER = Role.FOLLOWER, Role.LEADER


@pytest.mark.parametrize(
    ("outcome", "role", "shares", "refused", "expected"),
    [
        (Outcome.DENIED, FOLLOWER, False, True, OK),
        (Outcome.ALLOWED, FOLLOWER, False, True, (FAIL, 77)),
        (Outcome.DENIED, FOLLOWER, True, True, (FAIL, 77)),
        (Outcome.DENIED, LEADER, True, True, WARN),
        (Outcome.ALLOWED, LEADER, True, True, WARN),
        (Outcome.DENIED, FOLLOWER, False, False, UNSEEN),
    ],
)
def test_a_right_that_is_not_needed(
    *, outcome: Outcome, role: Role, shares: bool, refused: bool, expected: tuple[Level, int]
) -> None:
    found = nats.excess((right(outcome),), role=role, shares_account=shares, is_refused=refused)
    assert came_to(found) == expected


# --- around -------------------------------------------------------------------------------------

AGENT = AgentSeen(version="1", looked=10, epoch=2, alarms=())
AGENTS = {
    "well": (AGENT, OK),
    "an older release, which says less": (AGENT._replace(version="", looked=None), OK),
    "another version": (AGENT._replace(version="0"), (FAIL, 75)),
    "does not look": (AGENT._replace(looked=181), (FAIL, 75)),
    "looks late": (AGENT._replace(looked=180), OK),
    "another epoch": (AGENT._replace(epoch=1), WARN),
    "alarms": (AGENT._replace(alarms=("overdue",)), WARN),
}


@pytest.mark.parametrize(("found", "expected"), AGENTS.values(), ids=AGENTS)
def test_an_agent(found: AgentSeen, expected: tuple[Level, int]) -> None:
    assert came_to(around.agent(found, version="1", resync=60, epoch=2)) == expected


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"agent": 1, "alarms": 2, "epoch": "3"},
        {"agent": {"looked": True}, "alarms": [1, {"code": 2}, {}]},
        {"agent": [], "alarms": {}},
    ],
)
def test_an_agents_answer_may_be_anything(answer: dict[str, object]) -> None:
    assert agent_of(answer, now=NOW)._replace(version="") == AgentSeen("", None, None, ())


def test_an_agents_answer_is_read() -> None:
    told = {"agent": {"version": "1", "looked": NOW - 5}, "epoch": 3, "alarms": [{"code": "x"}, {"code": "x"}]}
    assert agent_of(told, now=NOW) == AgentSeen("1", 5, 3, ("x",))


@pytest.mark.parametrize(
    ("found", "runs", "expected"),
    [
        ((), False, OK),
        ((HookSeen("a", True),), True, OK),
        ((HookSeen("a", True), HookSeen("b", False)), True, (FAIL, 75)),
        ((HookSeen("b", False),), False, WARN),
    ],
)
def test_hooks(*, found: tuple[HookSeen, ...], runs: bool, expected: tuple[Level, int]) -> None:
    assert came_to(around.hooks(found, runs=runs)) == expected


UNIT = Unit("keydist.service", "loaded", "active", "enabled", "success", watchdog=True, exposure=1.0)
UNITS = {
    "well": (UNIT, OK),
    "not installed": (UNIT._replace(load="not-found"), UNSEEN),
    "bad file": (UNIT._replace(load="bad-setting"), (FAIL, 75)),
    "masked": (UNIT._replace(load="masked", active="inactive", enabled="masked"), OK),
    "failed": (UNIT._replace(active="failed", result="exit-code"), (FAIL, 75)),
    "enabled, not running": (UNIT._replace(active="inactive"), (FAIL, 75)),
    "neither": (UNIT._replace(active="inactive", enabled="disabled"), WARN),
    "not at boot": (UNIT._replace(enabled="disabled"), WARN),
    "no watchdog": (UNIT._replace(watchdog=False), WARN),
    "exposed": (UNIT._replace(exposure=9.2), WARN),
    "not rated": (UNIT._replace(exposure=None), OK),
    "a target": (UNIT._replace(name="keydist-ready.target", enabled="static", watchdog=False, exposure=None), OK),
    "bootstrap only, not at boot": (
        UNIT._replace(name="keydist-bootstrap.service", enabled="disabled", active="inactive", watchdog=False),
        WARN,
    ),
}


@pytest.mark.parametrize(("found", "expected"), UNITS.values(), ids=UNITS)
def test_a_unit(found: Unit, expected: tuple[Level, int]) -> None:
    assert came_to(around.units((found,))) == expected


def test_beside_an_agent_the_bootstrap_unit_need_not_start_at_boot() -> None:
    oneshot = UNIT._replace(name="keydist-bootstrap.service", enabled="disabled", active="inactive")
    assert came_to(around.units((UNIT, oneshot))) == OK
    assert came_to(around.units((UNIT._replace(load="masked"), oneshot))) == WARN


SHOWN = """\
WatchdogUSec=30s
Id=keydist.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled
Result=success

WatchdogUSec=0
Id=keydist-bootstrap.service
LoadState=not-found
ActiveState=inactive
UnitFileState=
Result=success

Id=keydist-ready.target
LoadState=loaded
ActiveState=active
UnitFileState=static
"""


def test_what_systemctl_shows_is_read() -> None:
    found = parse_show(SHOWN)
    assert [(unit.name, unit.load, unit.active, unit.enabled, unit.watchdog) for unit in found] == [
        ("keydist.service", "loaded", "active", "enabled", True),
        ("keydist-bootstrap.service", "not-found", "inactive", "", False),
        ("keydist-ready.target", "loaded", "active", "static", False),
    ]
    assert parse_show("")[0].is_there is False


def test_what_systemd_analyze_rates_is_read() -> None:
    text = "  NAME DESCRIPTION EXPOSURE\n\n→ Overall exposure level for keydist.service: 1.1 OK \U0001f642\n"
    assert parse_exposures(text) == {"keydist.service": 1.1}
    assert parse_exposures("nothing of the kind") == {}


NODE = NodeSeen("a", "current", 0, is_pending=False)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((), WARN),
        ((NODE,), OK),
        ((NODE, NodeSeen("b", "current", 0, is_pending=True)), WARN),
        ((NODE, NodeSeen("b", "silent", 75, is_pending=False)), (FAIL, 75)),
        ((NodeSeen("b", "old token", 77, is_pending=False), NODE), (FAIL, 77)),
    ],
)
def test_the_fleet(found: tuple[NodeSeen, ...], expected: tuple[Level, int]) -> None:
    assert came_to(around.fleet(found)) == expected


def test_of_a_large_fleet_a_few_are_named() -> None:
    found = around.fleet([NodeSeen(f"n{number}", "silent", 75, is_pending=False) for number in range(30)])
    assert "n7 (silent) and 22 more" in found.detail
