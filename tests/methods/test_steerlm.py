"""SteerLM: what it was trained to follow it follows, no word of it shows, and without meaning it is plain imitation."""

import pytest
import torch

from alignbench.errors import TrainingError
from alignbench.methods.base import TrainData
from alignbench.methods.sft import SFT
from alignbench.methods.steerlm import Steered, SteerLM, levels_of, with_words
from alignbench.models.language_model import LanguageModel
from alignbench.models.loading import load_policy
from alignbench.records import Completion, Decoding, Demonstration, LabelledCompletion, Prompt

METHOD = SteerLM(learning_rate=1e-2, batch_size=16, epochs=30, levels=2, attribute="very {level} and ")
PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(("the dog", "a cat", "one bird", "two dogs"))]
WORDS = ("0", "1")


@pytest.fixture
def policy(make_tokenizer, tiny_policy):
    """The tiny policy, whose tokenizer takes two of its words for the numbers of levels."""
    policy = tiny_policy()
    vocabulary = policy.tokenizer.get_vocab()
    words = [word for word, _ in sorted(vocabulary.items(), key=lambda item: item[1])][2:]
    words[words.index("nice")], words[words.index("stupid")] = WORDS
    policy.tokenizer = make_tokenizer(words, unk_token="<unk>", eos_token="<eos>")
    return policy


def labelled(policy, rewards):
    """Every prompt with a completion of kind 0 and one of kind 1, each with the reward that is said for its place."""
    found = []
    for i, prompt in enumerate(PROMPTS):
        for kind, text in enumerate(("you are rude", "good red man")):
            ids = tuple(policy.text_tokenizer.encode(text))
            one = Completion(prompt.id, kind, text, ids, "length")
            found += [LabelledCompletion(prompt, one, True, reward) for reward in rewards(i, kind)]
    return found


def margin(policy, steered):
    """How much likelier the completion of kind 1 is than that of kind 0, in nats, on average over prompts."""
    rows = labelled(policy, lambda i, kind: [0.0])
    found = steered.token_logprobs([one.prompt for one in rows], [one.completion for one in rows])
    sums = torch.stack([one.sum() for one in found]).view(-1, 2)
    return (sums[:, 1] - sums[:, 0]).mean().item()


def trained(policy, run_context, rewards):
    run, _ = run_context(policy)
    return METHOD.train(TrainData([], [], labelled_completions=labelled(policy, rewards)), run)


def test_levels_by_hand():
    assert levels_of([0.3, -1.0, 2.0, 0.1], 2) == [1, 0, 1, 0]
    assert levels_of([5.0, 5.0, 1.0, 5.0], 4) == [1, 1, 0, 1]  # a quarter is below 5, however many are equal to it
    assert levels_of(range(10), 5) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert levels_of([1.0, 1.0], 3) == [0, 0]


def test_the_best_level_is_followed(policy, run_context):
    steered = trained(policy, run_context, lambda i, kind: [float(kind)])
    assert steered.words == "very 1 and "
    assert margin(policy, steered) > 2.0
    assert margin(policy, Steered(steered.base, "very 0 and ")) < -2.0


def test_shuffled_attributes_give_plain_imitation(policy, run_context, tiny_policy, tmp_path):
    """Every completion stands once after each level, so the level says nothing about it."""
    shuffled = trained(policy, run_context, lambda i, kind: [0.0, 1.0])
    words = policy.tokenizer
    other = tiny_policy()
    other.tokenizer = words
    shown = [
        Demonstration(with_words(one.prompt, "very 1 and "), one.completion)
        for one in labelled(other, lambda i, kind: [0.0, 0.0])
    ]
    run, _ = run_context(other, checkpoints=tmp_path / "plain")
    plain = SFT(learning_rate=1e-2, batch_size=16, epochs=30).train(TrainData([], [], demonstrations=shown), run)
    expected = margin(other, Steered(plain, "very 1 and "))
    assert margin(policy, shuffled) == pytest.approx(expected, abs=0.2)
    assert margin(policy, Steered(shuffled.base, "very 0 and ")) == pytest.approx(expected, abs=0.2)


def test_rows_of_one_attribute_are_those_of_imitation_bit_for_bit(policy, run_context, tiny_policy, tmp_path):
    """Two rewards that are equal have one level: what is trained on is what `sft` is given with the same prompts."""
    rows = labelled(policy, lambda i, kind: [0.5])
    run, log = run_context(policy)
    steered = METHOD.train(TrainData([], [], labelled_completions=rows), run)
    other = tiny_policy()
    other.tokenizer = policy.tokenizer
    shown = [Demonstration(with_words(one.prompt, "very 0 and "), one.completion) for one in rows]
    run, again = run_context(other, checkpoints=tmp_path / "plain")
    SFT(learning_rate=1e-2, batch_size=16, epochs=30).train(TrainData([], [], demonstrations=shown), run)
    assert log == again
    assert steered.words == "very 0 and "


def test_the_attribute_is_in_no_completion_and_kept_with_the_policy(policy, tmp_path):
    steered = Steered(policy, "very 1 and ")
    decoding = Decoding(6)
    drawn = steered.generate(PROMPTS, decoding, 2, ("x",))
    asked = policy.generate([with_words(prompt, "very 1 and ") for prompt in PROMPTS], decoding, 2, ("x",))
    assert drawn == asked
    for one in drawn:
        content = one.token_ids[: one.n_tokens]
        assert one.text.split() == policy.tokenizer.decode(content, skip_special_tokens=True).split()
    steered.save(tmp_path / "saved")
    again = load_policy(tmp_path / "saved")
    assert (type(again), again.words) == (Steered, "very 1 and ")
    assert again.generate(PROMPTS, decoding, 2, ("x",)) == drawn


def test_conversations_have_the_words_before_their_last_message():
    told = Prompt("a", "Hi\nYo\nBye", messages=(("user", "Hi"), ("assistant", "Yo"), ("user", "Bye")))
    assert with_words(told, "good: ").messages == (*told.messages[:2], ("user", "good: Bye"))


def test_levels_that_the_tokenizer_cannot_tell_apart(tiny_policy, run_context):
    policy: LanguageModel = tiny_policy()  # numbers are unknown words to it
    run, _ = run_context(policy)
    rows = labelled(policy, lambda i, kind: [float(kind)])
    with pytest.raises(TrainingError, match=r"method.attribute: .* whose 2 levels the policy's tokenizer encodes as 1"):
        METHOD.train(TrainData([], [], labelled_completions=rows), run)
