"""One file, one alignment method. `base.py` holds the interface, `registry.py` finds methods by name."""
