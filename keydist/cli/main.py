"""The way in: the plain forms of `bootstrap`, `agent` and `wait` at once, everything else by the full command line."""

from __future__ import annotations

import gc
import sys

INTERRUPTED = 130


def main() -> None:
    """Run a command and exit with its code."""
    try:
        sys.exit(_run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["bootstrap"]:
        gc.disable()  # a process of a tenth of a second collects nothing but its own start
        from keydist.cli.bootstrap import parse_plain, run  # noqa: PLC0415 - each way in loads only what it needs

        options = parse_plain(arguments[1:])
        if options is not None:
            return run(options)
    if arguments[:1] == ["agent"]:
        from keydist.cli import agent  # noqa: PLC0415 - a long life without a command-line library

        plain = agent.parse_plain(arguments[1:])
        if plain is not None:
            return agent.run(plain)
    if arguments[:1] == ["wait"]:
        from keydist.cli import wait  # noqa: PLC0415 - it comes before everything that needs the key

        waiting = wait.parse_plain(arguments[1:])
        if waiting is not None:
            return wait.run(waiting)
    from keydist.cli.app import run_app  # noqa: PLC0415 - typer costs 50 ms

    return run_app()


if __name__ == "__main__":
    main()
