"""The loop of methods that learn from ranked completions of a prompt: losses, batches, training; no reference."""
