"""The audit trail on this machine: the journal, what processes mint, who does what."""
