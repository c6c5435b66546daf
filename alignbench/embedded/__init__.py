"""The embedded world: a tiny offline policy, reward classifier and judge for a first run on a laptop."""
