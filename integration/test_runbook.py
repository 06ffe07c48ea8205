"""How a page of runbooks is read: who types what, what is shown, and what cannot be read is told with its line."""

from __future__ import annotations

from typing import Final

import pytest

from integration.runbook import Runbook, Step, fits, read

_PAGE: Final = """\
# A page

Before the first section nothing is read.

## A runbook

**When**: always.

```console
eu-a$ keydist status
epoch 1 of …
eu-a# systemctl restart keydist
desk$ cat >file <<'END'
> a line
>
>   an indented one
> END
eu-a$ keydist bootstrap # exits with 75
```

## No runbook

```yaml
role: leader
```
"""


def test_a_section_has_its_text_its_commands_and_what_is_no_command() -> None:
    steps = (
        Step(10, "eu-a", False, "keydist status", 0, ("epoch 1 of …",)),
        Step(12, "eu-a", True, "systemctl restart keydist", 0, ()),
        Step(13, "desk", False, "cat >file <<'END'\na line\n\n  an indented one\nEND", 0, ()),
        Step(18, "eu-a", False, "keydist bootstrap # exits with 75", 75, ()),
    )
    assert read(_PAGE) == [
        Runbook("A runbook", "**When**: always.", steps, ()),
        Runbook("No runbook", "", (), ((23, "yaml"),)),
    ]


def test_a_block_that_begins_without_a_prompt_is_told_by_its_line() -> None:
    with pytest.raises(ValueError, match="line 4: a block begins with a prompt"):
        read("## A\n\n```console\nkeydist status\n```\n")


def test_a_block_that_does_not_end_is_told_by_its_line() -> None:
    with pytest.raises(ValueError, match="line 3: a block that does not end"):
        read("## A\n\n```console\neu-a$ true\n")


@pytest.mark.parametrize(
    ("shown", "output", "is_it"),
    [
        pytest.param(["a"], "a\n", True, id="the same"),
        pytest.param(["a"], "a", True, id="without an end of line"),
        pytest.param(["a"], "a\nb\n", False, id="more than is shown"),
        pytest.param(["a", "b"], "a\n", False, id="less than is shown"),
        pytest.param(["epoch … of …, key"], "epoch 1 of abc, key\n", True, id="any text in a line"),
        pytest.param(["epoch … of …"], "epoch 1\nof abc\n", False, id="any text ends with its line"),
        pytest.param(["…", "c"], "a\nb\nc\n", True, id="any lines before"),
        pytest.param(["…", "c"], "c\n", True, id="no lines before"),
        pytest.param(["a", "…"], "a\nb\nc\n", True, id="any lines after"),
        pytest.param(["a", "…", "c"], "a\nb\n", False, id="any lines, and then another one"),
        pytest.param(["a.c"], "abc\n", False, id="only … is a wildcard"),
    ],
)
def test_output_is_as_shown(shown: list[str], output: str, is_it: bool) -> None:  # noqa: FBT001 - a table
    assert fits(tuple(shown), output) is is_it
