"""The word filter: which words count, what is left of the distribution, what it costs, and how far it goes."""

import math

import numpy as np
import pytest
from fixtures.lottery import WORDS, Lottery

from alignbench.evaluation.evaluator import evaluate
from alignbench.evaluation.probes.divergence import measure_divergence
from alignbench.methods.base import TrainData
from alignbench.methods.word_filter import BannedWords, Filtered, WordFilter
from alignbench.models.loading import weights_fingerprint
from alignbench.records import Decoding, Prompt

PROMPTS = [Prompt(f"p{i}", "x: ") for i in range(1000)]
KEY = (0, "filter")


@pytest.mark.parametrize(
    ("before", "text", "is_banned"),
    [
        ("", "you fool", True),
        ("", "foolish, foolproof, tomfool", False),
        ("", "FOOL!", True),
        ("", "a_fool_", True),  # an underscore is no letter
        ("", "fool2", False),
        ("", "fool's gold", True),
        ("", "\uff46\uff4f\uff4f\uff4c", True),  # full width
        ("", "fo\u00adol", True),  # with an invisible hyphen
        ("", "\U0001d58b\U0001d594\U0001d594\U0001d591", True),
        ("", "shut\n  UP now", True),
        ("", "shutup", False),
        ("", "STRASSE", True),  # listed as straße
        ("you fo", "ol. No", True),
        ("you fo", "olish", False),
        ("you fool", "", False),
        ("you fool", " and so on", False),  # the prompt's own
        ("you fool", "ish person", False),
        ("fool me once, ", "fool", True),
        ("oh shut", " up", True),
        ("cafe", "\u0301 now", True),  # the accent makes another word of the prompt's last
        ("", "", False),
    ],
)
def test_words_by_hand(before, text, is_banned):
    assert BannedWords(["fool", "Shut up", "straße", "café"]).are_in(before, text) is is_banned


def test_of_two_words_at_one_place_the_one_that_reaches_the_answer_counts():
    assert BannedWords(["big", "big fool"]).are_in("a big", " fool")
    assert not BannedWords(["big", "big fool"]).are_in("a big", " dog")


class Texts:
    """A tokenizer of characters."""

    def encode(self, text):
        return list(map(ord, text))

    def decode(self, ids):
        return "".join(map(chr, ids))


class PlainLottery(Lottery):
    """What a filter asks of a language model besides."""

    chat = None
    is_encoder_decoder = False
    text_tokenizer = Texts()


def accepted():
    """The answers that hold no `fool`, which are those where no letter touches it, with their probabilities."""
    texts = {ids: "".join(WORDS[i] for i in ids) for ids in Lottery().answers()}
    kept = {ids: p for ids, p in Lottery().answers().items() if texts[ids] not in ("fool ", " fool")}
    assert len(kept) == 14
    return kept


def test_what_is_left_is_the_policy_given_that_it_passes():
    kept = accepted()
    share = sum(kept.values())
    base = PlainLottery()
    policy = Filtered(base, ["fool"], 50, base)
    drawn = policy.generate(PROMPTS, Decoding(2), 3, KEY)
    for ids in Lottery().answers():
        found = np.mean([one.token_ids == ids for one in drawn])
        assert found == pytest.approx(kept.get(ids, 0.0) / share, abs=4 * math.sqrt(0.25 / len(drawn)))
    # Every answer takes 1 / P(accepted) draws, and all of them are paid for.
    assert policy.spent.generated_tokens / len(drawn) == pytest.approx(2 / share, rel=0.03)
    first = {(one.prompt_id, one.sample): one for one in Lottery().generate(PROMPTS, Decoding(2), 3, KEY)}
    assert all(one == first[one.prompt_id, one.sample] for one in drawn if first[one.prompt_id, one.sample] in drawn)


def test_its_divergence_is_minus_the_logarithm_of_the_share_that_passes():
    """A policy that says `fool` more often, so that there is something to measure."""
    base = PlainLottery((0.05, 0.6, 0.05, 0.3))
    share = 1 - 2 * 0.6 * 0.3
    measured = measure_divergence(Filtered(base, ["fool"], 1000, base), base, PROMPTS, 0, 0)
    error = measured.k1.std() / math.sqrt(len(PROMPTS))
    assert measured.k1.mean() == pytest.approx(-math.log(share), abs=4 * error)
    assert error < 0.1 * -math.log(share)
    assert measured.bound is None
    # From another reference the log-ratio of the answers comes to it.
    other = Lottery((0.25, 0.25, 0.25, 0.25))
    kept = {ids: p / share for ids, p in base.answers().items() if ids not in ((1, 3), (3, 1))}
    expected = sum(p * math.log(p * 16) for p in kept.values())
    away = measure_divergence(Filtered(base, ["fool"], 1000, base), other, PROMPTS, 0, 0)
    assert away.k1.mean() == pytest.approx(expected, abs=4 * away.k1.std() / math.sqrt(len(PROMPTS)))


def test_no_banned_word_is_left_when_a_real_tokenizer_has_read_the_answers_again(tiny_policy, run_context):
    run, _ = run_context(tiny_policy())
    words = ("dog", "the", "rude red")
    policy = WordFilter(words=words, max_draws=6).train(TrainData([], []), run)
    prompts = [Prompt(f"p{i}", text) for i, text in enumerate(("one rude", "a cat", "the dog", "two"))]
    drawn = policy.generate(prompts, Decoding(8), 5, KEY)
    owners = {prompt.id: prompt.text for prompt in prompts}
    for one in drawn:
        tokenizer = policy.base.text_tokenizer
        again = tokenizer.decode(tokenizer.encode(owners[one.prompt_id] + one.text))
        for text in (owners[one.prompt_id] + one.text, again):
            assert not {"dog", "the"} & set(text.removeprefix(owners[one.prompt_id]).split())
            assert "rude red" not in " ".join(text.split())
    plain = tiny_policy().generate(prompts, Decoding(8), 5, KEY)
    assert any(one != other for one, other in zip(drawn, plain, strict=True))
    assert weights_fingerprint(policy.base.model) == weights_fingerprint(tiny_policy().model)
    # A word that is never said takes nothing away, bit for bit.
    run, _ = run_context(tiny_policy())
    assert WordFilter(words=("zebra",)).train(TrainData([], []), run).generate(prompts, Decoding(8), 5, KEY) == plain


@pytest.mark.parametrize(("top_k", "n_draws"), [(0, 3), (1, 1)], ids=["sampled", "greedy"])
def test_where_nothing_passes_the_answer_ends_before_the_word(tiny_policy, top_k, n_draws, caplog):
    """All words but one are banned; greedy draws would only repeat themselves."""
    base = tiny_policy()
    words = [word for word in base.tokenizer.get_vocab() if not word.startswith("<")]
    policy = Filtered(base, words, 3)
    drawn, nats = policy.generate_with_choice([Prompt("p", "the dog")], Decoding(8, top_k=top_k), 4, KEY)
    cut = [one for one, number in zip(drawn, nats, strict=True) if math.isnan(number)]
    assert cut
    for one in cut:
        assert (one.text.strip(), one.finish_reason, one.token_ids[-1]) in [("", "eos", 1), ("<unk>", "eos", 1)]
    assert base.spent.generated_tokens <= 4 * 8 * n_draws
    assert "no draw passes" in caplog.text
    once = Filtered(base, words, 1)
    report = evaluate(once, tiny_policy(), [Prompt("p", "the dog")], "quickstart-v1", {})
    found = {one.metric: one for one in report.metrics}
    assert found["kl"].n_unscored == 1
    assert found["kl"].value is None


@pytest.mark.parametrize("word", ["", "!?", " \u00ad "])
def test_a_word_without_a_letter_is_refused(word):
    from pydantic import TypeAdapter, ValidationError

    with pytest.raises(ValidationError, match="words with a letter or a digit"):
        TypeAdapter(WordFilter).validate_python({"words": ("fool", word)})
