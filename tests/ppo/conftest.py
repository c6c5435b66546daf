import pytest


@pytest.fixture
def prompts():
    from alignbench.records import Prompt

    texts = ["the dog runs", "a cat", "one red bird sings now", "the old man", "two dogs", "a bird sings"]
    return [Prompt(f"p{i}", text) for i, text in enumerate(texts)]


@pytest.fixture
def reward():
    """A reward that anybody can compute: the share of words that are `good`."""

    def share_of_good(prompts, completions):
        return [sum(word == "good" for word in text.split()) / 4 for text in completions]

    return share_of_good
