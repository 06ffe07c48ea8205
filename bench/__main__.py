"""Run every benchmark: `python -m bench`, or some: `python -m bench cold_start`."""

from __future__ import annotations

import importlib
import sys

NAMES = ("cold_start", "followers", "herd", "propagation", "serving", "tokens")


def main() -> None:
    """Run them one after another; exit as the first that failed."""
    codes = []
    for name in sys.argv[1:] or NAMES:
        try:
            importlib.import_module(f"bench.{name}").main()
        except SystemExit as leaving:
            codes.append(leaving.code)
    sys.exit(next((code for code in codes if code), 0))


if __name__ == "__main__":  # a process that a benchmark spawns reads this file too
    main()
