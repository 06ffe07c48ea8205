"""`keydist install --systemd`: files whole in their places, a person's never replaced unasked, the same again."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Final

import pytest

from keydist.adapters.units import own_executable
from keydist.errors import UsageError
from tests.unit.cli_node import Answer, CliNode

SYSTEMD: Final = Path(__file__).parents[2] / "systemd"
PROGRAM: Final = "/opt/keydist/bin/keydist"
AGENT: Final = "etc/systemd/system/keydist.service"
PLACES: Final = {
    **{
        f"etc/systemd/system/{path.name}": path
        for kind in ("service", "path", "target")
        for path in SYSTEMD.glob(f"*.{kind}")
    },
    "etc/sysusers.d/keydist.conf": SYSTEMD / "keydist.sysusers",
    "etc/tmpfiles.d/keydist.conf": SYSTEMD / "keydist.tmpfiles",
}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CliNode:
    (tmp_path / "root").mkdir()
    return CliNode(tmp_path, monkeypatch, capsys)


def install(node: CliNode, *arguments: str, program: str = PROGRAM) -> Answer:
    root = str(node.directory / "root")
    return node.run("install", "--systemd", "--root", root, "--executable", program, "--json", *arguments)


def states(node: CliNode, answer: Answer) -> dict[str, str]:
    root = node.directory / "root"
    return {str(Path(row["path"]).relative_to(root)): row["state"] for row in answer.json["files"]}


def content(node: CliNode) -> dict[str, bytes]:
    root = node.directory / "root"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_file_of_the_repository_is_installed_and_starts_the_named_program(node: CliNode) -> None:
    answer = install(node)
    assert (answer.code, answer.json["changed"], answer.json["executable"]) == (0, True, PROGRAM)
    assert states(node, answer) == dict.fromkeys(PLACES, "created")
    for place, source in PLACES.items():
        path = node.directory / "root" / place
        text = path.read_text(encoding="utf-8")
        shipped = source.read_text(encoding="utf-8").replace("=/usr/bin/keydist ", f"={PROGRAM} ")
        assert text.startswith(shipped)
        assert text.removeprefix(shipped).startswith("# Installed by keydist install")
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert f"\nExecStart={PROGRAM} agent\n" in (node.directory / "root" / AGENT).read_text(encoding="utf-8")


def test_again_it_changes_nothing(node: CliNode) -> None:
    install(node)
    before = content(node)
    answer = install(node)
    assert (answer.code, answer.json["changed"]) == (0, False)
    assert set(states(node, answer).values()) == {"unchanged"}
    assert content(node) == before


def test_a_dry_run_says_it_all_and_writes_nothing(node: CliNode) -> None:
    answer = install(node, "--dry-run")
    assert (answer.code, answer.json["changed"]) == (0, False)
    assert set(states(node, answer).values()) == {"would create"}
    assert content(node) == {}


def test_what_keydist_installed_itself_is_brought_up_to_date(node: CliNode) -> None:
    install(node)
    answer = install(node, program="/usr/bin/keydist")
    found = states(node, answer)
    assert answer.code == 0
    assert {place for place, state in found.items() if state == "updated"} == {
        f"etc/systemd/system/{name}.service" for name in ("keydist", "keydist-bootstrap", "keydist-wait-ready")
    }


@pytest.mark.parametrize("there", ["changed", "from elsewhere"])
def test_a_file_that_a_person_changed_is_kept_and_nothing_else_is_written(node: CliNode, there: str) -> None:
    path = node.directory / "root" / AGENT
    if there == "changed":
        install(node)
        path.write_text(path.read_text(encoding="utf-8").replace("WatchdogSec=60s", "WatchdogSec=5s"), encoding="utf-8")
    else:
        path.parent.mkdir(parents=True)
        path.write_text("[Service]\nExecStart=/bin/true\n", encoding="utf-8")
    before = content(node)
    answer = install(node, program="/usr/bin/keydist")
    assert (answer.code, answer.error["code"]) == (78, "config")
    assert answer.error["found"] == str(path)
    assert "--force" in answer.error["fix"]
    assert content(node) == before


def test_forced_it_replaces_a_persons_file_says_so_and_keeps_it_once(node: CliNode) -> None:
    path = node.directory / "root" / AGENT
    path.parent.mkdir(parents=True)
    path.write_text("mine\n", encoding="utf-8")
    answer = install(node, "--force")
    assert (answer.code, states(node, answer)[AGENT]) == (0, "replaced")
    assert f"{path} was changed by hand" in answer.err
    assert Path(f"{path}.saved").read_text(encoding="utf-8") == "mine\n"
    path.write_text("mine again\n", encoding="utf-8")
    again = install(node, "--force")
    assert again.code == 78
    assert Path(f"{path}.saved").read_text(encoding="utf-8") == "mine\n"
    assert path.read_text(encoding="utf-8") == "mine again\n"


def test_a_masked_unit_stays_masked_and_the_others_are_installed(node: CliNode) -> None:
    path = node.directory / "root/etc/systemd/system/keydist.service"
    path.parent.mkdir(parents=True)
    path.symlink_to("/dev/null")
    first, again = (install(node, *more) for more in ((), ("--force",)))
    for answer in (first, again):
        assert (answer.code, str(path.readlink())) == (0, "/dev/null")
        assert {"path": str(path), "state": "left masked"} in answer.json["files"]
    assert not again.json["changed"]
    assert not [line for line in again.json["next"] if "enable" in line]
    assert (path.parent / "keydist-wait-ready.service").is_file()


def test_another_link_is_not_replaced(node: CliNode, tmp_path: Path) -> None:
    path = node.directory / "root/etc/systemd/system/keydist.service"
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere")
    answer = install(node, "--force")
    assert (answer.code, path.is_symlink(), (tmp_path / "elsewhere").exists()) == (78, True, False)


def test_a_link_that_leads_out_of_the_tree_is_not_followed(node: CliNode) -> None:
    outside = node.directory / "outside"
    outside.mkdir()
    (node.directory / "root" / "etc").symlink_to(outside)
    answer = install(node)
    assert answer.code == 78
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("keydist", 2),
        ("/opt/key dist/bin/keydist", 2),
        ("/opt/%i/keydist", 2),
        ("/opt/$x/keydist", 2),
        ("/root/venv/bin/keydist", 78),
        ("/home/me/keydist", 78),
        ("/tmp/venv/bin/keydist", 78),
        ("/opt/../root/keydist", 2),
        ("/opt/./keydist", 2),
    ],
)
def test_what_a_confined_unit_cannot_start_is_refused(node: CliNode, program: str, code: int) -> None:
    answer = install(node, program=program)
    assert answer.code == code
    assert content(node) == {}


def test_on_this_machine_the_program_must_be_there(node: CliNode) -> None:
    answer = node.run("install", "--systemd", "--executable", "/opt/keydist/absent", "--dry-run", "--json")
    assert answer.code == 78
    assert answer.error["message"] == "/opt/keydist/absent cannot be started"


def test_without_a_name_of_its_own_it_asks_for_one(node: CliNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(node.directory))  # no keydist is installed there
    monkeypatch.setattr(sys, "argv", ["python", "-m"])
    with pytest.raises(UsageError, match="by its own name"):
        own_executable()


@pytest.mark.parametrize(
    ("arguments", "code"), [((), 2), (("--systemd", "--root", ""), 2), (("--systemd", "--root", "/absent"), 78)]
)
def test_what_is_not_named_is_asked_for(node: CliNode, arguments: tuple[str, ...], code: int) -> None:
    assert node.run("install", *arguments, "--executable", PROGRAM, "--json").code == code


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_user_who_may_not_write_there_hears_it_before_anything_is_written(node: CliNode) -> None:
    (node.directory / "root").chmod(0o500)
    answer = install(node)
    (node.directory / "root").chmod(0o700)
    assert answer.code == 77
    assert content(node) == {}


def test_it_says_what_comes_next_for_this_tree(node: CliNode) -> None:
    root = node.directory / "root"
    follows = install(node).json["next"]
    assert follows[-1] == f"systemctl --root={root} enable keydist"
    assert f"systemd-sysusers --root={root}" in follows
    assert [line for line in follows if PROGRAM in line]
    (root / PROGRAM[1:]).parent.mkdir(parents=True)
    (root / PROGRAM[1:]).touch()
    (root / "etc/keydist").mkdir()
    (root / "etc/keydist/keydist.yaml").touch()
    follows = install(node).json["next"]
    assert not [line for line in follows if PROGRAM in line or "keydist.yaml" in line]
