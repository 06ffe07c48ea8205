"""docker-compose.nats.yml, with the commands of its header, as they are written, on a Docker daemon of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from integration.docker import Docker, compose_command, missing
from integration.secured import run_keydist

FILE: Final = Path(__file__).parents[1] / "docker-compose.nats.yml"
PORTS: Final = (4222, 4223, 4224)
pytestmark = pytest.mark.timeout(300)


def why_not() -> str | None:
    """Return why this cannot be tried here, or None."""
    if (why := missing()) is not None:
        return why
    for port in PORTS:
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind(("127.0.0.1", port))
            except OSError:
                return f"port {port} is in use"
    return None


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    why = why_not()
    if why is not None:
        if os.environ.get("KEYDIST_REQUIRE_DOCKER") == "1":
            pytest.fail(f"KEYDIST_REQUIRE_DOCKER=1, and Docker cannot be used: {why}")
        pytest.skip(f"Docker cannot be used: {why}")
    directory = Path(tempfile.mkdtemp(prefix="kd-docker-"))  # a socket's path is short
    with Docker(directory) as made:
        made.make_image(yaml.safe_load(FILE.read_text("utf-8"))["x-server"]["image"])
        yield made
    shutil.rmtree(directory, ignore_errors=True)


class Composed:
    """The project of one test, and the commands of the file's header in a directory of its own."""

    def __init__(self, docker: Docker, directory: Path) -> None:
        self.docker, self.directory = docker, directory

    def compose(self, *arguments: str) -> bytes:
        """Run compose; the older one knows no --wait."""
        program = compose_command()
        if program == ["docker-compose"]:
            arguments = tuple(argument for argument in arguments if argument != "--wait")
        more = {"KEYDIST_NATS_DIR": str(self.directory / "nats-dev")}
        return self.docker.run(*program, "-f", str(FILE), "-p", "kd", *arguments, more=more).stdout

    def wait_healthy(self) -> None:
        deadline = time.monotonic() + 90
        while True:
            found = [self.inspect(name) for name in self.containers()]
            if len(found) == len(PORTS) and all(one["State"]["Health"]["Status"] == "healthy" for one in found):
                return
            states = [(one["Name"], one["State"]["Status"], one["State"].get("Health")) for one in found]
            assert time.monotonic() < deadline, f"{states}\n{self.compose('logs').decode()[-4000:]}"
            time.sleep(0.5)

    def containers(self) -> list[str]:
        return self.compose("ps", "--quiet").decode().split()

    def inspect(self, name: str) -> dict[str, Any]:
        (found,) = json.loads(self.docker.run("docker", "inspect", name).stdout)
        return dict(found)

    def follow(self, command: str) -> str:
        """Run one line of the header, and return what it printed."""
        program, *arguments = command.split()
        if program == "docker":
            assert arguments[:3] == ["compose", "-f", FILE.name]
            self.compose(*arguments[3:])
            self.wait_healthy()
            return ""
        placed = [argument.replace("nats-dev", str(self.directory / "nats-dev")) for argument in arguments]
        done = run_keydist(*placed)
        assert done.returncode == 0, done.stderr
        return done.stdout


def commands() -> list[str]:
    """Return the commands of the file's header, in their order."""
    return [line[4:] for line in FILE.read_text("utf-8").splitlines() if line.startswith(("#   keydist", "#   docker"))]


@pytest.fixture
def composed(docker: Docker, tmp_path: Path) -> Iterator[Composed]:
    made = Composed(docker, tmp_path)
    yield made
    made.compose("down", "--volumes")


def test_the_header_leads_to_one_key_that_survives_servers_and_all_of_them(composed: Composed) -> None:
    said = [composed.follow(command) for command in commands()]
    assert len(said) == 6
    key = said[-1].split()[-1]
    assert said[-2].split()[-1] == key
    info = composed.directory / "nats-dev"
    operator = ("--config", str(info / "operator" / "keydist.yaml"))
    checked = run_keydist("store", "init", "--replicas", "3", "--json", *operator)
    assert json.loads(checked.stdout)["problems"] == []
    lost = composed.inspect(composed.containers()[0])["Id"]
    composed.docker.run("docker", "kill", lost)
    joined = run_keydist("bootstrap", "--json", "--config", str(info / "node-b" / "keydist.yaml"))
    assert json.loads(joined.stdout)["kid"] == key
    composed.compose("down")  # and the volumes stay
    composed.compose("up", "--detach")
    composed.wait_healthy()
    again = run_keydist("bootstrap", "--json", *operator)
    assert json.loads(again.stdout)["kid"] == key
