"""The command line's way in: the plain forms of `bootstrap` at once, everything else by the full command line."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run a command and exit with its code."""
    if sys.argv[1:2] == ["bootstrap"]:
        gc.disable()  # a process of a tenth of a second collects nothing but its own start
        from keydist.cli.bootstrap import parse_plain, run  # noqa: PLC0415 - each way in loads only what it needs

        options = parse_plain(sys.argv[2:])
        if options is not None:
            try:
                sys.exit(run(options))
            except KeyboardInterrupt:
                sys.exit(130)
    from keydist.cli.app import run_app  # noqa: PLC0415 - typer costs 50 ms

    sys.exit(run_app())


if __name__ == "__main__":
    main()
