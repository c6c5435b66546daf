"""Run directories: written, read, and given as pandas frames."""
