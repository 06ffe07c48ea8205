"""keydist: every node of a cluster gets the same JWT-signing key, and keeps it."""

__version__ = "0.1.0"
