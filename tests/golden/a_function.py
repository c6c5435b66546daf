"""A reward function whose fingerprint is recorded."""


def length(prompts, completions):
    return [float(len(completion)) for completion in completions]
