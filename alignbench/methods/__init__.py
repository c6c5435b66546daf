"""One file, one alignment method. `base.py` holds the interface and finds methods by name."""
