"""The log: one event a line whatever its values are, never an error, and no value that forges a line."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from keydist.adapters.log import MAX_LINE, MAX_VALUE, LibraryLog, Log, open_log, take_library_log
from keydist.errors import ForkError
from keydist.ports import Journal
from tests.fakes.journal import RecordingJournal

NOW = 1_800_000_000.1234
STAMP = "2027-01-15T08:00:00.123Z"
HEAD = {"ts": STAMP, "level": "info", "event": "took"}


class Color(Enum):
    RED = "red"


class Awkward:
    def __str__(self) -> str:
        raise RuntimeError("no text of mine")


def line(*, as_text: bool = False, level: str = "info", name: str = "took", **fields: object) -> str:
    stream = io.StringIO()
    Log(stream, as_text=as_text, now=lambda: NOW).event(name, level=level, **fields)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    return text[:-1]


VALUES: list[tuple[str, object, object, str]] = [
    ("text", "plain", "plain", "plain"),
    ("words", 'two "words"', 'two "words"', r'"two \"words\""'),
    ("nothing", "", "", '""'),
    ("a letter", "é", "é", "é"),
    ("controls", "a\nb\x1b[1m\x7f\x9b", r"a\nb\x1b[1m\x7f\x9b", r'"a\\nb\\x1b[1m\\x7f\\x9b"'),
    ("marks of direction", "a\u202eb\u2028", r"a\u202eb\u2028", r'"a\\u202eb\\u2028"'),
    ("half a pair", "a\udcff", r"a\udcff", r'"a\\udcff"'),
    ("none", None, None, "null"),
    ("a boolean", True, True, "true"),
    ("an integer", 42, 42, "42"),
    ("a float", 1.25, 1.25, "1.25"),
    ("no number", float("nan"), "nan", "nan"),
    ("no end", float("inf"), "inf", "inf"),
    ("an enum", Color.RED, "red", "red"),
    ("bytes", b"secret", "6 bytes", '"6 bytes"'),
    ("bytes inside", {b"secret": {b"secret"}}, {"6 bytes": ["6 bytes"]}, '{"6 bytes": ["6 bytes"]}'),
    ("a path", Path("/a"), "/a", "/a"),
    ("an exception", OSError("gone"), "OSError: gone", '"OSError: gone"'),
    ("a list", [1, "a"], [1, "a"], '[1, "a"]'),
    ("a set", {"b", "a"}, ["a", "b"], '["a", "b"]'),
    ("a mapping", {"a": {"b\n": (1,)}}, {"a": {r"b\n": [1]}}, r'{"a": {"b\\n": [1]}}'),
    ("long text", "x" * 5000, "x" * MAX_VALUE + "…", "x" * MAX_VALUE + "…"),
]


@pytest.mark.parametrize(("value", "parsed", "text"), [case[1:] for case in VALUES], ids=[case[0] for case in VALUES])
def test_a_value_in_json_and_in_text(value: object, parsed: object, text: str) -> None:
    assert json.loads(line(field=value)) == {**HEAD, "field": parsed}
    assert line(as_text=True, field=value) == f"{STAMP} info    took field={text}"


def test_the_name_of_an_event_forges_no_line() -> None:
    assert line(as_text=True, name="a\nb") == rf"{STAMP} info    a\nb"
    assert json.loads(line(name="a\nb"))["event"] == r"a\nb"


def test_fields_never_stand_for_the_head_of_the_line() -> None:
    named: dict[str, Any] = {"na\nme": 2}
    assert json.loads(line(ts=1, event="x", **named)) == {**HEAD, "ts_": 1, "event_": "x", r"na\nme": 2}


def test_an_error_is_told_by_its_members() -> None:
    error = ForkError("another history", expected="mine", found="theirs\n")
    told = {"code": "fork", "message": "another history", "expected": "mine", "found": r"theirs\n"}
    assert json.loads(line(error=error, epoch=3)) == {**HEAD, **told, "epoch": 3}
    assert json.loads(line(error=error, code="mine")) == {**HEAD, **told, "code": "mine"}
    assert json.loads(line(code="mine", error=error)) == {**HEAD, **told, "code": "mine"}


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    ("value", "said"),
    [(Awkward(), "unprintable"), ({"a": [Awkward()]}, "unprintable"), (["x" * MAX_VALUE] * 20, "cut")],
    ids=["no text", "no text inside", "too long"],
)
@pytest.mark.parametrize("as_text", [True, False])
def test_an_event_is_told_whatever_its_values_do(value: object, said: str, *, as_text: bool) -> None:
    written = line(as_text=as_text, field=value)
    assert said in written
    assert "took" in written
    assert len(written) <= MAX_LINE


def test_deep_values_are_cut() -> None:
    assert json.loads(line(field=nested(500)))["field"] == [[[[[["…"]]]]]]


def test_each_level_has_its_method_and_its_priority() -> None:
    stream = io.StringIO()
    log = Log(stream, as_text=False, now=lambda: NOW, priorities=True)
    log.info("a")
    log.warning("b")
    log.error("c", x=1)
    log.event("d", level="shout")
    lines = stream.getvalue().splitlines()
    assert [(text[:3], json.loads(text[3:])["level"]) for text in lines] == [
        ("<6>", "info"),
        ("<4>", "warning"),
        ("<3>", "error"),
        ("<3>", "error"),
    ]


def test_a_terminal_gets_text() -> None:
    main, side = pty.openpty()
    with os.fdopen(side, "w", encoding="utf-8") as terminal, os.fdopen(main, "rb", buffering=0) as screen:
        open_log(terminal, {}, now=lambda: NOW).info("took", epoch=2)
        assert screen.read(100) == f"{STAMP} info    took epoch=2\r\n".encode()


@pytest.mark.parametrize(("named", "prefix"), [("this", "<6>"), ("another", ""), (None, "")])
def test_the_journal_gets_json_with_priorities(tmp_path: Path, named: str | None, prefix: str) -> None:
    with (tmp_path / "out").open("w", encoding="utf-8") as stream:
        found = os.fstat(stream.fileno())
        inode = found.st_ino + (named != "this")
        environ = {} if named is None else {"JOURNAL_STREAM": f"{found.st_dev}:{inode}"}
        open_log(stream, environ, now=lambda: NOW).info("took")
    text = (tmp_path / "out").read_text(encoding="utf-8")
    assert text.startswith(f'{prefix}{{"ts":')
    assert json.loads(text.removeprefix(prefix)) == HEAD


def test_a_stream_that_takes_nothing_stops_nobody(tmp_path: Path) -> None:
    closed = (tmp_path / "closed").open("w", encoding="utf-8")
    closed.close()
    open_log(closed, {"JOURNAL_STREAM": "1:2"}, now=lambda: NOW).info("took")
    with Path("/dev/full").open("w", encoding="utf-8", buffering=1) as full:
        open_log(full, {}, now=lambda: NOW).info("took")
        os.dup2(os.open("/dev/null", os.O_WRONLY), full.fileno())  # so that closing it loses nothing


def test_a_stream_of_ascii_gets_escapes(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as stream:
        Log(stream, as_text=True, now=lambda: NOW).info("took", city="Köln")
    assert (tmp_path / "out").read_text(encoding="ascii").endswith("city=K\\xf6ln\n")


@pytest.fixture
def libraries() -> Iterator[io.StringIO]:
    """Where the log of libraries goes."""
    stream = io.StringIO()
    handler = take_library_log(Log(stream, as_text=False, now=lambda: NOW))
    yield stream
    logging.getLogger().removeHandler(handler)


def test_what_libraries_warn_of_is_an_event(libraries: io.StringIO) -> None:
    logger = logging.getLogger("some.library")
    logger.info("nothing")
    logger.warning("slow: %s\n", 3)
    logger.error("failed", exc_info=OSError("gone"))
    record = logging.LogRecord("some.library", logging.WARNING, "", 0, "wrong: %s %s", (3,), None)
    next(handler for handler in logging.getLogger().handlers if isinstance(handler, LibraryLog)).handle(record)
    head = {**HEAD, "level": "warning", "event": "library", "logger": "some.library"}
    assert [json.loads(text) for text in libraries.getvalue().splitlines()] == [
        {**head, "text": r"slow: 3\n"},
        {**head, "text": "failed", "exception": "OSError: gone"},
        {**head, "text": "wrong: %s %s"},
    ]


@pytest.mark.parametrize("journal", [Log(io.StringIO(), as_text=True, now=lambda: NOW), RecordingJournal()])
def test_a_journal_takes_everything(journal: Journal) -> None:
    journal.event("took")
    journal.event("took", level="error", name="a field", error=ForkError("another history"), awkward=Awkward())
