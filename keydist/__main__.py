"""`python -m keydist`: the command line."""

from keydist.cli.main import main

main()
