"""Durations: one grammar, read back as written, and the same as its pattern."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keydist.adapters import duration
from keydist.errors import ConfigError


@given(st.integers(min_value=0, max_value=10**10 - 1))
def test_a_duration_is_read_back(seconds: int) -> None:
    text = duration.format_duration(seconds)
    assert duration.parse_duration(text) == duration.parse_duration(str(seconds)) == seconds
    assert re.fullmatch(duration.PATTERN, text)


@pytest.mark.parametrize(
    "text", ["", "s", "1", "1s", "1x", "1s1m", "1m1m", "1h30m", "\u0663s", "1.5h", " 1s", "1" * 11, "-1s"]
)
def test_the_pattern_of_a_duration_is_its_parser(text: str) -> None:
    try:
        accepted = duration.parse_duration(text) > 0
    except ConfigError:
        accepted = False
    assert bool(re.fullmatch(duration.PATTERN, text)) is accepted is (text in {"1", "1s", "1h30m"})
