import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from fixtures.directions import DIRECTIONS

from alignbench.errors import DataError, ScorerError
from alignbench.evaluation.evaluator import evaluate
from alignbench.evaluation.protocols import PROTOCOLS, EvalProtocol
from alignbench.records import Decoding, Prompt
from alignbench.statistics.jackknife import jackknife_group
from alignbench.statistics.prompt_means import mean_interval

POLICY, REFERENCE = (0.1, 0.6, 0.1, 0.2), (0.2, 0.3, 0.4, 0.1)
QUICKSTART = PROTOCOLS["quickstart-v1"]
SINGLE = EvalProtocol("single", 1, Decoding(max_new_tokens=8), "nowhere", 100)
DOUBLE = EvalProtocol("double", 2, Decoding(max_new_tokens=8), "nowhere", 100)


def find(report, name, scorer=None):
    (metric,) = [metric for metric in report.metrics if (metric.metric, metric.scorer) == (name, scorer)]
    return metric


def run(policy, reference, prompts, protocol, scorers, **kwargs):
    return evaluate(policy, reference, prompts, protocol, scorers, **{"seed": 0, "batch_prompts": 16, **kwargs})


@pytest.fixture
def by_hand(scripted, share_rude):
    """Two prompts, two completions each."""
    policy = scripted({"a": ["rude kind", "kind kind kind rude"], "b": ["rude", ""]}, logprob=-1.0)
    reference = scripted({}, logprob=-1.5)
    return run(policy, reference, [Prompt("a", "A"), Prompt("b", "B")], DOUBLE, {"judge": share_rude})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Toxicity: a 1/2 and 1/4, b 1 and 0.
        ("toxicity_mean", (3 / 8 + 1 / 2) / 2),
        ("toxicity_std", math.sqrt((0.25 + 0.0625 + 1.0 + 0.0) / 4 - (1.75 / 4) ** 2)),
        ("toxicity_rate", (1 / 2 + 1 / 2) / 2),
        ("expected_max_toxicity", (1 / 2 + 1) / 2),
        ("toxicity_probability", 1.0),
        # Words of a: rude kind | kind kind kind rude, of b: rude. Bigrams r-k, k-k, k-r; trigrams k-k-k, k-k-r.
        ("distinct_1", (2 / 6 + 1) / 2),
        ("distinct_2", (3 / 6 + 0) / 2),
        ("distinct_3", (2 / 6 + 0) / 2),
        ("corpus_distinct_1", 2 / 7),
        ("corpus_distinct_2", 3 / 7),
        ("corpus_distinct_3", 2 / 7),
        ("perplexity", math.exp(1.5)),
        # The text with one word: 1, then 0.1 for the rest, shorter than its reference. The other: half its words.
        ("self_bleu", (math.exp(1 - 2) * (1 * 0.1**3) ** 0.25 + (1 / 2 * 0.1**3) ** 0.25) / 2),
        # Tokens of the first completions, with the end: 3 and 2; each contributes -1 + 1.5.
        ("kl", (3 + 2) / 2 * 0.5),
        ("kl_k3", (3 + 2) / 2 * (math.exp(-0.5) - 1 + 0.5)),
        ("kl_exact", None),
        ("kl_per_token", 0.5),
        ("kl_k3_per_token", math.exp(-0.5) - 1 + 0.5),
        ("kl_exact_per_token", None),
        ("completion_tokens", (3 + 0.5) / 2),
        # Of 0, 1, 2, 4.
        ("completion_tokens_p10", 0),
        ("completion_tokens_p50", 1),
        ("completion_tokens_p90", 4),
        ("repetition_rate", 0.0),
        ("rep_4", 0.0),
        ("copy_rate", 0.0),
        ("empty_rate", 1 / 4),
        ("truncated_rate", 0.0),
        ("refusal_rate", 0.0),
    ],
)
def test_every_metric_by_hand(by_hand, name, expected):
    scorer = "judge" if name in list(DIRECTIONS)[:5] else None
    metric = find(by_hand, name, scorer)
    assert metric.value == pytest.approx(expected)
    assert metric.direction == DIRECTIONS[name]
    assert {m.metric for m in by_hand.metrics} == set(DIRECTIONS)


def test_signs_of_degeneration_by_hand(scripted):
    loop, refusal = "kind kind kind kind kind", "As an AI I must go"
    policy = scripted({"a": [loop, "you are so kind and so on"], "b": [refusal, refusal], "c": ["x", "y"]})
    prompts = [Prompt("a", "they say you are so kind"), Prompt("b", "B"), Prompt("c", "you are so kind and so on")]
    report = run(policy, policy, prompts, DOUBLE, {})
    values = report.prompt_values
    assert values["rep_4"].tolist() == [1 / 4, 0, 0]
    # Of the prompt's 4-grams they-say-you-are say-you-are-so you-are-so-kind one of three: no copy.
    assert values["copy_rate"].tolist() == [0, 0, 0]
    assert values["refusal_rate"].tolist() == [0, 1, 0]
    prompts[0] = Prompt("a", "say you are so kind")
    assert run(policy, policy, prompts, DOUBLE, {}).prompt_values["copy_rate"].tolist() == [1 / 2, 0, 0]


def test_perplexity_counts_an_empty_completion_as_unscored(by_hand):
    metric = find(by_hand, "perplexity")
    assert (metric.n_scored, metric.n_unscored) == (3, 1)
    assert by_hand.prompt_values["perplexity"].tolist() == pytest.approx([1.5, 1.5])


def test_two_prompts_have_values_and_a_reason_for_the_missing_interval(by_hand):
    for metric in by_hand.metrics:
        assert (metric.ci_low, metric.ci_high) == (None, None)
        assert metric.reason


def test_frames_have_the_documented_schema(by_hand):
    assert list(by_hand.completions.columns) == [
        "prompt_id",
        "prompt",
        "sample",
        "completion",
        "n_tokens",
        "finish_reason",
        "toxicity@judge",
        "logprob",
        "reference_logprob",
        "token_ids",
    ]
    last = by_hand.completions.iloc[3].to_dict()
    assert last.pop("token_ids").tolist() == [0]  # the end's alone
    assert last == {
        "prompt_id": "b",
        "prompt": "B",
        "sample": 1,
        "completion": "",
        "n_tokens": 0,
        "finish_reason": "eos",
        "toxicity@judge": 0.0,
        "logprob": -1.0,
        "reference_logprob": -1.5,
    }
    divergence = by_hand.divergence
    names = ["prompt_id", "prompt_token_ids", "completion", "token_ids", "finish_reason"]
    assert list(divergence.columns) == names
    assert divergence["prompt_token_ids"].tolist() == [None, None]  # this reference does not say what it reads
    assert [ids.tolist() for ids in divergence["token_ids"]] == [[1, 2, 0], [1, 0]]
    assert by_hand.prompt_values.index.name == "prompt_id"
    assert by_hand.prompt_values.index.tolist() == ["a", "b"]
    assert set(by_hand.prompt_values.columns) == {
        name if metric.scorer is None else f"{name}@judge"
        for metric in by_hand.metrics
        if not (name := metric.metric).startswith(("corpus", "toxicity_std", "self_bleu", "completion_tokens_p"))
        and not name.endswith("_per_token")
    }


@pytest.fixture
def report(categorical, share_rude, make_prompts):
    return run(categorical(POLICY), categorical(REFERENCE), make_prompts(200), QUICKSTART, {"judge": share_rude})


def test_truncated_is_what_ran_into_the_limit(report):
    cut_off = report.completions["finish_reason"] == "length"
    assert 0 < cut_off.mean() < 1
    assert find(report, "truncated_rate").value == pytest.approx(cut_off.mean())


def test_means_agree_with_the_prompt_values_and_lie_in_their_intervals(report):
    for metric in report.metrics:
        if metric.metric in ("copy_rate", "refusal_rate"):  # the same on every prompt: no interval
            assert (metric.value, metric.ci_low) == (0.0, None)
            continue
        if metric.metric.startswith("completion_tokens_p"):
            assert metric.reason == "no interval is computed for a percentile of whole numbers"
            continue
        if metric.metric == "kl_exact_per_token":  # one distribution at every state
            assert metric.reason == "the same value whichever group is left out"
            continue
        assert metric.ci_low < metric.value < metric.ci_high, metric.metric
        if metric.replicates is None:
            column = metric.metric if metric.scorer is None else f"{metric.metric}@{metric.scorer}"
            mean = report.prompt_values[column].mean()
            assert metric.value == pytest.approx(math.exp(mean) if metric.metric == "perplexity" else mean)
        else:
            assert len(metric.replicates) == len(metric.group_sizes) == 20
            assert [size > 0 for size in metric.group_sizes] == [one is not None for one in metric.replicates]


def test_values_of_a_known_policy(report, share_rude):
    texts = report.completions["completion"]
    assert find(report, "empty_rate").value == pytest.approx(0.1, abs=0.04)
    assert find(report, "toxicity_mean", "judge").value == pytest.approx(np.mean(share_rude.score(texts, texts)))
    groups = np.array([jackknife_group(prompt_id) for prompt_id in report.completions["prompt_id"]])
    left = " ".join(texts[groups != 7]).split()
    assert find(report, "corpus_distinct_1").replicates[7] == pytest.approx(3 / len(left))


def test_report_can_be_stored(report, tmp_path):
    json.dumps([dataclasses.asdict(metric) for metric in report.metrics], allow_nan=False)
    for name in ("prompt_values", "completions"):
        frame = getattr(report, name)
        frame.to_parquet(tmp_path / f"{name}.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / f"{name}.parquet"), frame)


def test_draws_do_not_depend_on_batch_size_or_on_the_other_prompts(report, categorical, share_rude, make_prompts):
    for batch_prompts in (1, 37, 1000):
        prompts, done = make_prompts(200), []
        other = run(
            categorical(POLICY),
            categorical(REFERENCE),
            prompts,
            QUICKSTART,
            {"judge": share_rude},
            batch_prompts=batch_prompts,
            progress=lambda done=done: done.append(None),
        )
        assert other.metrics == report.metrics
        pd.testing.assert_frame_equal(other.completions, report.completions)
        assert len(done) == 200
    fewer = run(categorical(POLICY), categorical(REFERENCE), make_prompts(200)[:4:-3], QUICKSTART, {})
    merged = fewer.completions.merge(report.completions, on=["prompt_id", "sample"])
    assert len(merged) == len(fewer.completions)
    assert (merged["completion_x"] == merged["completion_y"]).all()


def test_prompts_of_one_length_share_batches_and_the_report_keeps_their_order(categorical, share_rude, monkeypatch):
    n_words = [7, 1, 9, 3, 2, 8, 1, 9, 4, 6, 5, 5]
    prompts = [Prompt(f"p{i}", "word " * n) for i, n in enumerate(n_words)]
    monkeypatch.setattr("alignbench.evaluation.evaluator.EXACT_PROMPTS", 5)
    policy, batches = categorical(POLICY), []
    generate = policy.generate

    def spied(asked, *rest):
        batches.append([len(prompt.text) // 5 for prompt in asked])
        return generate(asked, *rest)

    policy.generate = spied

    def report(n):
        return run(policy, categorical(REFERENCE), prompts, DOUBLE, {"judge": share_rude}, batch_prompts=n)

    in_parts = report(4)
    assert [sorted(batch) for batch in batches[:3]] == [[7, 8, 9, 9], [4, 5, 5, 6], [1, 1, 2, 3]]
    # The divergence draws one completion of each prompt, and as many completions at once.
    assert [sorted(batch) for batch in batches[3:]] == [[4, 5, 5, 6, 7, 8, 9, 9], [1, 1, 2, 3]]
    assert in_parts.completions["prompt_id"].tolist() == [f"p{i}" for i in range(12) for _ in range(2)]
    pd.testing.assert_frame_equal(in_parts.completions, report(12).completions)
    pd.testing.assert_frame_equal(in_parts.prompt_values, report(1).prompt_values)
    assert in_parts.prompt_values["kl_exact"].notna().tolist() == [True] * 5 + [False] * 7


def test_draws_depend_on_the_seed(report, categorical, make_prompts):
    other = run(categorical(POLICY), categorical(REFERENCE), make_prompts(200), QUICKSTART, {}, seed=1)
    assert (other.completions["completion"] != report.completions["completion"]).mean() > 0.5


def test_one_completion_per_prompt_has_no_expected_maximum(categorical, share_rude, make_prompts):
    report = run(categorical(POLICY), categorical(REFERENCE), make_prompts(20), SINGLE, {"judge": share_rude})
    names = {metric.metric for metric in report.metrics}
    assert names == set(DIRECTIONS) - {"expected_max_toxicity", "toxicity_probability"}
    assert not [column for column in report.prompt_values if "max" in column or "probability" in column]


def test_prompts_are_cut_before_anybody_sees_them(scripted, function_scorer):
    scorer = function_scorer("judge", lambda text: 0.5)
    protocol = dataclasses.replace(SINGLE, max_prompt_chars=3)
    policy = scripted({"a": ["kind"]})
    report = run(policy, policy, [Prompt("a", "abcdef")], protocol, {"judge": scorer})
    assert scorer.seen_prompts == {"abc"}
    assert report.completions["prompt"].tolist() == ["abc"]


def _with_gaps(scripted, function_scorer, n_gaps):
    """100 completions of 50 prompts; the first `n_gaps` prompts have one completion that cannot be scored."""
    texts = {f"p{i}": ["gap" if i < n_gaps else "rude", "kind"] for i in range(50)}
    policy = scripted(texts)
    scores = {"gap": None, "rude": 0.75, "kind": 0.25}
    scorers = {"judge": function_scorer("judge", scores.__getitem__), "other": function_scorer("other", lambda _: 0.5)}
    return run(policy, policy, [Prompt(name, name) for name in texts], DOUBLE, scorers)


def test_one_percent_unscored_is_counted(scripted, function_scorer):
    report = _with_gaps(scripted, function_scorer, 1)
    mean, maximum = find(report, "toxicity_mean", "judge"), find(report, "expected_max_toxicity", "judge")
    assert mean.value == pytest.approx((49 * 0.5 + 0.25) / 50)
    assert (mean.n_scored, mean.n_unscored) == (99, 1)
    assert maximum.value == pytest.approx(0.75)
    assert (maximum.n_scored, maximum.n_unscored) == (49, 1)
    assert math.isnan(report.prompt_values.loc["p0", "expected_max_toxicity@judge"])
    assert math.isnan(report.completions.loc[0, "toxicity@judge"])


def test_more_than_one_percent_unscored_withholds_this_scorer_alone(scripted, function_scorer):
    report = _with_gaps(scripted, function_scorer, 2)
    judged = [metric for metric in report.metrics if metric.scorer == "judge"]
    assert len(judged) == 5
    for metric in judged:
        assert (metric.value, metric.ci_low, metric.ci_high) == (None, None, None)
        assert metric.reason == "2 of 100 completions unscored, at most 1% allowed"
    assert report.prompt_values["toxicity_mean@judge"].isna().all()
    assert report.completions["toxicity@judge"].notna().sum() == 98
    assert find(report, "toxicity_std", "judge").replicates == (None,) * 20
    assert find(report, "toxicity_mean", "other").value == 0.5


def test_scorer_without_any_score_gives_reasons_and_no_warning(scripted, function_scorer):
    policy = scripted({f"p{i}": ["kind"] for i in range(12)})
    scorers = {"judge": function_scorer("judge", lambda text: None)}
    report = run(policy, policy, [Prompt(f"p{i}", "x") for i in range(12)], SINGLE, scorers)
    assert find(report, "toxicity_mean", "judge").reason == "12 of 12 completions unscored, at most 1% allowed"


def test_policy_without_logprobs_has_no_divergence_but_a_perplexity(scripted):
    policy = scripted({f"p{i}": ["kind"] for i in range(12)}, logprob=None)
    prompts = [Prompt(f"p{i}", "x") for i in range(12)]
    for protocol in (SINGLE, dataclasses.replace(SINGLE, decoding=Decoding(8, top_p=0.9))):
        report = run(policy, scripted({}, logprob=-2.0), prompts, protocol, {})
        for name in ("kl", "kl_k3", "kl_per_token", "kl_k3_per_token"):
            kl = find(report, name)
            assert (kl.value, kl.reason) == (None, "the policy has no token log-probabilities")
        assert report.completions["logprob"].isna().all()
        assert find(report, "perplexity").value == pytest.approx(math.exp(2))


def test_policy_that_never_says_a_word_has_reasons(scripted, share_rude):
    policy = scripted({f"p{i}": [""] for i in range(12)})
    report = run(policy, policy, [Prompt(f"p{i}", "x") for i in range(12)], SINGLE, {"judge": share_rude})
    for name in ("distinct_1", "corpus_distinct_1", "perplexity", "self_bleu"):
        assert find(report, name).value is None
        assert find(report, name).reason
    assert find(report, "empty_rate").value == 1.0
    assert find(report, "kl").value == 0.0


def test_scores_that_are_not_finite_stop_the_evaluation(scripted, function_scorer):
    policy = scripted({"a": ["kind words"]})
    with pytest.raises(ScorerError, match="'judge' returned nan for the text 'kind words'"):
        run(policy, policy, [Prompt("a", "x")], SINGLE, {"judge": function_scorer("judge", lambda text: math.nan)})


def test_no_prompts_and_double_ids_are_refused(scripted):
    policy = scripted({"a": ["kind"]})
    with pytest.raises(DataError, match="no held-out prompts"):
        run(policy, policy, [], SINGLE, {})
    with pytest.raises(DataError, match="'a' occurs more than once"):
        run(policy, policy, [Prompt("a", "x"), Prompt("a", "y")], SINGLE, {})


def test_variants_of_one_text_count_as_one_witness(categorical, share_rude, make_prompts):
    alone = make_prompts(60)
    grouped = [dataclasses.replace(prompt, group=f"text {i // 3}") for i, prompt in enumerate(alone[:57])] + alone[57:]
    policy, reference = categorical(POLICY), categorical(REFERENCE)
    names = {f"p{i}": f"text {i // 3}" for i in range(57)}
    plain, by_text = (
        run(policy, reference, prompts, SINGLE, {"judge": share_rude}, groups=groups)
        for prompts, groups in ((alone, {}), (grouped, names))
    )
    assert by_text.prompt_groups == names
    assert plain.prompt_groups == {}
    one, other = (find(report, "toxicity_mean", "judge") for report in (by_text, plain))
    assert one.value == other.value
    values = by_text.prompt_values["toxicity_mean@judge"].to_numpy()
    groups = np.array([*np.repeat(np.arange(19), 3), 19, 20, 21])
    expected = mean_interval(values, groups)
    assert (one.ci_low, one.ci_high) == (expected.ci_low, expected.ci_high) != (other.ci_low, other.ci_high)
    # Variants that the data names are left out together.
    sizes = np.bincount([jackknife_group(f"text {i // 3}") for i in range(57)], minlength=20)
    sizes += np.bincount([jackknife_group(f"p{i}") for i in (57, 58, 59)], minlength=20)
    assert find(by_text, "corpus_distinct_1").group_sizes == tuple(sizes)


def test_no_interval_leaves_the_range_of_its_metric(categorical, share_rude, make_prompts):
    policy = categorical((0.02, 0.97, 0.005, 0.005))
    report = run(policy, policy, make_prompts(40), SINGLE, {"judge": share_rude})
    toxicity = find(report, "toxicity_mean", "judge")
    assert 0.0 == toxicity.ci_low < toxicity.value < toxicity.ci_high


def test_completions_behind_cut_prompts_are_counted(scripted, function_scorer):
    """By scorer, for every metric of it, whatever the batches; a scorer without a limit cuts none."""
    texts = {f"p{i}": ["rude", "kind"] for i in range(5)}
    policy = scripted(texts)
    plain, cutting = function_scorer("plain", lambda _: 0.5), function_scorer("cutting", lambda _: 0.25)
    cutting.cut_prompts = lambda prompts, completions: [
        prompt > "p2" and text == "rude" for prompt, text in zip(prompts, completions, strict=True)
    ]
    report = run(policy, policy, [Prompt(name, name) for name in texts], DOUBLE, {"plain": plain, "cutting": cutting})
    assert {metric.n_cut for metric in report.metrics if metric.scorer == "cutting"} == {2}
    assert {metric.n_cut for metric in report.metrics if metric.scorer != "cutting"} == {0}
