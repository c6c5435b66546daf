"""Runs compared: estimates, verdicts and flags, and the tables that show them."""
