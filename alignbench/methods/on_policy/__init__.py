"""Proximal policy optimisation with a KL penalty to a frozen reference."""
