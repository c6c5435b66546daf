"""Pairs that a data set holds, and demonstrations in the forms that people keep them in."""

import json

import pytest

from alignbench.errors import DataError
from alignbench.records import Prompt
from datasets_prep.demonstrations import read_demonstrations
from datasets_prep.prepare import read_pool
from datasets_prep.settings import DemonstrationSettings, PairSettings, PromptSettings
from datasets_prep.stored_pairs import read_stored_pairs


def pairs_of(source, prompts=None, conversations=False, **own):
    settings = PromptSettings(prompts=source)
    prompts = prompts or read_pool(settings, "prompts", conversations=conversations)
    found, counts = read_stored_pairs(
        settings, PairSettings(source=source, **own), prompts, key="pairs.source", conversations=conversations
    )
    rows = {(one.prompt.text, one.chosen, one.rejected, one.chosen_reward, one.rejected_reward) for one in found}
    return rows, counts


def shown_of(source, conversations=False):
    settings = PromptSettings(prompts=source)
    prompts = read_pool(settings, "prompts", conversations=conversations)
    found, _ = read_demonstrations(
        settings, DemonstrationSettings(), prompts, key="data.prompts", conversations=conversations
    )
    return {(prompt.text, text) for prompt, text in found}


def test_pairs_by_column_with_scores_and_what_takes_no_part(write_jsonl):
    rows = [
        {"prompt": "The dog", "chosen": " runs.", "rejected": " bites.", "score_chosen": 4, "score_rejected": 1.5},
        {"prompt": "The dog", "chosen": " runs.", "rejected": " bites.", "score_chosen": 9, "score_rejected": 1.5},
        {"prompt": "A cat", "chosen": " ", "rejected": " bites.", "score_chosen": 1, "score_rejected": 0},
        {"prompt": "A cat", "chosen": " sits.", "rejected": " sits. ", "score_chosen": 1, "score_rejected": 0},
        {"prompt": "A bird", "chosen": " sings.", "rejected": " pecks.", "score_chosen": 1, "score_rejected": 0},
    ]
    source = write_jsonl("pairs.jsonl", rows)
    prompts = [one for one in read_pool(PromptSettings(prompts=source), "prompts") if one.text != "A bird"]
    found, counts = pairs_of(source, prompts)
    assert found == {("The dog", " runs.", " bites.", 4.0, 1.5)}
    assert counts == {"n_rows": 5, "n_empty": 1, "n_equal": 1, "n_of_other_prompts": 1, "n_uncuttable": 0,
                      "n_repeated": 1}  # fmt: skip


def test_pairs_without_scores_by_names_of_ones_own_after_a_cut_prompt(write_jsonl):
    source = write_jsonl("pairs.jsonl", [{"id": "a", "prompt": "The old dog", "good": " runs.", "bad": " bites."}])
    found, _ = pairs_of(source, [Prompt("a", "The old")], chosen_column="good", rejected_column="bad")
    assert found == {("The old", " dog runs.", " dog bites.", 1.0, 0.0)}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "rejected": " x"}, r"has no chosen column .* Name one with pairs.chosen_column"),
        ({"prompt": "a", "chosen": 3, "rejected": " x"}, r"column 'chosen' holds 3, expected text"),
        ({"prompt": "a", "chosen": "y", "rejected": "x", "score_chosen": "?", "score_rejected": 1}, "a number"),
        ({"prompt": "a", "chosen": " x", "rejected": " x"}, r"no pair is left \(n_rows 1, n_equal 1\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(write_jsonl, row, message):
    with pytest.raises(DataError, match=message):
        pairs_of(write_jsonl("pairs.jsonl", [row]))


DIALOGUE = "\n\nHuman: Hi.\n\nAssistant:"


def test_pairs_of_dialogues_that_begin_alike(write_jsonl):
    source = write_jsonl("hh.jsonl", [{"chosen": DIALOGUE + " Hello.", "rejected": DIALOGUE + " Go away."}])
    assert pairs_of(source)[0] == {(DIALOGUE, " Hello.", " Go away.", 1.0, 0.0)}
    assert pairs_of(source, conversations=True)[0] == {("Hi.", "Hello.", "Go away.", 1.0, 0.0)}


def test_pairs_of_messages(write_jsonl):
    asked, nice, rude = (
        {"role": role, "content": text}
        for role, text in (("user", "Hi."), ("assistant", "Hello."), ("assistant", "No."))
    )
    source = write_jsonl("chat.jsonl", [{"chosen": [asked, nice], "rejected": [asked, rude]}])
    assert pairs_of(source, conversations=True)[0] == {("Hi.", "Hello.", "No.", 1.0, 0.0)}


def test_pairs_of_toxic_sentences_and_their_paraphrases(write_jsonl):
    rows = [
        {"en_toxic_comment": "you are a stupid man", "en_neutral_comment": "you are a silly man"},
        {"en_toxic_comment": "shut up", "en_neutral_comment": "please be quiet"},
    ]
    found, counts = pairs_of(write_jsonl("detox.jsonl", rows))
    assert found == {("you are a", " silly man", " stupid man", 1.0, 0.0)}
    assert counts["n_of_other_prompts"] == 1  # it has no prompt


def test_instructions_with_and_without_input_in_a_json_list(tmp_path):
    rows = [
        {"instruction": "Name a colour.", "input": "", "output": "Red."},
        {"instruction": "Add.", "input": "1 and 1", "output": "2"},
    ]
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))
    found = shown_of(str(tmp_path / "alpaca.json"))
    alone, paired = sorted(found, key=lambda one: one[1], reverse=True)
    assert alone[1] == "Red."
    assert alone[0].endswith("\n\n### Instruction:\nName a colour.\n\n### Response:\n")
    assert "paired with an input" not in alone[0]
    assert paired[1] == "2"
    assert paired[0].endswith("\n\n### Instruction:\nAdd.\n\n### Input:\n1 and 1\n\n### Response:\n")
    assert shown_of(str(tmp_path / "alpaca.json"), conversations=True) == {
        ("Name a colour.", "Red."),
        ("Add.\n\n1 and 1", "2"),
    }


def test_one_column_of_text_with_role_markers(write_jsonl):
    marked = [
        {"text": "### Human: Hi### Assistant: Yes."},
        {"text": "### Human: A### Assistant: B### Human: C### Assistant: D"},
    ]
    source = write_jsonl("marked.jsonl", marked)
    assert shown_of(source) == {
        ("### Human: Hi### Assistant:", " Yes."),
        ("### Human: A### Assistant: B### Human: C### Assistant:", " D"),
    }
    assert shown_of(source, conversations=True) == {("Hi", "Yes."), ("A\nB\nC", "D")}
    # A text among them that has no markers leaves all of them what they are: texts.
    mixed = read_pool(PromptSettings(prompts=write_jsonl("mixed.jsonl", [*marked, {"text": "Plain."}])), "prompts")
    assert {one.text for one in mixed} == {"Plain.", *(row["text"] for row in marked)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ('{"a": 1}', "holds a dict, expected a list"),
        ("[1]", "row 1: holds a int"),
        ("[]", "no rows"),
    ],
)
def test_json_that_is_no_list_of_rows(tmp_path, content, message):
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_pool(PromptSettings(prompts=str(tmp_path / "rows.json")), "prompts")


def test_rows_of_one_prompt_have_it_whatever_their_ids(write_jsonl):
    """Most data sets of pairs give every row an id of its own; preparation keeps one of them for each prompt."""
    rows = [{"id": i, "prompt": "The dog", "chosen": f" runs {i}.", "rejected": " bites."} for i in range(3)]
    found, counts = pairs_of(write_jsonl("ids.jsonl", rows))
    assert {one[1] for one in found} == {" runs 0.", " runs 1.", " runs 2."}
    assert counts["n_of_other_prompts"] == 0
    rows = [{"id": i, "prompt": "The dog", "completion": f" runs {i}."} for i in range(3)]
    assert {text for _, text in shown_of(write_jsonl("shown.jsonl", rows))} == {" runs 0.", " runs 1.", " runs 2."}


def test_what_one_text_is_told_under_two_system_messages_stays_apart(write_jsonl):
    rows = [
        {"messages": [{"role": role, "content": text} for role, text in turns]}
        for turns in (
            (("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello.")),
            (("system", "Be rude."), ("user", "Hi"), ("assistant", "Go.")),
        )
    ]
    assert len(shown_of(write_jsonl("systems.jsonl", rows), conversations=True)) == 1


def turns(*said):
    """Messages in turn, the user's first."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]


def test_an_answer_in_messages_is_one_to_the_prompt_of_its_row(write_jsonl):
    row = {"prompt": "Hi", "chosen": turns("Hi", "Hello."), "rejected": turns("Hi", "Go.")}
    for conversations in (False, True):
        found, _ = pairs_of(write_jsonl("one.jsonl", [row]), conversations=conversations)
        assert found == {("Hi", "Hello.", "Go.", 1.0, 0.0)}
    # The first question beside a conversation of two: the last answer is not one to it.
    several = write_jsonl("two.jsonl", [{"prompt": "Hi", "messages": turns("Hi", "Hello.", "And you?", "Well.")}])
    with pytest.raises(DataError, match=r"row 1: column 'messages' .* expected an answer to the row's prompt"):
        shown_of(several, conversations=True)
    settings = PromptSettings(prompts=several, columns={"prompt": "messages"})
    (prompt,) = read_pool(settings, "prompts", conversations=True)
    found, _ = read_demonstrations(settings, DemonstrationSettings(), [prompt], key="data.prompts", conversations=True)
    assert [(prompt.text, text) for prompt, text in found] == [("Hi\nHello.\nAnd you?", "Well.")]


def test_answers_in_parts_are_read_as_prompts_in_parts_are(write_jsonl):
    asked, nice, rude = (
        [{"role": role, "content": [{"type": "text", "text": text}]}]
        for role, text in (("user", "Hi"), ("assistant", "Hello."), ("assistant", "Go."))
    )
    source = write_jsonl("parts.jsonl", [{"prompt": asked, "chosen": nice, "rejected": rude}])
    assert pairs_of(source, conversations=True)[0] == {("Hi", "Hello.", "Go.", 1.0, 0.0)}


def test_several_turns_need_a_chat_and_say_so(write_jsonl):
    one, two = turns("Hi", "Hello.", "And you?", "Well."), turns("Hi", "Hello.", "And you?", "Go.")
    source = write_jsonl("turns.jsonl", [{"chosen": one, "rejected": two}])
    with pytest.raises(DataError, match="a conversation needs a `chat:` block"):
        pairs_of(source)
    assert pairs_of(source, conversations=True)[0] == {("Hi\nHello.\nAnd you?", "Well.", "Go.", 1.0, 0.0)}


def test_a_person_may_have_the_last_word_in_one_column_of_text(write_jsonl):
    source = write_jsonl("last.jsonl", [{"text": "### Human: A### Assistant: B### Human: C"}])
    assert shown_of(source, conversations=True) == {("A", "B")}
    assert shown_of(source) == {("### Human: A### Assistant:", " B")}


def test_an_answer_that_is_no_text_is_said_to_chat_models_too(write_jsonl):
    rows = [{"instruction": "Add 1 and 1.", "input": "", "output": 2}]
    for conversations in (False, True):
        with pytest.raises(DataError, match="expected"):
            shown_of(write_jsonl("number.jsonl", rows), conversations=conversations)


def test_completions_that_all_repeat_their_prompts_are_refused(write_jsonl):
    """As data sets have them that keep whole texts: the policy would learn to say every prompt again."""
    rows = [{"prompt": said, "chosen": f"{said} runs.", "rejected": " bites."} for said in ("A dog", "A cat")]
    with pytest.raises(DataError, match="every text in column 'chosen' begins with its prompt"):
        pairs_of(write_jsonl("whole.jsonl", rows))
    rows.append({"prompt": "A bird", "chosen": " sings.", "rejected": " pecks."})
    assert len(pairs_of(write_jsonl("mixed.jsonl", rows))[0]) == 3
