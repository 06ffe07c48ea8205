"""The runbooks of docs/operations.md as a test reads them: who types what where, and what then stands on the screen.

A runbook is a section of the page (`##`) that holds blocks of `console`. In such a block

    eu-a$ COMMAND        is typed by the user of that host, with `#` by root;
    > MORE               goes on with the command before it;
    any other line       is output: `…` in it is any text, and alone on a line any lines.

A command that is to fail ends in `# exits with 75`. Output that is shown is all that may come; none shown, any.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

_FENCE: Final = re.compile(r"```(.*)")
_PROMPT: Final = re.compile(r"([a-z][a-z0-9-]*)([$#]) (.+)")
_MORE: Final = re.compile(r"> ?(.*)")
_FAILS: Final = re.compile(r"# exits with (\d+)$")
_ANY: Final = "…"


class Step(NamedTuple):
    """A command as it stands on the page, at this line, with the lines of its output that are shown."""

    line: int
    host: str
    is_root: bool
    command: str
    code: int
    shown: tuple[str, ...]


class Runbook(NamedTuple):
    """A section: its title, its text without the blocks, its commands, and the blocks that are no commands to read."""

    title: str
    text: str
    steps: tuple[Step, ...]
    unmarked: tuple[tuple[int, str], ...]


def read(page: str) -> list[Runbook]:
    """Return the sections of a page in their order."""
    found: list[Runbook] = []
    title, text, steps, unmarked = "", list[str](), list[Step](), list[tuple[int, str]]()
    lines = iter(enumerate([*page.splitlines(), "## "], 1))
    for number, line in lines:
        if line.startswith("## "):
            found.append(Runbook(title, "\n".join(text).strip(), tuple(steps), tuple(unmarked)))
            title, text, steps, unmarked = line[3:], [], [], []
        elif fence := _FENCE.fullmatch(line):
            block = _block(number, lines)
            if fence[1] == "console":
                steps += _steps(block)
            else:
                unmarked.append((number, fence[1]))
        else:
            text.append(line)
    return found[1:]


def _block(start: int, lines: Iterator[tuple[int, str]]) -> list[tuple[int, str]]:
    block: list[tuple[int, str]] = []
    for number, line in lines:
        if line == "```":
            return block
        block.append((number, line))
    raise ValueError(f"line {start}: a block that does not end")


def _steps(block: list[tuple[int, str]]) -> list[Step]:
    found: list[Step] = []
    for number, line in block:
        last = found[-1] if found else None
        if prompt := _PROMPT.fullmatch(line):
            found.append(Step(number, prompt[1], prompt[2] == "#", prompt[3], 0, ()))
        elif last is None:
            raise ValueError(f"line {number}: a block begins with a prompt, such as: eu-a$ keydist status")
        elif (more := _MORE.fullmatch(line)) and not last.shown:
            found[-1] = last._replace(command=f"{last.command}\n{more[1]}")
        else:
            found[-1] = last._replace(shown=(*last.shown, line))
    return [step._replace(code=int(fails[1])) if (fails := _FAILS.search(step.command)) else step for step in found]


def fits(shown: tuple[str, ...], output: str) -> bool:
    """Tell whether output is what the page shows."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == _ANY else ".*".join(map(re.escape, line.rstrip().split(_ANY))) + r" *\n"
        for line in shown
    )
    text = output if output.endswith("\n") else f"{output}\n"
    return re.fullmatch(pattern, text) is not None
