"""Writes what is made from the commands themselves: the manual page and the completions for bash, zsh and fish.

python package/pages.py DIRECTORY      DIRECTORY as /usr/share: man/man1/keydist.1 and so on
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer.main
from typer._completion_shared import get_completion_script

from keydist import __version__
from keydist.cli.app import app

_NAME: Final = "keydist"
_COMPLETIONS: Final = {
    "bash": "bash-completion/completions/keydist",
    "zsh": "zsh/vendor-completions/_keydist",
    "fish": "fish/vendor_completions.d/keydist.fish",
}
_EXAMPLE: Final = "Example: "
_CODES: Final = (
    ("0", "done; alarms may be listed"),
    ("1", "you said no"),
    ("2", "the command line is wrong"),
    ("65", "something must not be used, or no key may be generated: a person decides"),
    ("70", "a defect in keydist"),
    ("73", "the state directory cannot be written"),
    ("75", "unreachable, timed out, lost a race, not yet: again later"),
    ("77", "wrong token, owner or mode of a file, wrong user, NATS authorization"),
    ("78", "the configuration, the token's shape, or a file it names"),
)
_FILES: Final = (
    ("/etc/keydist/keydist.yaml", "the configuration; keydist config schema describes it"),
    ("/etc/keydist/token", "the bootstrap token, as the systemd units take it"),
    ("/var/lib/keydist", "the state directory: live/signing-key.pem, live/jwks.json"),
    ("/run/keydist", "sockets; with at_rest: sealed the rendered key"),
)
_ENVIRONMENT: Final = (
    ("KEYDIST_CONFIG", "the configuration's path"),
    ("KEYDIST_TOKEN_FILE", "the path of the bootstrap token's file"),
    ("KEYDIST_...", "a setting, as keydist config show names it: KEYDIST_NATS_SERVERS"),
)


def manual(command: Any) -> str:  # noqa: ANN401 - typer exports no type for what it builds
    """Return the manual page, in roff, of a command with all that are below it."""
    lines = [f'.TH KEYDIST 1 "" "keydist {__version__}" "User Commands"', ".SH NAME"]
    lines.append(f"keydist \\- {_text(_lowered(command.help))}")
    lines += [".SH SYNOPSIS", ".B keydist", ".I COMMAND", "[\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]"]
    lines += [".SH DESCRIPTION", *_prose(command.help), ".SH OPTIONS", *_parameters(command)]
    lines.append(".SH COMMANDS")
    for path, found in _commands(command, _NAME):
        lines += [f'.SS "{_text(_synopsis(path, found))}"', *_prose(found.help), *_parameters(found)]
    for title, rows in (("EXIT STATUS", _CODES), ("FILES", _FILES), ("ENVIRONMENT", _ENVIRONMENT)):
        lines.append(f".SH {title}")
        for name, what in rows:
            lines += [".TP", f".B {_text(name)}", _text(what)]
    lines += [".SH SEE ALSO", ".BR systemd.exec (5),", ".BR systemd\\-creds (1)"]
    return "\n".join(lines) + "\n"


def completion(shell: str) -> str:
    """Return the script that lets a shell complete keydist's commands."""
    return get_completion_script(prog_name=_NAME, complete_var="_KEYDIST_COMPLETE", shell=shell) + "\n"


def write(share: Path) -> None:
    """Write all of it below a directory like /usr/share."""
    pages = {"man/man1/keydist.1": manual(typer.main.get_command(app))}
    pages |= {place: completion(shell) for shell, place in _COMPLETIONS.items()}
    for place, text in pages.items():
        (share / place).parent.mkdir(parents=True, exist_ok=True)
        (share / place).write_text(text, encoding="utf-8")


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - as above
    """Return every command that does something, with its whole name."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _synopsis(path: str, command: Any) -> str:  # noqa: ANN401 - as above
    arguments = [one.metavar or one.name.upper() for one in command.params if one.param_type_name == "argument"]
    return " ".join([path, *arguments])


def _parameters(command: Any) -> list[str]:  # noqa: ANN401 - as above
    lines: list[str] = []
    for one in command.params:
        if one.param_type_name == "argument":
            names = f"\\fI{_text(one.metavar or one.name.upper())}\\fR"
        elif one.hidden:
            continue
        else:
            value = "" if one.is_flag or one.count else f" \\fI{_text(one.metavar or one.type.name.upper())}\\fR"
            names = ", ".join(f"\\fB{_text(name)}\\fR" for name in (*one.opts, *one.secondary_opts)) + value
        lines += [".TP", names, _text(one.help or "")]
    return lines


def _prose(help_text: str) -> list[str]:
    """Return paragraphs; an example as it is typed."""
    lines: list[str] = []
    for paragraph in help_text.strip().split("\n\n"):
        text = " ".join(paragraph.split())
        if text.startswith(_EXAMPLE):
            lines += [".PP", "Example:", ".RS", ".EX", _text(text.removeprefix(_EXAMPLE)), ".EE", ".RE"]
        else:
            lines += [".PP", _text(text)]
    return lines


def _text(text: str) -> str:
    """Return text that roff shows as it is: a line that begins like a request is none, a hyphen can be copied."""
    shown = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return f"\\&{shown}" if shown[:1] in (".", "'") else shown


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
