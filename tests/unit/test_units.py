"""The systemd files, checked by systemd's own tools in a tree of their own, without a running systemd."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from keydist.adapters.config_schema import FIELDS
from keydist.adapters.disk.archive import PEM
from keydist.adapters.disk.reading import FLOOR
from keydist.adapters.duration import parse_duration
from keydist.adapters.token_file import CREDENTIAL
from keydist.cli.bootstrap import parse_plain

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = "keydist-bootstrap.service"
RELOAD = ("keydist-reload@.path", "keydist-reload@.service")
THRESHOLD = 12  # tenths: exposure 1.2
ORDERED_AROUND = (
    *("sysinit.target", "basic.target", "shutdown.target", "network-online.target", "multi-user.target"),
    *("paths.target", "-.slice", "system.slice"),
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
    for unit in (UNIT, *RELOAD):
        shutil.copy(SYSTEMD / unit, units)
    for target in ORDERED_AROUND:
        (units / target).write_text(f"[Unit]\nDescription={target}\n", encoding="utf-8")
    (tmp_path / "usr/bin").mkdir(parents=True)
    for name in ("keydist", "systemctl"):
        (tmp_path / "usr/bin" / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (tmp_path / "usr/bin" / name).chmod(0o755)
    return tmp_path


def verify(tree: Path, *units: str) -> subprocess.CompletedProcess[str]:
    paths = [str(tree / "etc/systemd/system" / unit) for unit in units or (UNIT,)]
    return run("systemd-analyze", "verify", "--man=no", f"--root={tree}", *paths)


@needs("systemd-analyze")
def test_systemd_understands_every_line_of_the_unit(tree: Path) -> None:
    done = verify(tree)
    assert (done.returncode, done.stderr) == (0, "")


@needs("systemd-analyze")
@pytest.mark.parametrize(("found", "instead"), [("NoNewPrivileges=yes", "NoNewPrivilege=yes"), ("/usr/bin/", "/opt/")])
def test_a_mistake_in_the_unit_would_be_seen(tree: Path, found: str, instead: str) -> None:
    unit = tree / "etc/systemd/system" / UNIT
    text = unit.read_text(encoding="utf-8")
    assert found in text
    unit.write_text(text.replace(found, instead), encoding="utf-8")
    assert verify(tree).stderr != ""


@needs("systemd-analyze")
def test_systemd_understands_every_line_of_the_units_that_reload_a_service(tree: Path) -> None:
    done = verify(tree, *(unit.replace("@", "@nginx") for unit in RELOAD))
    assert (done.returncode, done.stderr) == (0, "")


@needs("systemd-analyze")
@pytest.mark.parametrize(
    ("unit", "found", "instead"),
    [(RELOAD[0], "PathChanged=/run", "PathChange=/run"), (RELOAD[1], "/usr/bin/systemctl", "/opt/systemctl")],
)
def test_a_mistake_in_the_units_that_reload_would_be_seen(tree: Path, unit: str, found: str, instead: str) -> None:
    file = tree / "etc/systemd/system" / unit
    text = file.read_text(encoding="utf-8")
    assert found in text
    file.write_text(text.replace(found, instead), encoding="utf-8")
    assert verify(tree, unit.replace("@", "@nginx")).stderr != ""


def test_what_is_watched_is_replaced_after_a_keyset_is_live() -> None:
    """A link would not do: systemd watches what it points to, and misses that it is swung."""
    watched = [line.partition("=")[2] for line in _lines(RELOAD[0]) if line.startswith("Path")]
    defaults = {field.name: field.default for field in FIELDS}
    assert watched == [f"{defaults['state_dir']}/{FLOOR}", f"{defaults['runtime_dir']}/{PEM}"]


def test_the_reload_is_of_the_instance_and_waits_for_nothing() -> None:
    service = settings(RELOAD[1])
    assert service["ExecStart"].split()[1:] == ["--no-block", "try-reload-or-restart", "%i"]


@needs("systemd-analyze")
@pytest.mark.parametrize(("unhardened", "fits"), [((), True), (("PrivateUsers=yes", "ProtectHome=yes"), False)])
def test_the_unit_stays_below_the_threshold_of_exposure(tree: Path, unhardened: tuple[str, ...], *, fits: bool) -> None:
    unit = tree / "etc/systemd/system" / UNIT
    lines = unit.read_text(encoding="utf-8").splitlines()
    assert set(unhardened) <= set(lines)
    unit.write_text("\n".join(line for line in lines if line not in unhardened) + "\n", encoding="utf-8")
    command = ("systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={THRESHOLD}")
    done = run(*command, f"--root={tree}", UNIT)
    assert "Overall exposure level" in done.stdout
    assert (done.returncode == 0) is fits


def test_the_unit_starts_keydist_with_options_that_it_has() -> None:
    _, command, *arguments = shlex.split(settings()["ExecStart"])
    options = parse_plain(arguments)
    assert command == "bootstrap"
    assert options is not None
    assert parse_duration(options.timeout or "") == 86_400


def test_the_token_is_a_credential_of_the_name_that_keydist_looks_for_and_does_not_stay() -> None:
    service = settings()
    assert service["LoadCredential"].partition(":")[0] == CREDENTIAL
    assert "RemainAfterExit" not in service


def test_a_key_that_was_rendered_outlives_the_oneshot() -> None:
    service = settings()
    assert service["Type"] == "oneshot"
    assert service["RuntimeDirectoryPreserve"] == "yes"


def test_the_user_of_the_unit_is_made_by_sysusers() -> None:
    service = settings()
    made = [line.split()[1] for line in _lines("keydist.sysusers") if line.startswith("u ")]
    assert made == [service["User"]] == [service["Group"]]


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
