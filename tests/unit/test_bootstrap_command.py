"""`keydist bootstrap` as operators and units run it: real processes against a real nats-server.

Each thing that can be wrong has a message of its own; where no verified keyset is on disk, an exit code; where one
is, the node starts from it and tells an alarm. No run may show a secret: every output of this file is searched.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from keydist.adapters.disk.archive import Layout
from keydist.adapters.disk.keyset_disk import PosixKeysetDisk
from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats.bucket import keyset_stream
from keydist.cli.bootstrap import BootstrapOptions, parse_plain
from keydist.core.accept import Held
from keydist.core.envelope import Place
from keydist.core.strict import b64url_encode
from keydist.core.token import BootstrapToken, format_token
from keydist.ports import KeysetDisk
from tests.material import IMPOSTOR, OTHER_LINEAGE, OTHER_TOKEN, TOKEN, Change, altered, extend, first, hold

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from tests.conftest import Admin

    Administer = Callable[..., AbstractAsyncContextManager[Admin]]

ROOT = Path(__file__).parents[2]
OURS = ("KEYDIST_", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY")
MEMBERS = {"outcome", "epoch", "kid", "lineage", "role", "node", "cluster", "alarms", "changed"}
ERROR_MEMBERS = {"code", "family", "message", "expected", "found", "fix"}


def seal_at(held: Held, place: Place, *, token: BootstrapToken = TOKEN) -> Held:
    return hold(held.keyset, token=token, place=place)


@dataclass(frozen=True)
class Result:
    """What a process said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def answer(self) -> dict[str, Any]:
        """The JSON on standard output: one object, and nothing else."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def error(self) -> dict[str, str]:
        answer = self.answer
        assert set(answer) == {"error"}
        assert set(answer["error"]) == ERROR_MEMBERS
        found: dict[str, str] = answer["error"]
        return found

    @property
    def alarms(self) -> list[str]:
        assert all(set(alarm) == ERROR_MEMBERS for alarm in self.answer["alarms"])
        return [alarm["code"] for alarm in self.answer["alarms"]]


@dataclass(kw_only=True)
class Host:
    """One node as installed: its configuration, token and state, and the store that it shares."""

    directory: Path
    servers: str
    bucket: str
    cluster: str = "prod-eu1"
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.state = self.directory / "state"
        self.token_file = self.directory / "token"
        self.write_token(TOKEN)

    @property
    def place(self) -> Place:
        return Place(cluster=self.cluster, location=f"KV/{self.bucket}/signing-key")

    @property
    def disk(self) -> KeysetDisk:
        layout = Layout(sealed=False, gid=None, place=self.place)
        return PosixKeysetDisk(str(self.state), str(self.directory / "run"), layout)

    def epochs(self) -> tuple[Held, Held, Held]:
        """Return a history that belongs here: genesis, this node's epoch, and the one after."""
        genesis = seal_at(first(), self.place)
        mine = seal_at(extend(genesis, Change.ROTATE), self.place)
        return genesis, mine, seal_at(extend(mine, Change.ROTATE), self.place)

    def write_token(self, *tokens: BootstrapToken) -> None:
        self.token_file.unlink(missing_ok=True)
        self.token_file.write_text("".join(f"{format_token(token)}\n" for token in tokens), encoding="ascii")
        self.token_file.chmod(0o400)

    def hold_second_epoch(self) -> None:
        """Bring the disk to this node's epoch, as earlier runs did."""
        for held in self.epochs()[:2]:
            self.disk.install(held, based_on=self.disk.load((TOKEN,)), now=1_700_000_000)

    def write_config(self, **more: Any) -> Path:  # noqa: ANN401 - any YAML
        settings: dict[str, Any] = {
            "cluster": self.cluster,
            "node": "n1",
            "state_dir": "state",
            "runtime_dir": "run",
            "token_file": "token",
            "key": {"alg": "ES256"},
            "nats": {"servers": [self.servers], "bucket": self.bucket},
        }
        path = self.directory / "keydist.yaml"
        path.write_text(json.dumps(settings | self.settings | more), encoding="utf-8")  # JSON is YAML
        return path

    def run(
        self, *arguments: str, role: str = "follower", timeout: str = "1s", as_json: bool = True, **environ: str
    ) -> Result:
        """Run `python -m keydist bootstrap`, and search what it says for secrets."""
        config = self.directory / "keydist.yaml"
        if not config.exists():
            self.write_config()
        command = [sys.executable, "-m", "keydist", "bootstrap", "--config", str(config)]
        command += ["--role", role, "--timeout", timeout, *arguments, *(["--json"] if as_json else [])]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        done = subprocess.run(
            command, cwd=ROOT, env=inherited | environ, capture_output=True, text=True, timeout=50, check=False
        )
        self.search(done.stdout + done.stderr)
        assert "Traceback" not in done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    def search(self, text: str) -> None:
        """Assert that no secret of this host's history or disk stands in `text`."""
        assert "PRIVATE KEY" not in text
        secrets: set[str] = set()
        for token in (TOKEN, OTHER_TOKEN, IMPOSTOR):
            secrets |= {
                format_token(token),
                format_token(token)[16:68],
                token.secret.hex(),
                b64url_encode(token.secret),
            }
        materials = {key.material for held in self.epochs() for key in held.keyset.keys}
        for file in self.state.rglob("signing-key.pem"):
            lines = file.read_text(encoding="ascii").splitlines()
            secrets |= set(lines[1:-1])
            materials.add(base64.b64decode("".join(lines[1:-1])))
        for file in self.state.rglob("keyset.json"):
            secrets |= set(re.findall(r'"(?:pkcs8|k)":"([^"]+)"', file.read_text(encoding="utf-8")))
        for material in materials:
            secrets |= {b64url_encode(material), base64.b64encode(material).decode()[:64], material.hex()}
        found = {secret for secret in secrets - {""} if secret in text}
        assert not found, "a secret was shown"


@pytest.fixture
def host(tmp_path: Path, nats_server: EmbeddedServer, bucket: str) -> Host:
    return Host(directory=tmp_path / "host", servers=nats_server.url, bucket=bucket)


def snapshot(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return what a state directory holds, but its lock, the audit trail, the quarantine and when it was confirmed."""
    found = {}
    for path in [directory, *sorted(directory.rglob("*"))] if directory.exists() else []:
        name = str(path.relative_to(directory))
        if name.partition("/")[0] in ("lock", "audit", "quarantine", "confirmed.json"):
            continue
        held = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[name] = (path.lstat().st_mode, path.lstat().st_uid, held)
    return found


@pytest.fixture
def store(nats_server: EmbeddedServer, bucket: str, administer: Administer) -> Callable[..., None]:
    """Put the store into a state: what is in it, then what befell it."""

    def prepare(*envelopes: bytes, then: str = "") -> None:
        async def work() -> None:
            async with administer(nats_server, bucket) as admin:
                assert "error" not in await admin.ask("CREATE", **keyset_stream(bucket, replicas=1))
                for envelope in envelopes:
                    assert "error" not in await admin.publish(envelope)
                if then:
                    await getattr(admin, then)()

        asyncio.run(work())

    return prepare


# --- what can be wrong --------------------------------------------------------------------------

Prepare = Callable[[Host, Callable[..., None]], None]


def stored(make: Callable[[Host], bytes]) -> Prepare:
    def prepare(host: Host, store: Callable[..., None]) -> None:
        store(make(host))

    return prepare


def wrong_token(host: Host) -> bytes:
    return seal_at(extend(host.epochs()[1], Change.RESEAL), host.place, token=OTHER_TOKEN).envelope


def tampered(host: Host) -> bytes:
    envelope = host.epochs()[2].envelope
    return altered(envelope, len(envelope) - 30)


def foreign(host: Host) -> bytes:
    return seal_at(host.epochs()[2], Place(cluster="prod-us1", location=host.place.location)).envelope


def rolled_back(host: Host) -> bytes:
    return host.epochs()[0].envelope


def forked(host: Host) -> bytes:
    return seal_at(extend(host.epochs()[0], Change.ROTATE, name="other "), host.place).envelope


def another_lineage(host: Host) -> bytes:
    return seal_at(first("stranger ", lineage=OTHER_LINEAGE), host.place).envelope


def unknown_version(host: Host) -> bytes:
    header = b'{"alg":"dir","enc":"A256GCM","typ":"keydist-keyset+jwe","v":2}'
    return b64url_encode(header).encode() + host.epochs()[2].envelope[len(host.epochs()[2].envelope.split(b".")[0]) :]


def same_id_other_secret(host: Host) -> bytes:
    return seal_at(host.epochs()[2], host.place, token=IMPOSTOR).envelope


def deleted(host: Host, store: Callable[..., None]) -> None:
    store(host.epochs()[1].envelope, then="delete")


def wiped(host: Host, store: Callable[..., None]) -> None:
    store(host.epochs()[1].envelope, then="purge")


def lost(host: Host, store: Callable[..., None]) -> None:
    store(host.epochs()[1].envelope, then="drop")


def never_written(host: Host, store: Callable[..., None]) -> None:
    store()


def unreachable(host: Host, store: Callable[..., None]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host.write_config(nats={"servers": [f"nats://127.0.0.1:{free.getsockname()[1]}"], "bucket": host.bucket})


def pinned_to_another(host: Host, store: Callable[..., None]) -> None:
    host.write_config(lineage=host.epochs()[0].keyset.lineage)
    store(another_lineage(host))


def no_token(host: Host, store: Callable[..., None]) -> None:
    host.token_file.unlink()
    store(host.epochs()[2].envelope)


def empty_token(host: Host, store: Callable[..., None]) -> None:
    host.token_file.chmod(0o600)
    host.token_file.write_bytes(b"")
    store(host.epochs()[2].envelope)


def open_token(host: Host, store: Callable[..., None]) -> None:
    host.token_file.chmod(0o644)
    store(host.epochs()[2].envelope)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that is wrong: the exit code and words where nothing is on disk, the alarm where a keyset is."""

    prepare: Prepare
    role: str = "follower"
    exit_code: int
    error: str
    says: str
    alarm: str | None


CASES = {
    "wrong token": Case(
        prepare=stored(wrong_token), exit_code=77, error="wrong-token", says="does not hold", alarm="wrong-token"
    ),
    "same id, other secret": Case(
        prepare=stored(same_id_other_secret),
        exit_code=65,
        error="commitment",
        says="does not commit to this token",
        alarm="commitment",
    ),
    "tampered": Case(
        prepare=stored(tampered), exit_code=65, error="tampered", says="does not authenticate", alarm="tampered"
    ),
    "foreign cluster": Case(
        prepare=stored(foreign), exit_code=65, error="foreign-cluster", says="another cluster", alarm="foreign-cluster"
    ),
    "malformed": Case(
        prepare=stored(lambda _: b"a.b.c"), exit_code=65, error="malformed", says="compact JWE", alarm="malformed"
    ),
    "0 bytes in the store": Case(
        prepare=stored(lambda _: b""), exit_code=65, error="malformed", says="wrong size", alarm="malformed"
    ),
    "unknown version": Case(
        prepare=stored(unknown_version),
        exit_code=65,
        error="unsupported",
        says="not one that this release knows",
        alarm="unsupported",
    ),
    "another lineage than the configured one": Case(
        prepare=pinned_to_another, exit_code=65, error="fork", says="another lineage", alarm="fork"
    ),
    "deleted, to a leader": Case(
        prepare=deleted,
        role="leader",
        exit_code=65,
        error="refused-genesis",
        says="no key is generated: the key was deleted",
        alarm=None,  # it puts it back
    ),
    "deleted, to a follower": Case(
        prepare=deleted, exit_code=75, error="timeout", says="no key came within 1 s", alarm="store-lost"
    ),
    "wiped, to a leader": Case(
        prepare=wiped,
        role="leader",
        exit_code=65,
        error="refused-genesis",
        says="no key is generated: the bucket was emptied",
        alarm=None,
    ),
    "wiped, to a follower": Case(
        prepare=wiped, exit_code=75, error="timeout", says="no key came within 1 s", alarm="store-lost"
    ),
    "bucket missing, to a follower": Case(
        prepare=lost, exit_code=75, error="timeout", says="no key came within 1 s", alarm="store-lost"
    ),
    "unreachable": Case(
        prepare=unreachable, exit_code=75, error="unreachable", says="cannot be reached", alarm="unreachable"
    ),
    "no token": Case(prepare=no_token, exit_code=78, error="token", says="cannot be read", alarm="token"),
    "a 0-byte token": Case(prepare=empty_token, exit_code=78, error="token", says="is empty", alarm="token"),
    "a token that others may read": Case(
        prepare=open_token,
        exit_code=77,
        error="unsafe-file",
        says="can be read or changed by others",
        alarm="unsafe-file",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_without_a_keyset_on_disk_each_has_its_message_and_exit_code(
    case: Case, host: Host, store: Callable[..., None]
) -> None:
    case.prepare(host, store)
    result = host.run(role=case.role)
    error = result.error
    assert result.code == case.exit_code
    assert error["code"] == case.error
    assert case.says in error["message"]
    assert error["fix"]
    assert error["message"] in result.err  # people read it too
    assert not host.state.exists()


@pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.alarm], ids=[n for n, c in CASES.items() if c.alarm]
)
def test_with_a_keyset_on_disk_the_node_starts_from_it_with_that_alarm(
    case: Case, host: Host, store: Callable[..., None]
) -> None:
    host.hold_second_epoch()
    case.prepare(host, store)
    before = snapshot(host.state)
    result = host.run(role=case.role)
    assert (result.code, result.err != "") == (0, True)
    assert set(result.answer) == MEMBERS
    assert (result.answer["outcome"], result.answer["epoch"], result.answer["changed"]) == ("from-disk", 2, False)
    assert result.alarms == [case.alarm]
    assert f"keydist: alarm [{case.alarm}]" in result.err
    assert snapshot(host.state) == before


def test_the_messages_differ(host: Host) -> None:
    said = [case.says for name, case in CASES.items() if "follower" not in name]
    assert len(set(said)) == len(said)


@pytest.mark.parametrize(
    ("make", "alarm"),
    [(rolled_back, "rollback"), (forked, "fork"), (another_lineage, "fork")],
    ids=["rolled back", "forked", "another lineage"],
)
def test_a_store_with_another_history_is_an_alarm(
    make: Callable[[Host], bytes], alarm: str, host: Host, store: Callable[..., None]
) -> None:
    host.hold_second_epoch()
    store(make(host))
    before = snapshot(host.state)
    result = host.run()
    assert (result.code, result.answer["outcome"], result.alarms) == (0, "from-disk", [alarm])
    assert snapshot(host.state) == before


def test_an_epoch_below_the_demanded_one_is_refused(host: Host, store: Callable[..., None]) -> None:
    store(rolled_back(host))
    result = host.run("--min-epoch", "2")
    assert (result.code, result.error["code"]) == (65, "rollback")
    assert result.error["expected"] == "epoch 2 or later"
    assert not host.state.exists()


@pytest.mark.parametrize("prepare", [deleted, wiped, lost, never_written, stored(rolled_back)])
def test_a_leader_puts_its_keyset_back(
    prepare: Prepare, host: Host, store: Callable[..., None], nats_server: EmbeddedServer
) -> None:
    host.hold_second_epoch()
    prepare(host, store)
    before = snapshot(host.state)
    result = host.run(role="leader")
    assert (result.code, result.answer["outcome"], result.answer["changed"]) == (0, "republished", True)
    assert result.alarms in (["store-lost"], ["rollback"])
    after = snapshot(host.state)
    assert {name for name in after if after[name] != before.get(name)} == {"seen.json"}  # when it was put back
    follower = Host(directory=host.directory / "other", servers=nats_server.url, bucket=host.bucket)
    assert follower.run().answer["epoch"] == 2
    assert host.run(role="leader").answer["outcome"] == "unchanged"


# --- permissions of NATS ------------------------------------------------------------------------

NOTHING_ALLOWED = "authorization { default_permissions: { publish: nothing }, users: [{user: u}] }\nno_auth_user: u"
PASSWORD = 'authorization { user: "someone", password: "a password" }'


@pytest.mark.parametrize(
    ("extra", "error", "says"),
    [
        (NOTHING_ALLOWED, "forbidden", "NATS does not allow this node to use $JS.API"),
        (PASSWORD, "credentials-refused", "refuses the credentials"),
    ],
    ids=["forbidden", "refused"],
)
def test_what_nats_does_not_allow(
    extra: str, error: str, says: str, host: Host, start_server: Callable[..., EmbeddedServer]
) -> None:
    host.servers = start_server(extra=extra).url
    for role in ("leader", "follower"):
        result = host.run(role=role)
        assert (result.code, result.error["code"]) == (77, error)
        assert says in result.error["message"]
        assert result.err.count("\n") == 1  # nothing of nats-py's
    host.hold_second_epoch()
    before = snapshot(host.state)
    result = host.run()
    assert (result.code, result.answer["outcome"], result.alarms) == (0, "from-disk", [error])
    assert snapshot(host.state) == before


def test_credentials_that_are_not_there(host: Host, nats_server: EmbeddedServer) -> None:
    nats = {"servers": [nats_server.url], "bucket": host.bucket, "creds_file": "absent.creds"}
    host.write_config(nats=nats)
    result = host.run()
    assert (result.code, result.error["code"]) == (78, "config")
    assert "nats.creds_file cannot be read" in result.error["message"]
    host.hold_second_epoch()
    assert host.run().alarms == ["config"]


# --- the state directory ------------------------------------------------------------------------


def open_state(host: Host) -> None:
    host.state.chmod(0o755)


def open_keyset(host: Host) -> None:
    (host.state / "live" / "keyset.json").chmod(0o644)


def link_floor(host: Host) -> None:
    floor = host.state / "floor.json"
    floor.rename(host.directory / "elsewhere")
    floor.symlink_to(host.directory / "elsewhere")


def link_keyset(host: Host) -> None:
    file = (host.state / "live" / "keyset.jwe").resolve()
    file.rename(host.directory / "elsewhere")
    file.symlink_to(host.directory / "elsewhere")


def link_state(host: Host) -> None:
    host.state.rename(host.directory / "elsewhere")
    host.state.symlink_to(host.directory / "elsewhere")


def strange_owner(host: Host) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(host.state, 65_533, -1)


def strange_file_owner(host: Host) -> None:
    strange_owner(host)
    os.chown(host.state, 0, -1)
    os.chown((host.state / "live" / "keyset.jwe").resolve(), 65_533, -1)


@pytest.mark.parametrize("content", ["never written", "newer"])
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (open_state, "mode"),
        (open_keyset, "mode"),
        (link_floor, "link"),
        (link_keyset, "link"),
        (link_state, "directory"),
        (strange_owner, ""),
        (strange_file_owner, ""),
    ],
)
def test_state_with_a_bad_owner_mode_or_type_is_refused_whatever_the_store_holds(
    spoil: Callable[[Host], None], says: str, content: str, host: Host, store: Callable[..., None]
) -> None:
    host.hold_second_epoch()
    spoil(host)
    store(*([host.epochs()[2].envelope] if content == "newer" else []))
    before = snapshot(host.state), snapshot(host.directory / "elsewhere")
    result = host.run(role="leader")
    assert result.code == 77, result.err
    assert result.error["family"] == "permission"
    assert says in f"{result.error}"
    assert str(host.state) in result.error["message"]
    assert result.error["fix"]
    assert (snapshot(host.state), snapshot(host.directory / "elsewhere")) == before


@pytest.mark.parametrize("name", ["keyset.json", "keyset.jwe", "sums", "signing-key.pem"])
def test_a_0_byte_file_is_damage_never_a_reason_to_generate(name: str, host: Host, store: Callable[..., None]) -> None:
    host.hold_second_epoch()
    (host.state / "live" / name).write_bytes(b"")
    store()
    before = snapshot(host.state)
    result = host.run(role="leader")
    assert (result.code, result.error["code"]) == (65, "refused-genesis")
    assert "damaged" in result.error["message"]
    result = host.run(role="follower")
    assert (result.code, result.error["code"]) == (75, "timeout")
    assert "damaged" in result.error["message"]
    assert snapshot(host.state) == before


@pytest.mark.parametrize("name", ["keyset.json", "floor.json", "seen.json", "confirmed.json"])
def test_a_0_byte_file_and_a_good_store(name: str, host: Host, store: Callable[..., None]) -> None:
    host.hold_second_epoch()
    store(host.epochs()[1].envelope)
    assert host.run().code == 0
    path = host.state / name if (host.state / name).exists() else host.state / "live" / name
    path.write_bytes(b"")
    result = host.run()
    assert (result.code, result.answer["epoch"]) == (0, 2)
    assert result.answer["outcome"] == ("retrieved" if name == "keyset.json" else "unchanged")
    if name == "keyset.json":
        assert result.alarms == ["corrupt"]
    again = host.run()
    assert (again.answer["outcome"], again.alarms) == ("unchanged", [])


# --- the configuration --------------------------------------------------------------------------


@pytest.mark.parametrize("on_disk", [False, True], ids=["nothing on disk", "valid on disk"])
@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"tsl": {}}, "unknown key tsl"),
        ({"nats": {"tsl": {}}}, "unknown key nats.tsl"),
        ({"cluster": ""}, "cluster"),
        ({"role": "boss"}, "role"),
    ],
    ids=str,
)
def test_a_refused_configuration_is_always_78(more: dict[str, Any], says: str, on_disk: bool, host: Host) -> None:  # noqa: FBT001
    if on_disk:
        host.hold_second_epoch()
    before = snapshot(host.state)
    host.write_config(**more)
    result = host.run()
    assert (result.code, result.error["code"]) == (78, "config")
    assert says in result.error["message"]
    assert snapshot(host.state) == before


# --- what goes well -----------------------------------------------------------------------------


def test_a_cluster_begins(host: Host, nats_server: EmbeddedServer) -> None:
    made = host.run(role="leader", timeout="30s")
    assert (made.code, made.err) == (0, "")
    assert set(made.answer) == MEMBERS
    assert made.answer | {"kid": "", "lineage": ""} == {
        "outcome": "generated",
        "epoch": 1,
        "kid": "",
        "lineage": "",
        "role": "leader",
        "node": "n1",
        "cluster": "prod-eu1",
        "alarms": [],
        "changed": True,
    }
    assert re.fullmatch(r"[0-9a-f]{32}", made.answer["lineage"])
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", made.answer["kid"])
    for name, role, outcome in (("f", "follower", "retrieved"), ("l", "leader", "adopted")):
        other = Host(directory=host.directory / name, servers=nats_server.url, bucket=host.bucket)
        taken = other.run(role=role)
        assert taken.answer["outcome"] == outcome
        assert (taken.answer["kid"], taken.answer["lineage"]) == (made.answer["kid"], made.answer["lineage"])
        assert other.run(role=role).answer["outcome"] == "unchanged"
    again = host.run(role="leader")
    assert (again.answer["outcome"], again.answer["changed"]) == ("unchanged", False)


def test_people_read_one_line(host: Host) -> None:
    result = host.run(role="leader", as_json=False)
    assert result.code == 0
    assert re.fullmatch(r"n1 \(leader\): generated epoch 1 of lineage [0-9a-f]{32}, key \S{43}\n", result.out)
    failed = Host(directory=host.directory / "f", servers="nats://127.0.0.1:1", bucket="x").run(as_json=False)
    assert (failed.code, failed.out) == (75, "")
    assert failed.err.splitlines()[-1].startswith("keydist: NATS at nats://127.0.0.1:1 cannot be reached (found ")


# --- the service manager ------------------------------------------------------------------------


def heard(listening: socket.socket) -> list[str]:
    listening.setblocking(False)
    found = []
    while True:
        try:
            found.append(listening.recv(4096).decode())
        except BlockingIOError:
            return found


def test_the_service_manager_is_told_of_a_wait_and_given_a_reason(host: Host, store: Callable[..., None]) -> None:
    store()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(host.directory / "notify"))
        result = host.run(NOTIFY_SOCKET=str(host.directory / "notify"))
        told = heard(listening)
    assert result.code == 75
    assert len(told) >= 2
    for text in told:
        status, _, extend_by = text.partition("\n")
        assert status == "STATUS=waiting: waiting for a leader to publish the key: nothing was ever written to it"
        assert re.fullmatch(r"EXTEND_TIMEOUT_USEC=(1[01]|10)[0-9]{6}", extend_by)
    host.search("".join(told))
    assert result.err.count("waiting for a leader") == 1  # a line a reason, not a line a try


def test_the_service_manager_is_told_when_a_key_is_there(host: Host, store: Callable[..., None]) -> None:
    store(host.epochs()[1].envelope)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(host.directory / "notify"))
        host.run(NOTIFY_SOCKET=str(host.directory / "notify"))
        assert heard(listening) == ["READY=1\nSTATUS=holds epoch 2 (retrieved)"]


def test_a_token_as_a_systemd_credential(host: Host, store: Callable[..., None]) -> None:
    store(host.epochs()[1].envelope)
    host.write_config(token_file=None)
    credentials = host.directory / "credentials"
    credentials.mkdir()
    host.token_file.rename(credentials / "keydist.token")
    (credentials / "keydist.token").chmod(0o440)  # as systemd 257 makes it
    assert host.run(CREDENTIALS_DIRECTORY=str(credentials)).answer["outcome"] == "retrieved"


# --- the plain way in ---------------------------------------------------------------------------

PLAIN = {
    (): BootstrapOptions(),
    ("--json",): BootstrapOptions(as_json=True),
    ("--config", "c", "--role", "leader"): BootstrapOptions(config="c", role="leader"),
    ("--config=c", "--role=follower"): BootstrapOptions(config="c", role="follower"),
    ("--timeout", "30s", "--min-epoch", "7"): BootstrapOptions(timeout="30s", min_epoch="7"),
    ("--timeout=30s", "--min-epoch=7", "--json"): BootstrapOptions(timeout="30s", min_epoch="7", as_json=True),
    ("--token-file", "-"): BootstrapOptions(token_file="-"),
    ("--token-file=a=b",): BootstrapOptions(token_file="a=b"),
    ("--role", "leader", "--role", "follower"): BootstrapOptions(role="follower"),
}
NOT_PLAIN = [
    ("--help",),
    ("-h",),
    ("--version",),
    ("--role",),
    ("--role", "boss"),
    ("--role=",),
    ("--min-epoch", "-1"),
    ("--min-epoch", "one"),
    ("--min-epoch=",),
    ("--json=true",),
    ("--jso",),
    ("--unknown", "x"),
    ("positional",),
    ("--config", "c", "more"),
    ("--", "--json"),
    ("--show-completion",),
]


@pytest.mark.parametrize(("arguments", "options"), PLAIN.items(), ids=lambda value: " ".join(map(str, value)) or "none")
def test_plain_arguments(arguments: tuple[str, ...], options: BootstrapOptions) -> None:
    assert parse_plain(arguments) == options


@pytest.mark.parametrize("arguments", NOT_PLAIN, ids=" ".join)
def test_anything_else_is_for_the_full_command_line(arguments: tuple[str, ...]) -> None:
    assert parse_plain(arguments) is None
