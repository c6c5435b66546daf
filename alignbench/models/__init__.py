"""Language models and classifiers: the only callers of transformers."""
