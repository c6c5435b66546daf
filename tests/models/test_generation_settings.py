"""What a generation config asks for: followed, said to be ignored, and never in the way of saving."""

import json
import logging
import shutil

import pytest
from transformers import GenerationConfig

from alignbench.methods.base import TrainData
from alignbench.methods.dpo import DPO
from alignbench.models.adapters import Lora
from alignbench.models.generation_settings import ignored_settings, saveable
from alignbench.models.loading import load_language_model, load_policy
from alignbench.records import Decoding, Prompt

UNSAVEABLE = {
    "greedy with sampling flags": {"do_sample": False, "temperature": 0.9, "top_p": 0.6},
    "sampling flags alone": {"temperature": 0.7, "top_k": 20, "min_p": 0.1, "typical_p": 0.9},
    "beam flags without beams": {"num_beams": 1, "length_penalty": 2.0, "early_stopping": True},
    "both": {"do_sample": False, "temperature": 0.2, "length_penalty": 0.5, "eos_token_id": [1, 4]},
}
SAVEABLE = {
    "nothing": {},
    "sampling": {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20},
    "beams": {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "no_repeat_ngram_size": 3},
    "forced": {"forced_bos_token_id": 3, "forced_eos_token_id": 1, "suppress_tokens": [5, 6], "bad_words_ids": [[7]]},
}


@pytest.mark.parametrize("case", UNSAVEABLE)
def test_what_cannot_be_saved_goes_and_the_rest_stays(tmp_path, case):
    asked = {"bos_token_id": 0, "eos_token_id": 1, "max_length": 77} | UNSAVEABLE[case]
    config = GenerationConfig(**asked)
    with pytest.raises(ValueError, match="GenerationConfig is invalid"):
        config.save_pretrained(tmp_path)
    kept = saveable(config)
    kept.save_pretrained(tmp_path)
    again = GenerationConfig.from_pretrained(tmp_path)
    for name in ("bos_token_id", "eos_token_id", "max_length", "do_sample", "num_beams"):
        assert getattr(again, name) == asked.get(name)
    # `generate` does the same as before: these flags meant nothing to it.
    assert again.get_generation_mode() == config.get_generation_mode()


@pytest.mark.parametrize("case", SAVEABLE)
def test_what_can_be_saved_stays(case):
    config = GenerationConfig(**SAVEABLE[case])
    assert saveable(config) is config


@pytest.mark.parametrize("case", UNSAVEABLE | SAVEABLE)
def test_what_is_ignored_is_known(case):
    asked = (UNSAVEABLE | SAVEABLE)[case]
    silent = {"do_sample", "length_penalty", "early_stopping", "eos_token_id"}  # no wish of its own, or followed
    expected = {
        name: value for name, value in asked.items() if name not in silent and (name, value) != ("num_beams", 1)
    }
    assert ignored_settings(GenerationConfig(**asked)) == expected
    assert ignored_settings(None) == {}


@pytest.fixture
def asking(checkpoints, tmp_path):
    """Makes a copy of the tiny policy with a generation config of its own."""

    def make(**settings):
        directory = tmp_path / "asking"
        shutil.copytree(checkpoints / "policy", directory)
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 1} | settings))
        return load_language_model(str(directory))

    return make


def test_it_is_said_once_by_name(asking, caplog):
    policy = asking(do_sample=True, temperature=0.6, repetition_penalty=1.3, suppress_tokens=[5])
    with caplog.at_level(logging.WARNING, "alignbench"):
        for _ in range(2):
            policy.generate([Prompt("p", "the dog")], Decoding(3), 1, (0,))
    [said] = [record.message for record in caplog.records]
    assert said == (
        f"{policy.name}: its generation config asks for temperature 0.6, repetition_penalty 1.3, suppress_tokens [5]: "
        "ignored, as the recipe says how completions are sampled"
    )


def test_it_changes_no_draw(asking, tiny_policy):
    prompts = [Prompt(f"p{i}", "the dog") for i in range(20)]
    plain = tiny_policy().generate(prompts, Decoding(6), 1, (0,))
    policy = asking(do_sample=True, temperature=0.01, suppress_tokens=[5, 6, 7], repetition_penalty=5.0, min_length=6)
    assert policy.generate(prompts, Decoding(6), 1, (0,)) == plain


@pytest.mark.parametrize("lora", [None, Lora(r=2)], ids=["full", "lora"])
@pytest.mark.parametrize("case", UNSAVEABLE)
def test_dpo_trains_and_saves(asking, run_of_dpo, tmp_path, case, lora):
    """Its trainer saves checkpoints itself; the artifact ends where the checkpoint did."""
    policy = asking(**UNSAVEABLE[case])
    ends = policy.eos_ids
    trained = run_of_dpo(policy, lora)
    trained.save(tmp_path / "artifact")
    assert load_policy(tmp_path / "artifact").eos_ids == ends == ((1, 4) if case == "both" else (1,))


@pytest.fixture
def run_of_dpo(tmp_path):
    from alignbench.methods.base import RunContext
    from alignbench.records import PreferencePair

    def make(policy, lora):
        prompts = [Prompt(f"p{i}", "the dog") for i in range(4)]
        drawn = policy.generate(prompts, Decoding(4), 2, (0,))
        pairs = [PreferencePair(prompt, *drawn[2 * i : 2 * i + 2], 1.0, 0.0) for i, prompt in enumerate(prompts)]
        context = RunContext(
            seed=0, budget_completions=8, policy=policy, load_reward_model=None, lora=lora, reward=None,
            reward_text="completion", checkpoints=tmp_path / "checkpoints", step_done=lambda *_: None,
        )  # fmt: skip
        return DPO(batch_size=4, epochs=1).train(TrainData(prompts, (), pairs), context)

    return make
