"""What a keyset is and which one is accepted: pure functions and values, no I/O."""
