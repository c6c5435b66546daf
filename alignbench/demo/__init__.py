"""Runs tried by hand: a prompt in, the answers of several runs side by side."""
