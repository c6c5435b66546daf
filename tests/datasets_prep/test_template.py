"""A template goes around every prompt, wherever it comes from, after it was cut and split as without it."""

import pytest
from pydantic import ValidationError

from alignbench.records import Prompt
from datasets_prep.demonstrations import read_demonstrations
from datasets_prep.prepare import prepare_prompts
from datasets_prep.prompt_lengths import PromptCutter
from datasets_prep.settings import DemonstrationSettings, PairSettings, PromptSettings
from datasets_prep.splits import whole_text_hash

TEMPLATE = "Summarize.\n\n{prompt}\n\nSummary:"


class Words:
    """A token for each word; a conversation has one more for each message."""

    def encode(self, text):
        self.known = getattr(self, "known", {})
        return [self.known.setdefault(word, len(self.known)) for word in text.split()]

    def decode(self, ids):
        words = {number: word for word, number in self.known.items()}
        return " ".join(words[i] for i in ids)

    def conversation_length(self, messages):
        return sum(len(self.encode(content)) + 1 for _, content in messages)


@pytest.fixture
def source(write_jsonl):
    rows = [{"id": f"p{i}", "prompt": f"number {i} of many old dogs", "completion": "dogs."} for i in range(60)]
    return write_jsonl("rows.jsonl", rows)


def prepared(source, context_tokens=100, **settings):
    return prepare_prompts(
        PromptSettings(prompts=source, **settings), Words(), context_tokens=context_tokens, cache_directory=None
    )


def test_prompts_are_split_cut_and_counted_as_without_it(source):
    plain, put = (prepared(source, prompt_tokens=(3, 4), template=template) for template in (None, TEMPLATE))
    for split in ("train", "validation", "heldout"):
        ours, theirs = getattr(put, split), getattr(plain, split)
        assert [one.text for one in ours] == [f"Summarize.\n\n{one.text}\n\nSummary:" for one in theirs]
        assert [(one.id, whole_text_hash(one)) for one in ours] == [(one.id, whole_text_hash(one)) for one in theirs]
    assert put.statistics == plain.statistics
    assert put.fingerprint != plain.fingerprint


def test_what_fits_the_context_fits_it_with_the_template(source):
    assert len(prepared(source, context_tokens=8, template=TEMPLATE).train) > 0  # six words, and two around them
    with pytest.raises(Exception, match="60 longer than the policy's context allows"):
        prepared(source, context_tokens=7, template=TEMPLATE)


def test_braces_of_a_prompt_and_of_a_template_are_only_text():
    cutter = PromptCutter(Words(), 99, None, 0, 'json {"a": {prompt}}')
    ((_, prompt),) = cutter.cut([Prompt("a", "say {prompt} or {x}")], None, {})
    assert prompt.text == 'json {"a": say {prompt} or {x}}'


def test_the_last_message_of_a_conversation_stands_in_it():
    told = (("user", "Hello"), ("assistant", "Hi"), ("user", "Bye"))
    cutter = PromptCutter(Words(), 99, None, 0, TEMPLATE)
    ((_, prompt),) = cutter.cut([Prompt("a", "Hello\nHi\nBye", messages=told)], None, {})
    assert prompt.messages == (*told[:2], ("user", "Summarize.\n\nBye\n\nSummary:"))
    assert prompt.text == "Hello\nHi\nSummarize.\n\nBye\n\nSummary:"


@pytest.mark.parametrize(("in_chat", "completion"), [(False, " dogs."), (True, "dogs.")])
def test_a_completion_follows_the_template_alone(source, in_chat, completion):
    """What was cut off a prompt does not go on with its template."""
    settings = PromptSettings(prompts=source, prompt_tokens=(3, 4), template=TEMPLATE)
    prompts = prepare_prompts(settings, Words(), context_tokens=100, cache_directory=None).train
    found, _ = read_demonstrations(
        settings, DemonstrationSettings(), prompts, key="data.prompts", conversations=in_chat
    )
    assert {text for _, text in found} == {completion}
    assert [prompt for prompt, _ in found] == list(prompts)


def test_prompts_of_few_characters_are_left_out(source):
    put = prepared(source, min_prompt_chars=len("number 10 of many old dogs"))
    assert put.statistics["n_under_min_chars"] == 10
    assert put.statistics["n_train"] + put.statistics["n_validation"] + put.statistics["n_heldout"] == 50


@pytest.mark.parametrize("template", ["Summarize.", "{prompt} and {prompt}", ""])
def test_a_template_has_a_place_for_the_prompt(template):
    with pytest.raises(ValidationError, match=r"a text with \{prompt\} in it once"):
        PromptSettings(prompts="x", template=template)


@pytest.mark.parametrize("settings", [DemonstrationSettings, PairSettings])
def test_other_sources_have_no_template_of_their_own(settings):
    with pytest.raises(ValidationError, match=r"template: left out here; data.template is for all prompts"):
        settings(source=PromptSettings(prompts="x", template=TEMPLATE))
