"""Run every benchmark: `python -m bench`, or some: `python -m bench cold_start`."""

from __future__ import annotations

import importlib
import sys

NAMES = ("cold_start", "followers", "propagation", "serving", "tokens")

codes = []
for name in sys.argv[1:] or NAMES:
    try:
        importlib.import_module(f"bench.{name}").main()
    except SystemExit as leaving:
        codes.append(leaving.code)
sys.exit(next((code for code in codes if code), 0))
