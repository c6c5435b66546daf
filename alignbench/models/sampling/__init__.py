"""Drawing completions from a language model."""
