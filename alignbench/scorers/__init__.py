"""Text to number: classifiers and trained reward models."""
