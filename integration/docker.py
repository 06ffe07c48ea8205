"""A Docker daemon of its own: where root, dockerd and compose are there; else the reason why not."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Final, Self

from keydist.adapters.embedded import find_server

BUSYBOX: Final = "/bin/busybox"
_START_SECONDS: Final = 40.0
_STOP_SECONDS: Final = 30.0


def missing() -> str | None:
    """Return why no daemon can be started here, or None."""
    if os.geteuid() != 0:
        return "not root"
    wanted = {"dockerd": "docker.io", "docker": "docker.io", "busybox": "busybox-static"}
    absent = [package for program, package in wanted.items() if shutil.which(program) is None]
    if not absent and not compose_command():
        absent = ["docker-compose"]
    return f"not installed: {', '.join(sorted(set(absent)))}" if absent else None


def compose_command() -> list[str]:
    """Return how compose is called here: as Docker's plugin, as a program of its own, or not at all."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


class Docker:
    """A daemon that keeps everything in `directory`; its socket's path must be short."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        directory = self._directory
        log = (directory / "dockerd.log").open("wb")
        places = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
        options = [f"--{name}={directory / place}" for name, place in places.items()]
        command = ["dockerd", f"--host={self._host}", "--storage-driver=vfs", *options]
        with log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while self.run("docker", "info", check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError((directory / "dockerd.log").read_text("utf-8", "replace")[-2000:])
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def _host(self) -> str:
        return f"unix://{self._directory}/sock"

    def run(
        self, *command: str, check: bool = True, more: dict[str, str] | None = None, data: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command that finds this daemon."""
        environ = os.environ | {"DOCKER_HOST": self._host} | (more or {})
        done = subprocess.run(command, capture_output=True, env=environ, input=data, timeout=120, check=False)
        assert not check or done.returncode == 0, done.stderr.decode("utf-8", "replace") + done.stdout.decode()
        return done

    def make_image(self, name: str) -> None:
        """Make an image of that name from the nats-server that is installed here, with wget, and nothing else."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(find_server(), "bin/nats-server")
            tar.add(os.path.realpath(shutil.which("busybox") or BUSYBOX), "bin/busybox")
            for applet in ("wget", "sh"):
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
            for place in ("tmp", "etc", "var", "var/lib"):
                folder = tarfile.TarInfo(place)
                folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(folder)
        entry = 'ENTRYPOINT ["/bin/nats-server"]'
        self.run("docker", "import", "--change", entry, "--change", "ENV PATH=/bin", "-", name, data=archive.getvalue())
