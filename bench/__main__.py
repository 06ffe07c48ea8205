"""Run every benchmark: `python -m bench`, or some: `python -m bench cold_start`."""

from __future__ import annotations

import importlib
import sys

NAMES = ("cold_start", "followers")

for name in sys.argv[1:] or NAMES:
    importlib.import_module(f"bench.{name}").main()
