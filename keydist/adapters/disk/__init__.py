"""The state directory of a node."""
