"""The configuration's YAML: plain and small, on both parsers, and nothing but `ConfigError` from any bytes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from keydist.adapters.config import Config
from keydist.errors import ConfigError
from tests.unit.config_cases import FULL, load

SYNTAX = [
    ("cluster: no", "cluster is not text .*boolean.*put it in quotes"),
    ("", "is empty"),
    ("# nothing\n", "is empty"),
    ("- cluster", "is not a mapping"),
    ("cluster: a\n---\ncluster: b", "more than one document"),
    ("cluster: a\ncluster: a", "line 2, column 1: key cluster stands twice in the document"),
    ("cluster: a\nnats: {bucket: a, bucket: b}", "line 2, column 19: key bucket stands twice in nats"),
    ("cluster: &a x", "line 1, column 10: cluster is an anchor or an alias"),
    ("cluster: *a", "cluster is an anchor or an alias"),
    ("cluster: !!str x", "cluster has a tag"),
    ("cluster: !x y", "cluster has a tag"),
    ("<<: {cluster: a}", "a key of the document is a merge key"),
    ("hooks: [{a: [1.5]}]", r"hooks\[0\].a\[0\] is a fraction to YAML; put it in quotes"),
    ("cluster: 2026-01-01", "cluster is a date to YAML"),
    ("heartbeat: 0x1F", "heartbeat is a number in another base to YAML"),
    ("heartbeat: 1:30", "heartbeat is a number in another base"),
    ("heartbeat: 010", "heartbeat is a number in another base"),
    ("heartbeat: " + "9" * 5000, "heartbeat is a number in another base"),
    ("cluster: =", "cluster is a sign to YAML"),
    ("12: x", "a key of the document is not text; put the key in quotes"),
    ("[a]: x", "a key of the document is not text"),
    ("hooks: " + "[" * 30 + "]" * 30, "nested too deeply"),
    ("hooks: " + "[" * 60_000, "nested too deeply"),
    ("cluster: {]", r"is not YAML \(expected a mapping in YAML, found an error at line 1, column 11\)$"),
    ("cluster: \a", "is not YAML .*control character"),
    ('cluster: "\\UFFFFFFFF"', "is not YAML"),
    ("%YAML " + "9" * 5000 + ".1\n--- a", "is not YAML"),
    ("a: &a [x,x]\nb: &b [*a,*a,*a]\nc: &c [*b,*b,*b]", "a is an anchor or an alias"),
    ("node: x", r"cluster is missing .*set KEYDIST_CLUSTER"),
    ("#" * (64 * 1024 + 1), "too large .*at most 65536 bytes"),
    (b"cluster: \xff", "is not text .*expected UTF-8, found byte 9"),
]


@pytest.mark.parametrize("parser", ["libyaml", "python"])
@pytest.mark.parametrize(
    ("text", "words"), SYNTAX, ids=[f"{number} {case[0][:25]!r}" for number, case in enumerate(SYNTAX)]
)
def test_only_plain_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parser: str, text: str | bytes, words: str
) -> None:
    if parser == "python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, text)


WORDS = st.sampled_from(
    ["cluster", "nats", "tls", ":", ": ", "\n", "  ", "- ", "{", "}", "[", "]", "&a ", "*a", "!", "~", "1"]
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.binary(max_size=300) | st.text(max_size=100).map(str.encode) | st.lists(WORDS).map(lambda w: "".join(w).encode())
)
@example(FULL.encode())
def test_any_bytes_are_a_configuration_or_a_configuration_error(tmp_path: Path, raw: bytes) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(load(tmp_path, raw), Config)
