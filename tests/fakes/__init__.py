"""Stand-ins with real behaviour and faults to inject; each passes the contract suite of its port."""
