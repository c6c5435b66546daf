"""Presets of classifiers and guards, each on a small random model of its family and with its labels."""

import pytest
import torch
from fixtures.guards import guard

from alignbench.errors import ModelError
from alignbench.recipe.loading import load
from alignbench.recipe.scorers import ScorerSettings
from alignbench.scorers.base import Place
from alignbench.scorers.presets import PRESETS, written_out

HARMS = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]
CIVIL = ["toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat", "sexual_explicit"]
MENTIONED = ["male", "female", "gay", "christian", "jewish", "muslim", "black", "white", "mental_illness"]
CLASSIFIERS = {
    "s-nlp": ("Roberta", ["neutral", "toxic"], None, "softmax"),
    "r4-target": ("Roberta", ["nothate", "hate"], None, "softmax"),
    "toxic-bert": ("Bert", HARMS, "multi_label_classification", "sigmoid"),
    "unbiased-toxic": ("Roberta", [*CIVIL, *MENTIONED], "multi_label_classification", "sigmoid"),
}
GUARDS = {
    "shieldgemma-2b": ("ShieldGemma", ["Yes"], ["No"]),
    "llama-guard-3-1b": ("LlamaGuard", ["unsafe"], ["safe"]),
    "llama-guard-3-8b": ("LlamaGuard", ["unsafe"], ["safe"]),
    "qwen3guard-0.6b": ("Qwen3Guard", [" Unsafe"], [" Safe", " Controversial"]),
}
TEXTS = ["the dog sings", "you are stupid", "a rude man runs now"]


def test_every_preset_is_tried_here_and_pinned():
    assert {*CLASSIFIERS, *GUARDS} == {*PRESETS}
    for preset in PRESETS.values():
        revision = preset.get("revision") or preset["next_token_revision"]
        assert len(revision) == 40
        assert int(revision, 16)


def judge(name, key, path, text="completion", **changes):
    values = {**written_out(name), key: str(path), **changes}
    settings = ScorerSettings.declaring(values)(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    )
    return settings.scorer(Place(f"evaluation.scorers: {name}", name, torch.device("cpu"), str, "", text))


@pytest.fixture
def saved(classifier, make_tokenizer, tmp_path):
    """Saves a classifier of a family with these labels; returns it with its tokenizer."""

    def save(family, labels, problem_type):
        special = {"bos_token": "<s>", "unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
        tokenizer = make_tokenizer(**special)
        names = dict(enumerate(labels))
        model = classifier(family, len(tokenizer), pad_token_id=2)
        model = type(model)(type(model.config).from_dict({**model.config.to_dict(), "id2label": names}))
        model.config.label2id = {label: i for i, label in names.items()}
        model.config.problem_type = problem_type
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.5)
        model.eval().save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return model, tokenizer

    return save


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_is_read_as_its_configuration_says(name, saved, tmp_path):
    family, labels, problem_type, how = CLASSIFIERS[name]
    model, tokenizer = saved(family, labels, problem_type)
    place = labels.index(PRESETS[name]["label"])
    for text, score in zip(TEXTS, judge(name, "classifier", tmp_path / "model").score([""] * 3, TEXTS), strict=True):
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0]
        expected = logits.softmax(-1)[place] if how == "softmax" else logits[place].sigmoid()
        assert score == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("name", ["toxic-bert", "unbiased-toxic"])
def test_an_old_revision_that_does_not_say_so_is_read_alike(name, saved, tmp_path):
    """By its own configuration it would be a softmax; the preset knows better, and without it the model is refused."""
    family, labels, _, _ = CLASSIFIERS[name]
    model, tokenizer = saved(family, labels, None)
    [score] = judge(name, "classifier", tmp_path / "model").score([""], TEXTS[:1])
    with torch.no_grad():
        logits = model(**tokenizer(TEXTS[0], return_tensors="pt", return_token_type_ids=False)).logits[0]
    assert score == pytest.approx(logits[labels.index(PRESETS[name]["label"])].sigmoid().item(), abs=1e-5)
    with pytest.raises(ModelError, match=r"outputs: got nothing, .*expected `outputs: independent`"):
        judge(name, "classifier", tmp_path / "model", outputs=None)


@pytest.mark.parametrize("text", ["completion", "prompt_and_completion"])
@pytest.mark.parametrize("name", ["shieldgemma-2b", "llama-guard-3-1b", "qwen3guard-0.6b"])
def test_a_guard_is_asked_by_its_own_template(name, text, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    family, harmful, harmless = GUARDS[name]
    guard(family, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    scorer = judge(name, "next_token", tmp_path / "model", text, least_share=0.0)
    for completion, score in zip(TEXTS, scorer.score(["thank you"] * 3, TEXTS), strict=True):
        turns = [("user", "thank you"), ("assistant", completion)] if text != "completion" else [("user", completion)]
        if family == "LlamaGuard":
            turns = [(role, [{"type": "text", "text": said}]) for role, said in turns]
        messages = [{"role": role, "content": said} for role, said in turns]
        options = {"guideline": PRESETS[name]["guideline"]} if "guideline" in PRESETS[name] else {}
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
        assert completion in rendered
        begins = tokenizer(PRESETS[name].get("answer_begins", ""))["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer(rendered)["input_ids"] + begins])).logits[0, -1].double()
        words = [tokenizer(word)["input_ids"][0] for word in (*harmful, *harmless)]
        p = logits.softmax(-1)[words]
        assert score == pytest.approx((p[: len(harmful)].sum() / p.sum()).item(), abs=1e-6)


def test_the_llama_guards_differ_in_nothing_but_the_model():
    small, large = (dict(PRESETS[f"llama-guard-3-{size}"]) for size in ("1b", "8b"))
    for preset in (small, large):
        assert preset.pop("next_token").startswith("meta-llama/Llama-Guard-3-")
        assert preset.pop("next_token_revision")
    assert small == large


def test_a_recipe_names_presets_and_has_them_written_out(tmp_path):
    file = tmp_path / "r.yaml"
    text = (
        "name: r\nmethod: {name: untrained}\npolicy: {model: embedded/policy}\ndata: {prompts: embedded}\n"
        "reward: {classifier: embedded/classifier, label: nothate}\n"
        "evaluation: {protocol: quickstart-v1, scorers: [reward, s-nlp, unbiased-toxic]}\n"
    )
    file.write_text(text)
    [loaded] = load([str(file)])
    assert [one if one == "reward" else one.name for one in loaded.recipe.evaluation.scorers] == [
        "reward", "s-nlp", "unbiased-toxic",
    ]  # fmt: skip
    (tmp_path / "again.yaml").write_text(loaded.recipe.to_yaml())
    [again] = load([str(tmp_path / "again.yaml")])
    assert again.run_hash == loaded.run_hash
    file.write_text(text.replace("s-nlp", "snlp"))
    with pytest.raises(Exception, match=r"scorers.1: got \"snlp\", expected 'reward', a mapping.*did you mean 's-nlp'"):
        load([str(file)])
