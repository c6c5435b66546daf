"""A run's model taken away: an ordinary checkpoint with a model card, for people and programs without alignbench."""
