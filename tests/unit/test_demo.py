"""The demo as a person runs it: real processes, one key, nothing left behind however it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_COMMAND = (sys.executable, "-m", "keydist", "demo")
_SABOTAGE = """
import sys
from keydist.cli.demo import cluster, run_demo
add = cluster.DemoCluster.add_node
def sabotaged(self, node, role):
    add(self, node, role)
    if node == {node!r}:
        path = self._configuration(node)
        text = path.read_text()
        assert {old!r} in text
        path.write_text(text.replace({old!r}, {new!r}))
cluster.DemoCluster.add_node = sabotaged
sys.exit(run_demo(nodes=3))
"""


def _environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return os.environ | {"TMPDIR": str(tmp_path), "TERM": "xterm"} | more


def _processes(tmp_path: Path) -> list[str]:
    """Return the command lines of live processes that name the directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if f"{tmp_path}/keydist-demo-" in line:
                found.append(line)
    return found


def _assert_nothing_left(tmp_path: Path) -> None:
    assert list(tmp_path.iterdir()) == []
    assert _processes(tmp_path) == []


def _run(command: tuple[str, ...], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


@contextmanager
def _started(tmp_path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        (*_COMMAND, *arguments),
        env=_environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_every_node_holds_one_key_throughout_and_nothing_stays(tmp_path: Path) -> None:
    # What the caller set for its own keydist or service is not for the nodes; nor does FORCE_COLOR reach a pipe.
    poison = {
        "KEYDIST_TOKEN": "x",
        "KEYDIST_CLUSTER": "other",
        "KEYDIST_NATS__BUCKET": "other",
        "CREDENTIALS_DIRECTORY": "/nonexistent",
        "NOTIFY_SOCKET": "/nonexistent/notify",
        "FORCE_COLOR": "1",
    }
    done = _run(_COMMAND, _environment(tmp_path, **poison))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if re.match(r"   node-\d+ +(leader|follower)", line)]
    assert [(cells[0], cells[4]) for cells in rows] == [
        ("node-1", "generated"),
        *((f"node-{number}", "retrieved") for number in range(2, 6)),
        *((f"node-{number}", "from-disk") for number in range(1, 6)),
        ("node-1", "republished"),
        *((f"node-{number}", "from-disk") for number in range(2, 6)),
        ("node-6", "retrieved"),
    ]
    assert len({cells[3] for cells in rows}) == 1
    assert "   node-2 to node-5: each waits for a leader\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Verdict: one key, ")
    _assert_nothing_left(tmp_path)


def test_json_is_one_object_and_the_display_goes_to_standard_error(tmp_path: Path) -> None:
    done = _run((*_COMMAND, "--nodes", "2", "--json"), _environment(tmp_path))
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert (found["ok"], found["problems"], found["nodes"], found["epoch"]) == (True, [], 2, 1)
    assert [(row["phase"], row["node"], row["outcome"], row["alarms"]) for row in found["rows"]] == [
        ("first-start", "node-1", "generated", []),
        ("first-start", "node-2", "retrieved", []),
        ("nats-stopped", "node-1", "from-disk", ["unreachable"]),
        ("nats-stopped", "node-2", "from-disk", ["unreachable"]),
        ("store-wiped", "node-1", "republished", ["store-lost"]),
        ("store-wiped", "node-2", "from-disk", ["store-lost"]),
        ("new-node", "node-3", "retrieved", []),
    ]
    assert {row["kid"] for row in found["rows"]} == {found["kid"]}
    assert found["verdict"] in done.stderr
    _assert_nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("after", "number", "code"),
    [("keydist demo", signal.SIGINT, 130), ("1 ", signal.SIGTERM, 143), ("2 ", signal.SIGINT, 130)],
    ids=["while it begins", "while followers start", "while NATS is stopped"],
)
def test_a_signal_stops_and_removes_everything(tmp_path: Path, after: str, number: int, code: int) -> None:
    with _started(tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        next(line for line in process.stdout if line.startswith(after))
        process.send_signal(number)
        process.stdout.read()
        said = process.stderr.read()
        assert process.wait() == code
    assert said == "keydist: interrupted; what the demo started is stopped and removed\n"
    _assert_nothing_left(tmp_path)


def test_a_reader_who_leaves_ends_it_quietly(tmp_path: Path) -> None:
    with _started(tmp_path, "--nodes", "2") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 128 + signal.SIGPIPE
        process.stdout = None
    _assert_nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("node", "change", "code", "reason"),
    [
        ("node-2", ('cluster: "demo"', 'cluster: "other"'), 65, "the envelope"),
        ("node-1", ("/token", "/missing"), 78, "the token file"),
    ],
    ids=["a follower of another cluster", "a leader without a token"],
)
def test_a_sabotaged_node_fails_the_demo_with_its_own_words(
    tmp_path: Path, node: str, change: tuple[str, str], code: int, reason: str
) -> None:
    script = _SABOTAGE.format(node=node, old=change[0], new=change[1])
    done = _run((sys.executable, "-c", script), _environment(tmp_path))
    assert done.returncode == code, done.stdout
    assert f"\n            {reason}" in done.stdout
    assert done.stdout.endswith(f"\nFAILED: {node} has no key.\n")
    assert "\n2 " not in done.stdout
    _assert_nothing_left(tmp_path)


def test_a_terminal_is_redrawn_and_left_as_it_was(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    environment = _environment(tmp_path, NO_COLOR="1", COLUMNS="80", LINES="24")
    with subprocess.Popen(
        (*_COMMAND, "--nodes", "2"), env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # EIO: the other side is closed
            while part := os.read(ours, 65_536):
                shown += part
        assert process.wait() == 0
    os.close(ours)
    text = shown.decode()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 4  # the cursor comes back after each act
    assert not re.search(r"\x1b\[3[0-7]m", text)  # NO_COLOR
    assert "waits for a leader" in text
    assert max(len(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)) for line in re.split(r"[\r\n]+", text)) <= 80
    _assert_nothing_left(tmp_path)


@pytest.mark.parametrize("nodes", ["1", "51", "-3"])
def test_a_size_that_makes_no_sense_is_refused(tmp_path: Path, nodes: str) -> None:
    done = _run((*_COMMAND, "--nodes", nodes), _environment(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "expected 2 to 50 nodes" in done.stderr
    _assert_nothing_left(tmp_path)
