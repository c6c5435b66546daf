"""Text to number: one file for each kind of scorer, and what classifiers and trained reward models share."""
