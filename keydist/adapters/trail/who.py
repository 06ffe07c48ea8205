"""Who does something on this machine, as far as the machine tells: told for what it is worth, trusted for nothing.

The user id is the kernel's word. `sudo` is an environment value and `login` the id that a session began with; whoever
runs keydist can set the first, and root the second.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from keydist.core.audit import Fact, Facts

_LOGIN: Final = "/proc/self/loginuid"
_NO_LOGIN: Final = "4294967295"
_WORD: Final = re.compile(r"[a-z]{1,16}", re.ASCII)
_USER: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}", re.ASCII)
_WORDS: Final = 2


def who_runs(environ: Mapping[str, str], *, nats_user: Callable[[], str | None]) -> Facts:
    """Return who runs this process, and as whom it speaks to NATS."""
    found: dict[str, Fact] = {"uid": os.getuid(), "program": program(sys.argv)}
    names = {
        "user": _user_name(),
        "sudo": environ.get("SUDO_USER", ""),
        "login": _login(),
        "nats": nats_user() or "",
    }
    return found | {name: text for name, text in names.items() if _USER.fullmatch(text)}


def program(argv: Sequence[str]) -> str:
    """Return which command this is: its noun and verb, nothing else of what was typed."""
    words = []
    for word in argv[1 : 1 + _WORDS]:
        if not _WORD.fullmatch(word):
            break
        words.append(word)
    return " ".join(words) or "python"


def _user_name() -> str:
    import pwd  # noqa: PLC0415 - only where something is written down

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def _login() -> str:
    with suppress(OSError):
        with open(_LOGIN, encoding="ascii") as file:  # noqa: PTH123 - as elsewhere
            text = file.read(16).strip()
        if text != _NO_LOGIN:
            return text
    return ""
