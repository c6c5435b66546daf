"""Drawing pairs: as many completions as promised, all counted, keyed by prompt and sample alone."""

import pytest

from alignbench.errors import DataError
from alignbench.records import Cost, Prompt
from alignbench.training.pairs import draw_pairs
from datasets_prep.settings import PairSettings

PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(["the dog", "a cat sings", "two birds", "the old man runs"])]
SETTINGS = PairSettings(completions_per_prompt=3, completion_tokens=(2, 5))


class Longer:
    """Prefers more words."""

    name = "longer"
    fingerprint = "longer"

    def score(self, prompts, completions):
        return [float(len(text.split())) for text in completions]


def test_best_and_worst_of_what_was_drawn(tiny_policy):
    cost = Cost()
    pairs, statistics = draw_pairs(tiny_policy(), Longer(), PROMPTS, SETTINGS, (0, "pairs"), cost)
    assert statistics["n_completions"] == cost.training_completions == cost.reward_calls == 12
    assert cost.generated_tokens > 12
    assert cost.prompts_seen == 4  # once for the three completions
    assert cost.generation_flops > 0
    assert cost.forward_flops == 0  # counting words takes none
    for pair in pairs:
        assert pair.chosen_reward == len(pair.chosen.text.split()) > pair.rejected_reward
        assert len(pair.chosen.token_ids) <= 5


def test_draws_do_not_depend_on_batches(tiny_policy):
    whole, _ = draw_pairs(tiny_policy(), Longer(), PROMPTS, SETTINGS, (0, "pairs"), Cost())
    parts, _ = draw_pairs(tiny_policy(batch_size=3), Longer(), PROMPTS, SETTINGS, (0, "pairs"), Cost())
    other, _ = draw_pairs(tiny_policy(), Longer(), PROMPTS, SETTINGS, (1, "pairs"), Cost())
    assert whole == parts
    assert whole != other


def test_no_pairs_at_all_is_explained(tiny_policy):
    settings = SETTINGS.model_copy(update={"min_margin": 100.0})
    with pytest.raises(DataError, match="min_margin"):
        draw_pairs(tiny_policy(), Longer(), PROMPTS, settings, (0, "pairs"), Cost())
