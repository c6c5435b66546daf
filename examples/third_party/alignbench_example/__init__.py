"""One plug-in of every kind for alignbench; pyproject.toml says which file is which."""
