"""The one evaluator: every method is measured by the same code under a named protocol."""
