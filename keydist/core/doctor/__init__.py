"""How a doctor judges what was seen of a node: pure, from values."""
