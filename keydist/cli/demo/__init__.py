"""`keydist demo`: a whole cluster on this machine, taken through the failures that keydist is made for."""

from keydist.cli.demo.run import run_demo

__all__ = ["run_demo"]
