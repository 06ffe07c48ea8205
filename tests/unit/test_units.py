"""The systemd files, checked by systemd's own tools in a tree of their own, without a running systemd."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from keydist.adapters.config_schema import FIELDS
from keydist.adapters.disk.archive import PEM
from keydist.adapters.disk.reading import FLOOR
from keydist.adapters.duration import parse_duration
from keydist.adapters.token_file import CREDENTIAL, find_token_file, read_tokens
from keydist.cli.agent import parse_plain as agent_options
from keydist.cli.bootstrap import parse_plain
from keydist.cli.wait import WaitOptions
from keydist.cli.wait import parse_plain as wait_options
from keydist.errors import TokenError

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = "keydist-bootstrap.service"
AGENT = "keydist.service"
WAIT = "keydist-wait-ready.service"
READY = "keydist-ready.target"
TOKEN = ("keydist-token.path", "keydist-token.service")
RELOAD = ("keydist-reload@.path", "keydist-reload@.service")
UNITS = (AGENT, UNIT, WAIT, READY, *TOKEN, *RELOAD)
SERVICES = tuple(unit for unit in UNITS if unit.endswith(".service"))
CONFINED = (AGENT, UNIT, WAIT)
"""What runs keydist; what is left runs systemctl, as root."""
SEALED = "sealed-token.conf"
THRESHOLD = 12  # tenths: exposure 1.2
ORDERED_AROUND = (
    *("sysinit.target", "basic.target", "shutdown.target", "network-online.target", "multi-user.target"),
    *("network.target", "nss-lookup.target", "paths.target", "-.slice", "system.slice"),
)


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def settings(unit: str = UNIT) -> configparser.SectionProxy:
    """Return the last value of each setting of a unit's [Service] section."""
    parser = configparser.RawConfigParser(strict=False, comment_prefixes=("#",), delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign] # names keep their case
    parser.read_string((SYSTEMD / unit).read_text(encoding="utf-8"))
    return parser["Service"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with the units, the binaries that they start and empty targets."""
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    for unit in UNITS:
        shutil.copy(SYSTEMD / unit, units)
    for target in ORDERED_AROUND:
        (units / target).write_text(f"[Unit]\nDescription={target}\n", encoding="utf-8")
    for name in ("usr/bin/keydist", "usr/bin/systemctl", "bin/sh", "bin/sleep"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def verify(tree: Path, *units: str) -> subprocess.CompletedProcess[str]:
    paths = [str(tree / "etc/systemd/system" / unit) for unit in units or (UNIT,)]
    return run("systemd-analyze", "verify", "--man=no", f"--root={tree}", *paths)


def instance(unit: str) -> str:
    return unit.replace("@", "@nginx")


def test_every_unit_is_known_here() -> None:
    """What is shipped and stands in no list would be checked by no test."""
    assert {path.name for path in SYSTEMD.glob("*.*") if path.suffix in (".service", ".path", ".target")} == set(UNITS)


@needs("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_every_line_of_a_unit(tree: Path, unit: str) -> None:
    done = verify(tree, instance(unit))
    assert (done.returncode, done.stderr) == (0, "")


@needs("systemd-analyze")
@pytest.mark.parametrize(
    ("unit", "found", "instead"),
    [
        (UNIT, "NoNewPrivileges=yes", "NoNewPrivilege=yes"),
        (UNIT, "/usr/bin/", "/opt/"),
        (AGENT, "WatchdogSec=", "Watchdog="),
        (AGENT, "SetCredential=keydist.token:\\n", "SetCredential=keydist.token:"),
        (AGENT, "/bin/sh -c", "/opt/sh -c"),
        (WAIT, "RemainAfterExit=", "RemainAfter="),
        (READY, "Requires=", "Require="),
        (TOKEN[0], "PathChanged=", "PathChange="),
        (TOKEN[1], "/bin/sleep", "/opt/sleep"),
        (RELOAD[0], "PathChanged=/run", "PathChange=/run"),
        (RELOAD[1], "/usr/bin/systemctl", "/opt/systemctl"),
    ],
)
def test_a_mistake_in_a_unit_would_be_seen(tree: Path, unit: str, found: str, instead: str) -> None:
    file = tree / "etc/systemd/system" / unit
    text = file.read_text(encoding="utf-8")
    assert found in text
    file.write_text(text.replace(found, instead), encoding="utf-8")
    assert verify(tree, instance(unit)).stderr != ""


@needs("systemd-analyze")
@pytest.mark.parametrize("drop_in", sorted(path.name for path in (SYSTEMD / "drop-ins").glob("*.conf")))
def test_systemd_understands_every_line_of_a_drop_in(tree: Path, drop_in: str) -> None:
    directory = tree / f"etc/systemd/system/{AGENT}.d"
    directory.mkdir()
    shutil.copy(SYSTEMD / "drop-ins" / drop_in, directory)
    done = verify(tree, AGENT)
    of_254 = "Unknown key .*'Restart"
    wrong = [line for line in done.stderr.splitlines() if not re.search(of_254, line)]
    assert (done.returncode, wrong) == (0, [])


def test_what_is_watched_is_replaced_after_a_keyset_is_live() -> None:
    """A link would not do: systemd watches what it points to, and misses that it is swung."""
    watched = [line.partition("=")[2] for line in _lines(RELOAD[0]) if line.startswith("Path")]
    defaults = {field.name: field.default for field in FIELDS}
    assert watched == [f"{defaults['state_dir']}/{FLOOR}", f"{defaults['runtime_dir']}/{PEM}"]


def test_the_reload_is_of_the_instance_and_waits_for_nothing() -> None:
    service = settings(RELOAD[1])
    assert service["ExecStart"].split()[1:] == ["--no-block", "try-reload-or-restart", "%i"]


@needs("systemd-analyze")
@pytest.mark.parametrize("unit", SERVICES)
def test_a_unit_stays_below_the_threshold_of_exposure(tree: Path, unit: str) -> None:
    assert exposure(tree, unit) <= THRESHOLD / 10


@needs("systemd-analyze")
def test_a_unit_above_the_threshold_would_be_seen(tree: Path) -> None:
    file = tree / "etc/systemd/system" / AGENT
    lines = file.read_text(encoding="utf-8").splitlines()
    dropped = {"PrivateUsers=yes", "ProtectHome=yes"}
    assert dropped <= set(lines)
    file.write_text("\n".join(line for line in lines if line not in dropped) + "\n", encoding="utf-8")
    assert exposure(tree, AGENT) > THRESHOLD / 10


def exposure(tree: Path, unit: str) -> float:
    done = run("systemd-analyze", "security", "--no-pager", "--offline=true", f"--root={tree}", instance(unit))
    found = re.search(r"Overall exposure level for .*: ([0-9.]+) ", done.stdout)
    assert found, done.stderr
    return float(found[1])


def test_what_starts_keydist_confines_it_alike() -> None:
    """Settings that only one of them has are named here, with their reason."""
    hardening = [
        {name: value for name, value in settings(unit).items() if name in settings(TOKEN[1])} for unit in CONFINED
    ]
    for found in hardening:
        for name in ("Type", "ExecStart", "ExecStartPre", "RestrictAddressFamilies", "PrivateNetwork", "IPAddressDeny"):
            found.pop(name, None)  # what it is; the waiting one needs no network
    assert hardening[0] == hardening[1] == hardening[2]
    assert len(hardening[0]) > 25


def test_an_agent_is_ready_when_it_says_so_and_starts_again_whatever_ended_it() -> None:
    service = settings(AGENT)
    _, *arguments = shlex.split(service["ExecStart"])
    assert arguments == ["agent"]
    assert agent_options(arguments[1:]) is not None
    assert (service["Type"], service["Restart"], service["RuntimeDirectoryPreserve"]) == ("notify", "always", "yes")
    assert "StartLimitIntervalSec=0" in _lines(AGENT)


def test_who_needs_the_key_hangs_on_no_process_of_keydist() -> None:
    """Requires= on the agent would restart them with it, BindsTo= would let a crash end them."""
    assert _lines(READY)[-2:] == [f"Requires={WAIT}", f"After={WAIT}"]
    lines = _lines(WAIT)
    assert {f"Wants={AGENT}", f"After={AGENT}", "RemainAfterExit=yes", "TimeoutStartSec=infinity"} <= set(lines)
    assert not [line for line in lines if line.startswith(("Requires=", "BindsTo=", "Requisite=", "PartOf="))]


def test_what_waits_is_given_no_token_and_no_network() -> None:
    service = settings(WAIT)
    _, command, *arguments = shlex.split(service["ExecStart"])
    assert (command, wait_options(arguments)) == ("wait", WaitOptions())
    assert not [name for name in service if "Credential" in name or name.endswith("Directory")]
    assert (service["PrivateNetwork"], service["RestrictAddressFamilies"]) == ("yes", "AF_UNIX")


@pytest.mark.parametrize("unit", [AGENT, UNIT])
def test_without_its_file_the_token_is_empty_and_a_node_with_its_keyset_starts(unit: str, tmp_path: Path) -> None:
    service = settings(unit)
    assert service["LoadCredential"] == f"{CREDENTIAL}:/etc/keydist/token"
    name, _, value = service["SetCredential"].partition(":")
    (tmp_path / CREDENTIAL).write_bytes(value.replace("\\n", "\n").encode())
    with pytest.raises(TokenError, match="was given an empty token"):
        read_tokens(find_token_file(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)}, None))
    assert name == CREDENTIAL


def test_another_token_file_starts_the_agent_again() -> None:
    watched = [line.partition("=")[2] for line in _lines(TOKEN[0]) if line.startswith("Path")]
    sealed = (SYSTEMD / "drop-ins" / SEALED).read_text(encoding="utf-8")
    assert watched == ["/etc/keydist/token", "/etc/credstore.encrypted/keydist.token"]
    assert f"\nLoadCredential=\nLoadCredentialEncrypted={CREDENTIAL}:{watched[1]}\n" in sealed
    assert settings(TOKEN[1])["ExecStart"].split()[1:] == ["--no-block", "try-restart", AGENT]
    assert f"Wants={TOKEN[0]}" in _lines(AGENT)


def test_the_unit_starts_keydist_with_options_that_it_has() -> None:
    _, command, *arguments = shlex.split(settings()["ExecStart"])
    options = parse_plain(arguments)
    assert command == "bootstrap"
    assert options is not None
    assert parse_duration(options.timeout or "") == 86_400


def test_the_token_is_a_credential_of_the_name_that_keydist_looks_for_and_does_not_stay() -> None:
    for unit in (AGENT, UNIT):
        assert settings(unit)["LoadCredential"].partition(":")[0] == CREDENTIAL
        assert "RemainAfterExit" not in settings(unit)


def test_a_key_that_was_rendered_outlives_the_oneshot() -> None:
    service = settings()
    assert service["Type"] == "oneshot"
    assert service["RuntimeDirectoryPreserve"] == "yes"


def test_the_user_of_the_unit_is_made_by_sysusers() -> None:
    made = [line.split()[1] for line in _lines("keydist.sysusers") if line.startswith("u ")]
    assert [(settings(unit)["User"], settings(unit)["Group"]) for unit in CONFINED] == [(*made, *made)] * 3


@needs("systemd-sysusers")
def test_systemd_understands_the_sysusers_file(tmp_path: Path) -> None:
    done = run("systemd-sysusers", f"--root={tmp_path}", "--dry-run", str(SYSTEMD / "keydist.sysusers"))
    assert done.returncode == 0
    assert "user 'keydist'" in done.stderr


def test_tmpfiles_leave_to_the_unit_what_the_unit_makes() -> None:
    paths = [line.split()[1] for line in _lines("keydist.tmpfiles")]
    assert paths == ["/etc/keydist"]


def _lines(name: str) -> list[str]:
    text = (SYSTEMD / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
