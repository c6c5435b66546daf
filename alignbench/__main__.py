"""`python -m alignbench`, for launchers that start modules."""

from alignbench.cli import main

main()
