"""`keydist doctor` as it is run: on real disks, against real servers, with what is wrong told and what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from keydist import wiring
from keydist.adapters.clock import SystemClock
from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.token_file import find_token_file, read_tokens
from keydist.cli import doctor as command
from keydist.core.doctor.verdict import Level
from keydist.core.token import format_token
from keydist.doctor.run import CHECKS
from keydist.errors import UnsafeFileError
from keydist.services import examine
from tests.material import LINEAGE, NOW, OTHER_TOKEN, TOKEN, Change, chain, extend
from tests.unit.cli_node import CliNode
from tests.unit.test_nats_credentials import (
    USER,
    Nkey,
    certificate,
    creds,
    tls_server,
    trusting_operator,
    write,
)

StartServer = Callable[..., EmbeddedServer]
ROOT: Final = Path(__file__).parents[2]
NOBODY: Final = 65_534
IN_VAIN: Final = "nats://127.0.0.1:9"
NATS_CHECKS: Final = {"permissions", "excess", "bucket", "records", "audit", "replicas", "clock", "fleet"}
NAMES: Final = [check.name for check in CHECKS]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can stand for another user")


class Examined(CliNode):
    """A node that is examined; `level` and `said` are of the last examination."""

    def examine(self, *arguments: str) -> dict[str, dict[str, Any]]:
        """Return what each check found, by name; the exit code must fit."""
        answer = self.run("doctor", "--json", *arguments)
        found = answer.json["checks"]
        assert all({"name", "ok", "detail", "fix"} <= one.keys() for one in found)
        assert all(one["ok"] == (one["level"] != "fail") for one in found)
        assert (answer.code == 0) == all(one["ok"] for one in found) == answer.json["healthy"]
        assert "Traceback" not in answer.err
        self.code = answer.code
        return {one["name"]: one for one in found}

    def check(self, name: str) -> tuple[str, int, str]:
        """Return a check's level, the exit code, and all that it says."""
        found = self.examine(name)[name]
        assert found["fix"] or found["level"] in ("ok", "unseen")
        return found["level"], self.code, f"{found['detail']}; {found['fix']}"

    def tree(self) -> dict[str, tuple[int, float]]:
        """Return everything below its directory, with what would show a change."""
        return {
            str(path): (path.lstat().st_ino, path.lstat().st_ctime)
            for path in self.directory.rglob("*")
            if "nats" not in path.parts
        }


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Examined:
    made = Examined(tmp_path, monkeypatch, capsys)
    made.configure(nats={"servers": [IN_VAIN]})
    return made


@pytest.fixture
def bound(node: Examined, nats_server: EmbeddedServer, bucket: str) -> Examined:
    """A leader with a first keyset, in a real store."""
    node.use_server(nats_server.url, bucket)
    assert node.run("bootstrap").code == 0
    return node


def levels(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: one["level"] for name, one in found.items()}


# --- as a whole ---------------------------------------------------------------------------------


def test_a_node_that_is_well_and_nothing_is_changed_by_looking(bound: Examined) -> None:
    assert bound.run("store", "init").code == 0
    before = bound.tree()
    found = bound.examine()
    assert list(found) == NAMES
    assert bound.code == 0, found
    assert {name for name, level in levels(found).items() if level == "fail"} == set()
    for name in ("configuration", "token", "state", "keyset", "floor", "public-keys", "store", "permissions", "bucket"):
        assert found[name]["level"] == "ok", found[name]
    for name in ("records", "audit", "clock", "space", "tls", "overdue"):
        assert found[name]["level"] == "ok", found[name]
    assert found["replicas"]["level"] == "warn"
    assert found["sync"]["level"] == "unseen"
    assert bound.tree() == before


def test_a_node_without_a_keyset_and_with_nats_down(node: Examined) -> None:
    found = node.examine()
    assert node.code == 75
    assert found["store"]["level"] == "fail"
    assert "connection refused" in found["store"]["detail"]
    assert {name for name, one in found.items() if "see the check store" in one["detail"]} == NATS_CHECKS
    assert found["keyset"]["level"] == "warn"
    assert "keydist bootstrap" in found["keyset"]["fix"]
    assert not node.state.exists()


def test_a_node_with_a_keyset_and_nats_down_is_examined_all_the_same(node: Examined) -> None:
    node.install(*chain(2))
    found = node.examine()
    assert found["token"]["level"] == found["state"]["level"] == found["floor"]["level"] == "ok"
    assert "epoch 2" in found["floor"]["detail"]


def test_without_a_configuration_only_that_is_told(node: Examined) -> None:
    node.config.write_text("cluster: x\nnatz: {}\n", encoding="utf-8")
    found = node.examine()
    assert node.code == 78
    assert "natz" in found["configuration"]["detail"]
    rest = {name: one for name, one in found.items() if name not in ("configuration", "units", "sync")}
    assert {one["detail"] for one in rest.values()} == {"not looked at: see the check configuration"}


def test_for_people_it_is_one_line_a_check_with_the_fix_below(node: Examined) -> None:
    answer = node.run("doctor", "space", "store", "bucket")
    lines = answer.out.splitlines()
    assert answer.code == 75
    assert re.fullmatch(r"ok    space {10}\S.*", lines[0])
    assert re.fullmatch(r"FAIL  store {10}\S.*", lines[1])
    assert re.fullmatch(r" {21}fix: \S.*", lines[2])
    assert re.fullmatch(r"-     bucket {9}\S.*", lines[3])
    assert lines[4:] == ["3 checks: 1 failed, 1 ok, 1 not visible here"]
    assert "\x1b" not in answer.out


@pytest.mark.parametrize(("environ", "is_coloured"), [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False)])
def test_colour_is_for_terminals(
    environ: dict[str, str], node: Examined, monkeypatch: pytest.MonkeyPatch, *, is_coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    answer = node.run("doctor", "space", "store")
    assert ("\x1b[32mok  \x1b[0m  space" in answer.out) == is_coloured
    assert ("\x1b[1;31mFAIL\x1b[0m  store" in answer.out) == is_coloured


def test_the_checks_are_listed_and_chosen_by_name(node: Examined) -> None:
    listed = node.run("doctor", "--list")
    assert [line.split()[0] for line in listed.out.splitlines()] == NAMES
    assert [one["name"] for one in node.run("doctor", "--list", "--json").json["checks"]] == NAMES
    assert list(node.examine("space", "token")) == ["token", "space"]
    error = node.run("doctor", "tokn", "--json").error
    assert (error["code"], error["fix"]) == ("usage", "did you mean token?")
    assert max(map(len, NAMES)) == command._WIDTH


def test_a_token_on_standard_input_is_none_that_could_be_examined(node: Examined) -> None:
    for path in ("-", ""):
        assert node.run("doctor", "token", "--token-file", path, "--json").error["code"] == "usage"


def test_every_check_is_explained(node: Examined) -> None:
    page = (ROOT / "docs/doctor.md").read_text(encoding="utf-8")
    assert re.findall(r"^### `([a-z-]+)`$", page, re.MULTILINE) == NAMES


def test_a_defect_in_a_check_is_told_and_keeps_no_other_from_its_turn(
    node: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_path: str) -> None:
        raise RuntimeError(format_token(TOKEN))

    monkeypatch.setattr("keydist.doctor.here.room_at", fails)
    found = node.examine("space", "credentials")
    assert node.code == 70
    assert "defect in keydist" in found["space"]["detail"]
    assert found["credentials"]["level"] == "ok"


# --- this machine -------------------------------------------------------------------------------


def test_a_configuration_that_others_may_change(node: Examined) -> None:
    node.config.chmod(0o666)
    level, code, said = node.check("configuration")
    assert (level, code) == ("fail", 77)
    assert f"chmod 0644 {node.config}" in said


def spoil_token(node: Examined) -> None:
    node.token_file.chmod(0o600)
    node.token_file.write_text(format_token(TOKEN)[:-1] + "0\n", encoding="ascii")


TOKENS: Final[dict[str, tuple[Callable[[Examined], object], str, int, str]]] = {
    "none": (lambda node: node.hold_tokens(), "fail", 78, "cannot be read"),
    "readable by others": (lambda node: node.token_file.chmod(0o444), "fail", 77, "mode 0444"),
    "malformed": (spoil_token, "fail", 78, "checksum"),
    "another": (lambda node: node.hold_tokens(OTHER_TOKEN), "fail", 77, TOKEN.token_id),
    "two": (lambda node: node.hold_tokens(TOKEN, OTHER_TOKEN), "warn", 0, "token retire"),
    "the right one": (lambda node: node.hold_tokens(TOKEN), "ok", 0, "mode 0400"),
}


@pytest.mark.parametrize(("change", "level", "code", "text"), TOKENS.values(), ids=TOKENS)
def test_the_token(node: Examined, change: Callable[[Examined], object], level: str, code: int, text: str) -> None:
    node.install(*chain(1))
    change(node)
    found = node.check("token")
    assert found[:2] == (level, code)
    assert text in found[2]


def test_a_token_that_is_no_file_is_a_failure_whoever_asks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")
    source = find_token_file(str(tmp_path / "token"), {}, None)
    with pytest.raises(UnsafeFileError, match="not a regular file") as caught:
        read_tokens(source)
    assert examine.token((), caught.value, None, source=source.path, owns=False).level is Level.FAIL


def test_a_superseded_token_is_to_be_retired(node: Examined) -> None:
    before = chain(1)[0]
    node.install(before)
    disk, after = node.disk(), extend(before, Change.RESEAL, token=OTHER_TOKEN)
    disk.install(after, based_on=disk.load((TOKEN,)), now=NOW)
    node.hold_tokens(TOKEN, OTHER_TOKEN)
    level, _, said = node.check("token")
    assert level == "warn"
    assert f"keydist token retire {TOKEN.token_id}" in said
    node.hold_tokens(OTHER_TOKEN)
    assert node.check("token")[0] == "ok"


STATES: Final[dict[str, Callable[[Examined], object]]] = {
    "a directory open to others": lambda node: node.state.chmod(0o755),
    "a private file that others read": lambda node: (node.state / "floor.json").chmod(0o644),
    "a key that others read": lambda node: (node.state / "live/signing-key.pem").chmod(0o604),
    "a public key that others write": lambda node: next((node.state / "public").iterdir()).chmod(0o666),
}


@pytest.mark.parametrize("change", STATES.values(), ids=STATES)
def test_modes_in_the_state_directory(node: Examined, change: Callable[[Examined], object]) -> None:
    node.install(*chain(1))
    assert node.check("state")[0] == "ok"
    change(node)
    level, code, said = node.check("state")
    assert (level, code) == ("fail", 77)
    assert "chmod" in said


@needs_root
def test_another_owner_in_the_state_directory(node: Examined) -> None:
    node.install(*chain(1))
    os.chown(node.state / "floor.json", NOBODY, NOBODY)
    level, code, said = node.check("state")
    assert (level, code) == ("fail", 77)
    assert f"found owner {NOBODY}" in said


@needs_root
def test_root_examines_another_users_node_as_that_user_would(node: Examined) -> None:
    node.install(*chain(1))
    for path in (node.state, *node.state.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    let_in(node.directory)
    found = node.examine("token", "state", "keyset", "floor", "public-keys")
    assert f"owner {NOBODY}" in found["state"]["detail"]
    assert levels(found) | {"keyset": ""} == {
        "token": "ok", "state": "ok", "keyset": "", "floor": "ok", "public-keys": "ok"
    }  # fmt: skip
    assert "confirm" in found["keyset"]["detail"]  # it was read: no store ever confirmed it
    assert os.geteuid() == 0


@needs_root
def test_another_user_is_told_what_cannot_be_seen(node: Examined) -> None:
    names = ("configuration", "token", "state", "keyset", "floor", "public-keys", "overdue", "hooks")
    node.install(*chain(1))
    let_in(node.directory)
    node.config.chmod(0o644)
    node.examine(*names)  # loads what is loaded late: another user may not read that
    os.seteuid(NOBODY)
    try:
        found = node.examine(*names)
    finally:
        os.seteuid(0)
    assert levels(found) == dict.fromkeys(names, "unseen") | {"configuration": "ok", "hooks": "ok"}
    assert f"this is user {NOBODY}" in found["state"]["detail"]
    assert "as root" in found["token"]["fix"]


def let_in(directory: Path) -> None:
    """Let other users enter a directory of this test."""
    directory.chmod(0o755)
    for parent in directory.parents:
        if parent.is_relative_to(tempfile.gettempdir()) and parent != Path(tempfile.gettempdir()):
            parent.chmod(parent.stat().st_mode | 0o011)


def test_a_damaged_keyset_a_lost_floor_and_lost_public_keys(node: Examined) -> None:
    held = node.install(*chain(1))
    (node.state / "floor.json").unlink()
    assert node.check("floor")[:2] == ("fail", 65)
    kid = held.keyset.active.kid
    (node.state / f"public/{kid}.jwk").unlink()
    level, code, said = node.check("public-keys")
    assert (level, code) == ("fail", 65)
    assert kid in said
    (node.state / "live/keyset.json").write_bytes(b"{}")
    assert node.check("keyset")[:2] == ("fail", 65)


def test_a_keyset_of_another_lineage_than_is_pinned(node: Examined) -> None:
    node.install(*chain(1))
    node.configure(lineage="0" * 32, nats={"servers": [IN_VAIN]})
    level, code, said = node.check("keyset")
    assert (level, code) == ("fail", 65)
    assert LINEAGE in said


def test_sealed_at_rest_needs_a_file_system_in_memory(node: Examined) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir():
        pytest.skip("no /dev/shm")
    node.configure(at_rest="sealed", runtime_dir=str(shm / "keydist-doctor-is-not-there"))
    assert node.check("runtime")[0] == "ok"
    node.configure(at_rest="sealed", runtime_dir="/proc")
    assert node.check("runtime")[:2] == ("fail", 77)


# --- credentials and TLS ------------------------------------------------------------------------

DAY: Final = 86_400


@pytest.mark.parametrize(
    ("left", "level", "code", "text"),
    [
        (None, "ok", 0, "does not expire"),
        (90 * DAY, "ok", 0, "(89|90) days"),
        (3 * DAY, "warn", 0, "expires in"),
        (-3 * DAY, "fail", 77, "has expired"),
    ],
)
def test_a_creds_file_that_expires(node: Examined, left: int | None, level: str, code: int, text: str) -> None:
    expires = None if left is None else SystemClock().now() + left
    file = Path(write(node.directory / "creds", creds(USER, expires=expires)))
    file.chmod(0o600)
    node.configure(nats={"servers": [IN_VAIN], "creds_file": str(file)})
    found = node.check("credentials")
    assert found[:2] == (level, code)
    assert re.search(text, found[2])
    assert USER.seed not in found[2]
    file.chmod(0o644)
    assert node.check("credentials")[:2] == ("fail", 77)


def test_credentials_that_expire_are_known_before_the_server_refuses_them(
    node: Examined, start_server: StartServer
) -> None:
    server = start_server(extra=trusting_operator(), jetstream=False)
    file = Path(write(node.directory / "creds", creds(USER, expires=SystemClock().now() - 60)))
    file.chmod(0o600)
    node.configure(nats={"servers": [server.url], "creds_file": str(file)})
    found = node.examine("credentials", "store", "permissions")
    assert levels(found) == {"credentials": "fail", "store": "fail", "permissions": "unseen"}
    assert node.code == 77
    assert "refuses the credentials" in found["store"]["detail"]


@pytest.mark.parametrize("text", ["", "garbage", Nkey("mine").seed[:20]])
def test_an_nkey_that_cannot_be_used(node: Examined, text: str) -> None:
    file = Path(write(node.directory / "nkey", text))
    file.chmod(0o600)
    node.configure(nats={"servers": [IN_VAIN], "nkey_file": str(file)})
    assert node.check("credentials")[:2] == ("fail", 78)
    file.unlink()
    assert node.check("credentials")[:2] == ("fail", 78)


def days_until(left: int) -> int:
    """Return for how long a certificate is made that is valid for so many days from now."""
    return int((SystemClock().now() - 1_577_836_800) // DAY) + 1 + left


@pytest.fixture
def secured(node: Examined, start_server: StartServer) -> Callable[..., Examined]:
    """Return what starts a server with TLS, and configures the node for it."""

    def start(
        *, first: bool | str = True, theirs: int = 36_500, mine: int = 36_500, asks: bool = True, tls: bool = True
    ) -> Examined:
        server_files = certificate(node.directory, "server", days=theirs)
        client_files = certificate(node.directory, "client", days=mine)
        extra = tls_server(server_files, client_files)
        server = start_server(
            extra=extra.replace("handshake_first: true", f"handshake_first: {json.dumps(first)}") if tls else ""
        )
        for file in (server_files.key_file, client_files.key_file):
            Path(str(file)).chmod(0o600)
        files = client_files._replace(ca_file=server_files.ca_file)._asdict()
        node.configure(nats={"servers": [server.url], **({"tls": files} if asks else {})})
        return node

    return start


def test_tls_from_the_first_byte(secured: Callable[..., Examined]) -> None:
    node = secured()
    found = node.examine("certificates", "tls", "store")
    assert levels(found) == {"certificates": "ok", "tls": "ok", "store": "warn"}
    assert re.search(
        r"TLSv1\.[23], handshake first; the server's certificate is valid for \d+ days", found["tls"]["detail"]
    )


TLS_CASES: Final[dict[str, tuple[dict[str, Any], str, str, int, str]]] = {
    "no TLS at all": ({"tls": False}, "tls", "fail", 78, "offers no TLS"),
    "a greeting in clear first": ({"first": False}, "tls", "fail", 78, "handshake_first: true"),
    "whichever comes first": ({"first": "auto"}, "tls", "warn", 0, "greeted in clear"),
    "not asked for": ({"first": "auto", "asks": False}, "tls", "warn", 0, "offers TLS"),
    "the server's certificate is soon over": ({"theirs": days_until(5)}, "tls", "warn", 0, "expires in [45] days"),
    "my own is soon over": ({"mine": days_until(5)}, "certificates", "warn", 0, "client.pem expires in [45] days"),
    "my own is over": ({"mine": days_until(-5)}, "certificates", "fail", 78, "client.pem has expired"),
}


@pytest.mark.parametrize(("options", "check", "level", "code", "text"), TLS_CASES.values(), ids=TLS_CASES)
def test_tls_that_is_not_right(
    secured: Callable[..., Examined], options: dict[str, Any], *, check: str, level: str, code: int, text: str
) -> None:
    found = secured(**options).check(check)
    assert found[:2] == (level, code), found
    assert re.search(text, found[2])


def test_a_key_for_tls_that_others_read(secured: Callable[..., Examined]) -> None:
    node = secured()
    (node.directory / "client.key").chmod(0o644)
    level, code, said = node.check("certificates")
    assert (level, code) == ("fail", 77)
    assert "nats.tls.key_file" in said


# --- syncing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "level", "text"), [("always", "ok", "syncs each write"), ("30s", "warn", "every 30 s")]
)
def test_how_often_a_server_syncs_is_seen_at_its_monitoring_endpoint(
    node: Examined, start_server: StartServer, interval: str, level: str, text: str
) -> None:
    store = json.dumps(str(node.directory / "js"))
    extra = f"http: 127.0.0.1:-1\njetstream {{ store_dir: {store}, sync_interval: {interval} }}"
    server = start_server(extra=extra, jetstream=False)
    ports = json.loads(next((node.directory / "nats-0/ports").glob("*.ports")).read_text(encoding="utf-8"))
    node.configure(nats={"servers": [server.url]})
    found = node.examine("sync", "--monitor", ports["monitoring"][0])["sync"]
    assert found["level"] == level, found
    assert text in found["detail"]
    assert node.examine("sync", "--monitor", server.url.replace("nats", "http"))["sync"]["level"] == "unseen"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "n1:8222",
        "file:///etc/passwd",
        "http://u:pw@n1:8222",
        "http://n1:x",
        "http://",
        "http://n1/ HTTP/1.0",
        "http://n1/\nX: y",
        "http://n1/ü",
    ],
)
def test_a_monitor_that_is_no_address(node: Examined, url: str) -> None:
    answer = node.run("doctor", "sync", "--monitor", url, "--json")
    assert (answer.code, answer.error["code"]) == (2, "usage")
    assert "pw" not in answer.out + answer.err


# --- the store ----------------------------------------------------------------------------------


class WrongClock(SystemClock):
    """A machine's clock that is off."""

    def __init__(self, by: float) -> None:
        self._by = by

    def now(self) -> int:
        return int(super().now() + self._by)

    def stamp(self) -> float:
        return super().stamp() + self._by


@pytest.mark.parametrize(
    ("by", "level", "code", "text"),
    [(-120.0, "fail", 75, "behind"), (120.0, "fail", 75, "ahead of"), (-20.0, "warn", 0, "20."), (0.0, "ok", 0, "0.0")],
)
def test_a_clock_that_is_off(
    bound: Examined, monkeypatch: pytest.MonkeyPatch, *, by: float, level: str, code: int, text: str
) -> None:
    monkeypatch.setattr(wiring, "SystemClock", lambda: WrongClock(by))
    found = bound.check("clock")
    assert found[:2] == (level, code), found
    assert text in found[2]


async def test_streams_that_are_kept_otherwise(
    bound: Examined, nats_server: EmbeddedServer, bucket: str, administer: Callable[..., Any]
) -> None:
    async with administer(nats_server, bucket) as admin:
        info = await admin.ask("INFO")
        changed = info["config"] | {"allow_direct": False, "max_msgs_per_subject": 5, "max_age": 10**12}
        assert "error" not in await admin.ask("UPDATE", **changed)
    import asyncio  # noqa: PLC0415 - the command has a loop of its own

    level, code, said = await asyncio.to_thread(bound.check, "bucket")
    assert (level, code) == ("fail", 78)
    for text in ("allow_direct", "max_msgs_per_subject", "max_age", "nats stream edit"):
        assert text in said


def test_a_store_that_lost_the_key(bound: Examined, nats_server: EmbeddedServer, bucket: str) -> None:
    bound.use_server(nats_server.url, f"{bucket}-other")
    found = bound.examine("keyset", "store")
    assert levels(found)["keyset"] == "fail"  # of another place
    assert bound.code == 65


def test_a_node_that_is_behind(bound: Examined) -> None:
    state = bound.directory / "kept"
    shutil.copytree(bound.state, state, symlinks=True)
    assert bound.run("policy", "set", "max_lifetime=2d").code == 0
    shutil.rmtree(bound.state)
    shutil.copytree(state, bound.state, symlinks=True)
    level, code, said = bound.check("store")
    assert (level, code) == ("fail", 75)
    assert "behind the store" in said


def test_a_follower_without_a_keyset_is_told_that_there_is_one(
    bound: Examined, nats_server: EmbeddedServer, bucket: str
) -> None:
    shutil.rmtree(bound.state)
    bound.configure(role="follower", nats={"servers": [nats_server.url], "bucket": bucket})
    level, code, said = bound.check("store")
    assert (level, code) == ("warn", 0)
    assert "keydist bootstrap" in said


def test_a_followers_user_that_may_do_everything(bound: Examined, nats_server: EmbeddedServer, bucket: str) -> None:
    bound.configure(role="follower", nats={"servers": [nats_server.url], "bucket": bucket})
    level, code, said = bound.check("excess")
    assert (level, code) == ("fail", 77)
    assert "overwrite the key" in said
    assert bound.check("store")[0] == "ok"  # and nothing was


# --- beside -------------------------------------------------------------------------------------


def test_a_socket_that_nobody_answers_at(node: Examined) -> None:
    assert node.check("agent")[0] == "warn"
    (node.directory / "run").mkdir(mode=0o700)
    (node.directory / "run/agent.sock").touch()
    level, code, said = node.check("agent")
    assert (level, code) == ("fail", 75)
    assert "agent.sock" in said


def test_a_hook_that_was_not_told(node: Examined) -> None:
    node.install(*chain(1))
    assert node.check("hooks")[0] == "ok"
    node.configure(nats={"servers": [IN_VAIN]}, hooks=[{"run": ["/bin/true"]}])
    level, _, said = node.check("hooks")
    assert level == "warn"  # nobody is there to tell it
    assert "/bin/true" in said


def test_units_where_systemd_does_not_run(node: Examined) -> None:
    if Path("/run/systemd/system").is_dir():
        pytest.skip("systemd runs here")
    assert node.check("units")[0] == "unseen"
