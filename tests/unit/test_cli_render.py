"""What reaches a terminal: nothing that takes it over, nothing that forges a line; waits told on one line."""

from __future__ import annotations

import fcntl
import gc
import io
import os
import pty
import socket
import struct
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

import pytest

from keydist.adapters.systemd import ServiceManager
from keydist.cli.progress import Progress
from keydist.cli.render import fail, print_json, print_line, printable, tell, tell_alarms
from keydist.cli.times import age, date
from keydist.errors import ConfigError, DiskError, ForkError, UnreachableError

HOSTILE = "a\x1b]0;owned\x07b\r\nkeydist: all is well\u202e\u2028\x9b\udcff\U000e0041"


def test_what_is_not_printable_goes_out_as_its_escape(capsys: pytest.CaptureFixture[str]) -> None:
    escaped = r"a\x1b]0;owned\x07b\r\nkeydist: all is well\u202e\u2028\x9b\udcff\U000e0041"
    assert printable(HOSTILE) == escaped
    assert printable("schlüssel für alle: 鍵") == "schlüssel für alle: 鍵"
    error = UnreachableError(HOSTILE, expected=HOSTILE, found=HOSTILE, fix=HOSTILE)
    print_line(HOSTILE)
    tell(HOSTILE)
    tell_alarms((error,))
    assert fail(error, as_json=True) == 75
    said = capsys.readouterr()
    lines = said.out.splitlines() + said.err.splitlines()
    assert len(lines) == 5
    assert all(line.isprintable() for line in lines)
    assert said.err.splitlines()[0] == escaped
    assert said.out.isascii() is True


def test_json_is_one_line_of_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    value: Mapping[str, object] = {"text": HOSTILE, "number": 1, "nothing": None}
    print_json(value)
    out = capsys.readouterr().out
    assert out.isascii()
    assert out.count("\n") == 1
    assert "\x1b" not in out


class Broken(io.StringIO):
    """A stream that takes nothing."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        raise self._error


@pytest.mark.parametrize(
    ("error", "told"), [(OSError(28, "full"), 1), (BrokenPipeError(32, "gone"), 0), (OSError("odd"), 1)]
)
def test_standard_output_that_takes_nothing_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, told: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Broken(error))
        with pytest.raises(DiskError) as raised:
            print_line("data")
        # Whatever failed is told once, and keeps its exit code.
        assert fail(raised.value, as_json=True) == 73
        assert fail(ConfigError("x"), as_json=True) == 78
    assert capsys.readouterr().err.count("standard output cannot be written") == told


def test_what_cannot_be_told_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (None, Broken(OSError(28, "full"))):
        monkeypatch.setattr(sys, "stderr", stream)
        tell("anything")
        assert fail(ForkError("x"), as_json=False) == 65


# --- waiting ------------------------------------------------------------------------------------


def test_elsewhere_a_wait_is_told_once_for_each_reason() -> None:
    stream = io.StringIO()
    progress = Progress(ServiceManager({}), stream=stream)
    for what, left in (("NATS is down", 3.0), ("NATS is down", 2.0), (HOSTILE, 1.4), ("NATS is down", 1.0)):
        progress.waiting(what, seconds_left=left)
    progress.done()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "keydist: NATS is down (3 s left)"
    assert lines[1] == f"keydist: {printable(HOSTILE)} (1 s left)"
    assert lines[2:] == ["keydist: NATS is down (1 s left)"]


def test_the_service_manager_hears_of_every_wait(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        progress = Progress(ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")}), stream=io.StringIO())
        gc.disable()
        progress.waiting("NATS is down", seconds_left=3)
        assert listening.recv(4096).startswith(b"STATUS=waiting: NATS is down\n")
    assert gc.isenabled()  # who waits may collect


class Screen(io.StringIO):
    """A terminal that does not know its width."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_one_line_is_rewritten() -> None:
    stream = Screen()
    progress = Progress(ServiceManager({}), stream=stream)
    progress.waiting("a long reason " * 20, seconds_left=10)
    progress.waiting("short\n", seconds_left=9)
    progress.done()
    progress.done()
    first, second, blank, rest = stream.getvalue().split("\r")[1:]
    assert len(first) == 79
    assert first.endswith("(10 s left)")
    assert second == "keydist: short\\n (9 s left)".ljust(79)
    assert blank == " " * len("keydist: short\\n (9 s left)")
    assert rest == ""


def test_a_terminal_knows_its_width() -> None:
    parent, child = pty.openpty()
    os.set_blocking(parent, False)
    stream = io.TextIOWrapper(os.fdopen(child, "wb", buffering=0), write_through=True)
    progress = Progress(ServiceManager({}), stream=stream)
    progress.waiting("a long reason " * 20, seconds_left=10)
    assert len(os.read(parent, 4096)) == 1 + 79  # a new terminal says 0 columns: 80 are assumed
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    progress.waiting("a long reason " * 20, seconds_left=9)
    assert len(os.read(parent, 4096)) == 1 + 39
    stream.close()
    os.close(parent)


@pytest.mark.parametrize("stream", [None, Broken(OSError(28, "full"))])
def test_a_wait_that_cannot_be_told_goes_on(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress(ServiceManager({}))
    progress.waiting("anything", seconds_left=1)
    progress.done()


# --- times --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "-5 s"),
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172_799, "47 h"),
        (172_800, "2 d"),
        (10**9, "11574 d"),
    ],
)
def test_an_age_is_told_in_its_largest_unit(seconds: int, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_800_000_000, "2027-01-15T08:00:00Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
        (253_402_300_800, "253402300800"),
        (2**53 - 1, "9007199254740991"),
        (10**30, str(10**30)),
    ],
)
def test_a_time_is_told_in_utc(at: int, text: str) -> None:
    assert date(at) == text


def test_no_module_prints_by_another_way() -> None:
    folder = Path(sys.modules[Progress.__module__].__file__ or "").parent
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        captured = text.replace("_console.print(", "")  # rich renders, `write` writes
        assert "print(" not in captured.replace("_print(", ""), path.name
