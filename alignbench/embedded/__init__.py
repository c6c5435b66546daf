"""The embedded world: a tiny offline policy, reward classifier and judge for a first run on a laptop."""

from __future__ import annotations


def resolve(name: str) -> str:
    """Turns a name of the embedded world into a path in the package; others stay as they are."""
    if not name.startswith("embedded/"):
        return name
    from alignbench.embedded import world

    return str(world.resolve(name))
