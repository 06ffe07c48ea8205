"""`keydist doctor`: what is wrong with this node, its store, its clock, its permissions, and what to do about it."""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import Annotated, Final, NamedTuple

import typer

from keydist.adapters.token_file import STDIN
from keydist.cli.command import ConfigOption, JsonOption, TokenOption, finish, named
from keydist.cli.render import print_json, print_line, print_styled
from keydist.core.doctor.verdict import Finding, Level
from keydist.errors import UsageError
from keydist.services.status import worst

_LABELS: Final = {Level.OK: "ok", Level.WARN: "warn", Level.FAIL: "FAIL", Level.UNSEEN: "-"}
_COLOURS: Final = {Level.OK: "32", Level.WARN: "33", Level.FAIL: "1;31", Level.UNSEEN: "2"}
_LABEL: Final = 4
_WIDTH: Final = 13
"""Of the longest name."""


def doctor(
    names: Annotated[list[str] | None, typer.Argument(metavar="[CHECK]...", help="Only these checks.")] = None,
    *,
    list_: Annotated[bool, typer.Option("--list", help="List the checks, and run none.")] = False,
    monitor: Annotated[
        list[str] | None,
        typer.Option(
            "--monitor", metavar="URL", help="A NATS server's monitoring endpoint, for sync; may be repeated."
        ),
    ] = None,
    config: ConfigOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Examine this node, its store, clock and permissions: what is wrong, and what to do. Changes nothing.

    Exit 0 where nothing failed, else as the worst failure says. As root it sees more.

    Example: keydist doctor tls permissions excess
    """
    asked = Asked(tuple(names or ()), tuple(monitor or ()), config, token_file, as_json)
    finish(lambda: _list(asked) if list_ else _examine(asked), as_json=as_json)


class Asked(NamedTuple):
    """What the command line asks for."""

    names: tuple[str, ...]
    monitors: tuple[str, ...]
    config: str | None
    token_file: str | None
    as_json: bool


def _examine(asked: Asked) -> int:
    from keydist.doctor import run  # noqa: PLC0415 - 200 ms, and no other command looks at so much

    if asked.token_file == STDIN:
        raise UsageError("doctor looks at files, and standard input is none", fix="name the token's file")
    if asked.token_file is not None:
        named(asked.token_file, "--token-file")
    found: list[Finding] = []

    def told(finding: Finding) -> None:
        found.append(finding)
        if not asked.as_json:
            _show(finding)

    run.run(
        run.chosen(asked.names),
        config_path=asked.config,
        token_file=asked.token_file,
        environ=os.environ,
        monitors=asked.monitors,
        told=told,
    )
    code = worst(finding.verdict.exit_code for finding in found)
    if asked.as_json:
        print_json({"checks": [finding.as_json() for finding in found], "healthy": not code})
    else:
        print_line(_closing(found))
    return code


def _list(asked: Asked) -> int:
    from keydist.doctor import run  # noqa: PLC0415 - as above

    checks = run.chosen(asked.names)
    if asked.as_json:
        print_json({"checks": [{"name": check.name, "about": check.about} for check in checks]})
    else:
        for check in checks:
            print_line(f"{check.name:<{_WIDTH}}  {check.about}")
    return 0


def _show(finding: Finding) -> None:
    level, detail, fix, _ = finding.verdict
    print_styled(f"{_LABELS[level]:<{_LABEL}}", _COLOURS[level] if _is_coloured() else "")
    aside = f"; {fix}" if fix and level is Level.UNSEEN else ""
    print_line(f"  {finding.name:<{_WIDTH}}  {detail}{aside}")
    if fix and level in (Level.WARN, Level.FAIL):
        print_line(f"{'':<{_LABEL}}  {'':<{_WIDTH}}  fix: {fix}")


def _is_coloured() -> bool:
    stream = sys.stdout
    is_plain = os.environ.get("TERM", "") in ("", "dumb", "unknown") or "NO_COLOR" in os.environ
    return stream is not None and stream.isatty() and not is_plain


def _closing(found: list[Finding]) -> str:
    counts = Counter(finding.verdict.level for finding in found)
    words = (
        (Level.FAIL, "failed"),
        (Level.WARN, "to be improved"),
        (Level.OK, "ok"),
        (Level.UNSEEN, "not visible here"),
    )
    told = ", ".join(f"{counts[level]} {word}" for level, word in words if counts[level])
    return f"{len(found)} check{'' if len(found) == 1 else 's'}: {told}"
