"""Drawing completions: as many completions as promised, all counted, keyed by prompt and sample alone."""

import pytest

from alignbench.errors import DataError
from alignbench.models.chat import Chat
from alignbench.models.fast.kernel_choice import VARIABLE
from alignbench.models.fast.layers import choice
from alignbench.pipeline.drawing import draw, kept_draws
from alignbench.records import Prompt
from datasets_prep.preference_pairs import build_pairs
from datasets_prep.settings import PairSettings

PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(["the dog", "a cat sings", "two birds", "the old man runs"])]
SETTINGS = PairSettings(completions_per_prompt=3, completion_tokens=(2, 5))


class Longer:
    """Prefers more words."""

    name = "longer"
    fingerprint = "longer"

    def score(self, prompts, completions):
        return [float(len(text.split())) for text in completions]


def draw_pairs(policy, labeller, settings=SETTINGS):
    """Pairs of what is drawn, their statistics, and what was drawn."""
    drawn = draw(policy, labeller, PROMPTS, settings, (0, "pairs"))
    return *build_pairs(PROMPTS, drawn.completions, drawn.rewards, settings), drawn


def test_best_and_worst_of_what_was_drawn(tiny_policy):
    pairs, statistics, drawn = draw_pairs(tiny_policy(), Longer())
    cost = drawn.cost
    assert statistics["n_completions"] == cost.training_completions == cost.reward_calls == 12
    assert cost.generated_tokens > 12
    assert cost.prompts_seen == 4  # once for the three completions
    assert cost.generation_flops > 0
    assert cost.forward_flops == 0  # counting words takes none
    for pair in pairs:
        assert pair.chosen_reward == len(pair.chosen.text.split()) > pair.rejected_reward
        assert len(pair.chosen.token_ids) <= 5


def test_cut_prompts_and_gaps_are_counted(tiny_policy):
    class Reads(Longer):
        """Reads long prompts in part, and gives the first completion of each no score."""

        def score(self, prompts, completions):
            return [None if i % 3 == 0 else value for i, value in enumerate(super().score(prompts, completions))]

        def cut_prompts(self, prompts, completions):
            return [len(prompt.split()) > 2 for prompt in prompts]

    pairs, statistics, drawn = draw_pairs(tiny_policy(), Reads())
    assert (drawn.n_cut, statistics["n_unscored"]) == (6, 4)
    assert all(completion.sample > 0 for pair in pairs for completion in (pair.chosen, pair.rejected))


def test_several_temperatures_share_the_completions_of_a_prompt(tiny_policy):
    """Each draw is the one that its temperature alone has for that prompt and sample."""
    several = PairSettings(completions_per_prompt=4, completion_tokens=(3, 6), temperatures=(0.3, 1.5))
    found = draw(tiny_policy(batch_size=4), Longer(), PROMPTS, several, (0, "pairs")).completions
    assert [(one.prompt_id, one.sample) for one in found] == [(prompt.id, i) for prompt in PROMPTS for i in range(4)]
    for i, temperature in enumerate((0.3, 1.5)):
        alone = several.model_copy(update={"temperatures": None, "temperature": temperature})
        assert found[i::2] == draw(tiny_policy(), Longer(), PROMPTS, alone, (0, "pairs")).completions[i::2]
    assert found != draw(tiny_policy(), Longer(), PROMPTS, alone, (0, "pairs")).completions


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"temperatures": [0.7, 1.0], "completions_per_prompt": 5},
            "a multiple of 2, the number of temperatures, not 5",
        ),
        ({"temperatures": [0.7, 1.0], "temperature": 0.9}, "temperature: left out beside temperatures"),
        ({"temperatures": []}, "at least 1 item"),
        ({"temperatures": [0.7, 0.0]}, "greater than 0"),
        ({"take": "all", "source": "stored.jsonl"}, "take: left out beside source"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        PairSettings(**settings)


def test_draws_do_not_depend_on_batches(tiny_policy):
    whole = draw(tiny_policy(), Longer(), PROMPTS, SETTINGS, (0, "pairs"))
    parts = draw(tiny_policy(batch_size=3), Longer(), PROMPTS, SETTINGS, (0, "pairs"))
    other = draw(tiny_policy(), Longer(), PROMPTS, SETTINGS, (1, "pairs"))
    assert (whole.completions, whole.rewards) == (parts.completions, parts.rewards)
    assert whole.completions != other.completions


def test_draws_are_kept_under_all_that_decides_them(tiny_policy, tmp_path, monkeypatch):
    plain = {"settings": SETTINGS, "draw_key": (0, "pairs"), "chat": None, "directory": tmp_path}

    def is_drawn(policy=None, labeller=None, prompts=PROMPTS, **changes):
        before = len(list(tmp_path.iterdir()))
        kept_draws(policy or tiny_policy(), labeller or Longer(), prompts, **plain | changes)
        return len(list(tmp_path.iterdir())) > before

    other = Longer()
    other.fingerprint = "another"
    # What a tokenizer's own template makes of a prompt is nothing that the recipe says.
    templated = tiny_policy(chat=Chat(None, "{% for m in messages %}you {{ m.content }}{% endfor %}"))
    other_ends = tiny_policy()
    other_ends.model.generation_config.eos_token_id = [1, 4]
    assert is_drawn()
    assert not is_drawn()
    assert is_drawn(other_ends)
    for of_pairs_alone in ({"n_prompts": 4}, {"min_margin": 0.5}, {"max_length_ratio": 2.0}):
        assert not is_drawn(settings=SETTINGS.model_copy(update=of_pairs_alone))
    assert is_drawn(templated)
    assert is_drawn(labeller=other)
    assert is_drawn(prompts=PROMPTS[:3])
    assert is_drawn(settings=SETTINGS.model_copy(update={"temperature": 0.9}))
    assert is_drawn(settings=SETTINGS.model_copy(update={"temperatures": (1.0, 0.9, 0.8)}))
    assert not is_drawn(settings=SETTINGS.model_copy(update={"take": "all"}))
    assert is_drawn(draw_key=(1, "pairs"))
    # What a labeller reads of a text, and what a policy makes of token ids, is up to their tokenizers.
    reading, reading_more, speaking = Longer(), Longer(), tiny_policy()
    reading.tokenizer, reading_more.tokenizer = tiny_policy().tokenizer, tiny_policy().tokenizer
    for tokenizer in (reading_more.tokenizer, speaking.tokenizer):
        tokenizer.add_tokens(["unheard"])
    assert is_drawn(labeller=reading)
    assert not is_drawn(labeller=reading)
    assert is_drawn(labeller=reading_more)
    assert is_drawn(speaking)
    monkeypatch.setenv(VARIABLE, "weight_first")
    choice.begin()
    assert is_drawn()
    monkeypatch.undo()
    choice.begin()
    assert not is_drawn()
    monkeypatch.setattr("alignbench.pipeline.drawing.hardware_class", lambda _: "cuda-other")
    assert is_drawn()


def test_no_pairs_at_all_is_explained(tiny_policy):
    settings = SETTINGS.model_copy(update={"min_margin": 100.0})
    with pytest.raises(DataError, match="min_margin"):
        draw_pairs(tiny_policy(), Longer(), settings)
