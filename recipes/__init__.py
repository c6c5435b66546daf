"""The shipped recipes, installed as the package `alignbench_recipes` so that they are found by name."""
