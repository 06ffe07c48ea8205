"""Where keydist meets the world: vendor types and errors stop in here."""
