"""The command line: parse, wire, await, render."""
