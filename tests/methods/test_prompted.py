"""An instruction: the model reads it, and nobody else."""

import pytest

from alignbench.evaluation.evaluator import evaluate
from alignbench.methods.base import TrainData
from alignbench.methods.prompted import INSTRUCTIONS, Instructed, Prompted
from alignbench.models.chat import Chat
from alignbench.models.loading import load_policy, weights_fingerprint
from alignbench.records import Decoding, Prompt

PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(("the dog", "a cat runs", "two"))]
TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + TEMPLATE
TOLD = "good red"


class Reader:
    """A judge that keeps what it reads."""

    name = fingerprint = "reader"

    def __init__(self):
        self.texts = []

    def score(self, prompts, completions):
        self.texts += [*prompts, *completions]
        return [0.5] * len(completions)


def test_a_plain_model_reads_it_before_the_prompt(tiny_policy, run_context):
    run, _ = run_context(tiny_policy())
    policy = Prompted(instruction=TOLD).train(TrainData([], []), run)
    asked = [Prompt(one.id, f"{TOLD}\n{one.text}") for one in PROMPTS]
    drawn = policy.generate(PROMPTS, Decoding(5), 2, (0,))
    assert drawn == tiny_policy().generate(asked, Decoding(5), 2, (0,))
    owners = [prompt for prompt in PROMPTS for _ in range(2)]
    expected = tiny_policy().token_logprobs([one for one in asked for _ in range(2)], drawn)
    for mine, other in zip(policy.token_logprobs(owners, drawn), expected, strict=True):
        assert mine.tolist() == other.tolist()


def test_the_evaluated_text_never_holds_it(tiny_policy):
    judge = Reader()
    policy = Instructed(tiny_policy(), "stupid stupid")
    report = evaluate(policy, tiny_policy(), PROMPTS, "quickstart-v1", {"reader": judge})
    assert {one.text for one in PROMPTS} <= set(judge.texts)
    assert not [text for text in judge.texts if "stupid stupid\n" in text]
    assert set(report.completions["prompt"]) == {one.text for one in PROMPTS}


def test_its_weights_are_those_of_the_policy(tiny_policy, run_context, tmp_path):
    run, _ = run_context(tiny_policy())
    policy = Prompted().train(TrainData([], []), run)
    assert policy.instruction == INSTRUCTIONS["polite"]
    policy.save(tmp_path / "saved")
    again = load_policy(tmp_path / "saved")
    assert (type(again), again.instruction) == (Instructed, policy.instruction)
    assert weights_fingerprint(again.base.model) == weights_fingerprint(tiny_policy().model)


CONVERSATION = (("user", "one"), ("assistant", "two"), ("user", "three"))


@pytest.mark.parametrize(
    ("chat", "messages", "expected"),
    [
        (Chat(None, TEMPLATE), None, [("system", TOLD), ("user", "hi")]),
        (Chat("be brief", TEMPLATE), None, [("system", f"{TOLD}\n\nbe brief"), ("user", "hi")]),
        (Chat(None, TEMPLATE), CONVERSATION, [("system", TOLD), *CONVERSATION]),
        (
            Chat("unused", TEMPLATE),
            (("system", "own"), *CONVERSATION),
            [("system", f"{TOLD}\n\nown"), *CONVERSATION],
        ),
        (Chat(None, NO_SYSTEM), None, [("user", f"{TOLD}\n\nhi")]),
        (Chat(None, NO_SYSTEM), CONVERSATION, [("user", f"{TOLD}\n\none"), *CONVERSATION[1:]]),
    ],
)
def test_a_chat_model_is_told_as_system_or_where_it_knows_none_by_the_user(tiny_policy, chat, messages, expected):
    policy = Instructed(tiny_policy(chat=chat), TOLD)
    asked = policy.asked(Prompt("p", "hi", messages=messages))
    assert list(asked.messages) == expected
    assert asked.text == "hi"
    policy.base.encode_prompt(asked)


def test_the_room_that_it_takes(tiny_policy):
    method = Prompted(instruction=TOLD)
    assert method.facts.tokens_before_a_prompt(method, tiny_policy()) == 2
    chat = tiny_policy(chat=Chat(None, TEMPLATE))
    assert method.facts.tokens_before_a_prompt(method, chat) == 3  # and the word `system`
