"""The Debian package: built, installed, upgraded and removed by dpkg, in a tree of its own over this machine's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from integration.machine import NATS_SERVER, Machine, skip_unless_possible
from keydist import __version__
from keydist.core.token import format_token
from tests.material import TOKEN

_REPOSITORY: Final = Path(__file__).parent.parent
_TREE: Final = """
set -eu
mount -t tmpfs tree "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay tree -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc tree "$1/root/proc"
mount --rbind /dev "$1/root/dev"
rm -rf "$1/root/opt/keydist" "$1/root/etc/keydist"
echo ready
exec sleep infinity
"""

_NATS: Final = f"[Service]\nExecStart={NATS_SERVER} --jetstream --addr 127.0.0.1 --store_dir /var/lib/nats\n"
_CONFIG: Final = "cluster: test\nnode: machine\nrole: leader\nkey: {alg: ES256}\n"

pytestmark = pytest.mark.timeout(600)


class Tree:
    """What is done in the tree; `inside` leads into it from here."""

    def __init__(self, keeper: int, root: Path) -> None:
        self._enter = ["nsenter", f"--target={keeper}", "--mount", "chroot", str(root)]
        self.inside = Path(f"/proc/{keeper}/root{root}")

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it as its root."""
        environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(
            [*self._enter, *argv], check=False, capture_output=True, text=True, timeout=120, env=environ
        )
        assert not check or done.returncode == 0, f"{argv}: {done.returncode}: {done.stdout}{done.stderr}"
        return done


@pytest.fixture(scope="module")
def tree(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """This machine as it is, over which everything is written to memory; gone with the process that holds it."""
    place = tmp_path_factory.mktemp("tree")
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _TREE, "tree", str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdout is not None
        if keeper.stdout.readline() != "ready\n":
            pytest.skip("no right to mount an overlay")
        tree = Tree(keeper.pid, place / "root")
        shutil.copy(package, tree.inside / "keydist.deb")
        yield tree
        keeper.kill()


@pytest.fixture(scope="module")
def installed(tree: Tree) -> Tree:
    tree.run("dpkg", "--install", "/keydist.deb")
    return tree


def test_its_program_runs_by_its_own_python_from_anywhere(installed: Tree) -> None:
    for program in ("/usr/bin/keydist", "/opt/keydist/bin/keydist"):
        assert installed.run(program, "--version").stdout == f"keydist {__version__}\n"
    assert installed.run("/usr/bin/env", "PYTHONPATH=/nowhere", "keydist", "--version").returncode == 0


def test_everything_is_as_it_was_packed_also_after_it_ran(installed: Tree) -> None:
    installed.run("keydist", "token", "generate", "--out", "/tmp/token.of-a-test")
    installed.run("/opt/keydist/bin/keydist", "config", "schema")
    assert installed.run("dpkg", "--verify", "keydist").stdout == ""


def test_it_makes_the_user_and_the_directory_and_enables_nothing(installed: Tree) -> None:
    assert "keydist" in installed.run("id", "keydist").stdout
    assert installed.run("stat", "-c", "%a %U", "/etc/keydist").stdout == "755 root\n"
    enabled = list((installed.inside / "etc/systemd/system").rglob("*.wants/keydist*"))
    assert enabled == []


def test_its_units_are_valid_and_start_what_is_there(installed: Tree) -> None:
    found = sorted((installed.inside / "usr/lib/systemd/system").glob("keydist*.service"))
    units = [unit for unit in found if "@" not in unit.name]
    assert len(units) == len(found) - 1 == 4
    done = installed.run("systemd-analyze", "verify", *(f"/usr/lib/systemd/system/{unit.name}" for unit in units))
    assert [line for line in done.stderr.splitlines() if "keydist" in line] == []


def test_it_brings_manual_completions_schema_and_examples(installed: Tree) -> None:
    assert installed.run("man", "-w", "keydist", check=False).stdout.strip() in (
        "/usr/share/man/man1/keydist.1.gz",
        "",  # man-db is not installed
    )
    share = installed.inside / "usr/share"
    for place in (
        "man/man1/keydist.1.gz",
        "bash-completion/completions/keydist",
        "zsh/vendor-completions/_keydist",
        "fish/vendor_completions.d/keydist.fish",
        "doc/keydist/copyright",
        "doc/keydist/examples/cloud-init.yaml",
        "doc/keydist/examples/keydist.rules.yml",
        "doc/keydist/examples/drop-ins/sealed-token.conf",
    ):
        assert (share / place).stat().st_size > 0
    schema = (share / "keydist/keydist.schema.json").read_text(encoding="utf-8")
    assert schema == installed.run("keydist", "config", "schema").stdout


def test_completion_works(installed: Tree) -> None:
    words = "source /usr/share/bash-completion/completions/keydist; COMP_WORDS=(keydist tok); COMP_CWORD=1"
    done = installed.run("bash", "-c", f"{words}; _keydist_completion keydist; echo ${{COMPREPLY[@]}}")
    assert done.stdout == "token\n"


def test_nothing_of_where_it_was_built_is_in_it(installed: Tree) -> None:
    done = installed.run("grep", "-rlF", str(_REPOSITORY), "/opt/keydist", "/usr/share/doc/keydist", check=False)
    assert done.stdout == ""


def test_it_is_upgraded_removed_and_purged_and_what_may_be_the_last_copy_stays(installed: Tree) -> None:
    installed.run("dpkg", "--install", "/keydist.deb")
    key = installed.inside / "var/lib/keydist/live"
    key.parent.mkdir()
    key.write_text("a key", encoding="utf-8")
    installed.run("dpkg", "--remove", "keydist")
    assert not (installed.inside / "opt/keydist").exists()
    assert not (installed.inside / "usr/lib/systemd/system/keydist.service").exists()
    done = installed.run("dpkg", "--purge", "keydist")
    assert "/var/lib/keydist is left" in done.stdout
    assert key.read_text(encoding="utf-8") == "a key"
    assert not (installed.inside / "etc/keydist").exists()


def test_on_a_running_machine_an_upgrade_starts_the_agent_again_and_a_removal_stops_it(
    package: Path, tmp_path: Path
) -> None:
    skip_unless_possible()
    files: dict[str, str | bytes] = {
        "/root/keydist.deb": package.read_bytes(),
        "/etc/keydist/keydist.yaml": _CONFIG,
        "/etc/keydist/token": format_token(TOKEN).encode(),
        "/etc/systemd/system/nats.service": _NATS,
    }
    with Machine(tmp_path, files=files) as machine:

        def agent() -> tuple[str, int]:
            shown = machine.show("keydist", "ActiveState", "MainPID")
            return shown["ActiveState"], int(shown["MainPID"])

        done = machine.run("dpkg", "--install", "/root/keydist.deb")
        assert "systemctl enable --now keydist" in done.stdout
        assert agent() == ("inactive", 0)
        machine.run("systemctl", "start", "nats")
        machine.run("systemctl", "enable", "--now", "keydist")
        state, first = agent()
        assert state == "active"
        machine.run("dpkg", "--install", "/root/keydist.deb")
        machine.until(lambda: agent()[0] == "active" and agent()[1] != first, "the agent to be started again")
        kid = machine.read("/var/lib/keydist/live/jwks.json")
        machine.run("dpkg", "--remove", "keydist")
        assert agent() == ("inactive", 0)
        machine.run("dpkg", "--purge", "keydist")
        assert machine.read("/var/lib/keydist/live/jwks.json") == kid != b""
        assert machine.read("/etc/keydist/keydist.yaml") == _CONFIG.encode()
        assert machine.run("find", "/etc/systemd/system", "-name", "keydist*").stdout == ""
