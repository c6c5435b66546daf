"""The spine on tiny models: every method end to end, upstream runs and their cost, resume, repeatability."""

import itertools
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from fixtures.cases import few_of

import alignbench
from alignbench import code_hash
from alignbench.errors import RunExistsError, TrainingError, UsageError
from alignbench.pipeline import execute
from alignbench.pipeline.plan import plan
from alignbench.recipe.loading import load
from alignbench.results.failures import read_failures
from alignbench.scorers.reward_model import load_reward_scorer

LORA = "policy.lora={r: 4, target_modules: [q_proj, v_proj]}"
FULL_AND_LORA = [pytest.param([], id="full", marks=pytest.mark.slow), pytest.param([LORA], id="lora")]


def run(*names, **options):
    sets = options.pop("sets", ())
    return execute.run(load([f"{name}.yaml" for name in names], sets), Path("results"), **options)


def values(recipe):
    frame = alignbench.load_metrics(f"results/{recipe}")
    return {(row.metric, row.scorer if isinstance(row.scorer, str) else None): row.value for row in frame.itertuples()}


def status(recipe, seed=0):
    return json.loads(Path(f"results/{recipe}/seed{seed}/status.json").read_text())


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("recipe", ["base", "ppo", "dpo"])
def test_a_quantized_base(recipe_folder, recipe):
    """It is the reference of the evaluation too, and of what is trained only the adapter is saved."""
    (outcome,) = run(recipe, sets=("policy.lora={target_modules: [q_proj, v_proj]}", "policy.quantization=4bit"))
    assert outcome.state == "done", outcome.error
    kl = values(recipe)["kl_exact", None]
    assert kl == 0 if recipe == "base" else kl > 0
    saved = {path.name for path in Path(f"results/{recipe}/seed0").rglob("*.safetensors")}
    assert saved == {"model.safetensors" if recipe == "base" else "adapter_model.safetensors"}


def test_every_method_end_to_end(recipe_folder, finished):
    names = ("base", "ppo", "dpo", "reward_model", "ppo_learned_reward", "ppo_after_dpo")
    finished(*names)
    outcomes = run("base", "ppo", "dpo", "ppo_learned_reward", "ppo_after_dpo")  # what these build on comes with them
    assert [(o.recipe, o.state) for o in outcomes] == [(name, "kept") for name in names], [o.error for o in outcomes]
    runs = alignbench.load_results("results").set_index("recipe")
    assert runs.loc["base", "training_completions"] == 0
    assert runs.loc["ppo", "training_completions"] == 32
    assert runs.loc["ppo", "reward_calls"] == 32
    assert runs.loc["ppo", "optimizer_steps"] == 4 * 2 * 2  # steps, mini-batches, epochs
    # The pairs' completions are charged to those who learn from them, and on to those who build on these.
    assert runs.loc["dpo", "own_training_completions"] == 0
    assert runs.loc["dpo", "training_completions"] == 32
    assert runs.loc["ppo_learned_reward", "training_completions"] == 32 + 32
    assert runs.loc["ppo_after_dpo", "training_completions"] == 32 + 32
    assert runs.loc["ppo_after_dpo", "upstream_wall_seconds"] > runs.loc["dpo", "own_wall_seconds"]
    assert runs.loc["ppo", "peak_memory_gib"] > 0
    reward_model = values("reward_model")
    assert 0 <= reward_model["pair_accuracy", None] <= 1
    assert ("toxicity_mean", "judge") in values("ppo")
    # The untrained policy is its own reference.
    for name in ("kl", "kl_k3", "kl_exact", "kl_per_token"):
        assert values("base")[name, None] == 0
    assert values("ppo")["kl_exact", None] > 0
    assert ("neutral_perplexity", None) not in values("base")
    completions = alignbench.load_completions("results/base")
    assert len(completions) == 12 * 4
    log = alignbench.load_train_log("results/ppo")
    assert list(log["step"]) == [1, 2, 3, 4]


def test_rewards_of_the_learned_reward_are_the_models(recipe_folder, finished, monkeypatch):
    from alignbench.methods.on_policy.trainer import PPOTrainer

    finished("reward_model")
    used = []
    plain = PPOTrainer.__init__

    def spy(self, policy, reward, *args, **kwargs):
        used.append(reward.__self__)
        plain(self, policy, reward, *args, **kwargs)

    monkeypatch.setattr(PPOTrainer, "__init__", spy)
    run("ppo_learned_reward")
    assert [scorer.name for scorer in used] == ["reward_model"]
    artifact = Path("results/reward_model/seed0/artifact")
    again = load_reward_scorer(artifact, name="x", text="completion", device=torch.device("cpu"))
    assert again.fingerprint == used[0].fingerprint
    upstream = status("ppo_learned_reward")["upstream"]
    assert [(u["recipe"], u["role"]) for u in upstream] == [("reward_model", "reward")]
    assert upstream[0]["run_hash"] == status("reward_model")["run_hash"]


def test_run_again_is_kept_and_a_changed_recipe_refused(recipe_folder, finished):
    finished("base")
    assert [outcome.state for outcome in run("base")] == ["kept"]
    [outcome] = run("base", sets=["evaluation.n_prompts=20"])
    assert outcome.state == "failed"
    assert isinstance(outcome.error, RunExistsError)
    assert "--name" in str(outcome.error)
    assert [o.state for o in run("base", sets=["evaluation.n_prompts=20"], force=True)] == ["done"]
    assert values("base")["completion_tokens", None] is not None


def test_resolved_recipe_gives_the_same_numbers(recipe_folder, finished):
    finished("ppo")
    again = execute.run(load(["results/ppo/seed0/recipe.resolved.yaml"]), Path("other"))
    assert again[0].state == "done"
    ours, theirs = alignbench.load_metrics("results"), alignbench.load_metrics("other")
    assert ours.equals(theirs)
    assert status("ppo")["run_hash"] == json.loads(Path("other/ppo/seed0/status.json").read_text())["run_hash"]


def test_failed_run_is_visible_and_resumes_from_its_checkpoint(recipe_folder, finished, monkeypatch):
    from alignbench.methods.on_policy.trainer import PPOTrainer

    finished("ppo", results="straight")
    plain_step = PPOTrainer.take_step

    def fails(self, n_steps):
        if self.step == 2:
            raise TrainingError("the loss is nan at PPO step 3")
        return plain_step(self, n_steps)

    monkeypatch.setattr(PPOTrainer, "take_step", fails)
    [outcome] = run("ppo")
    assert outcome.state == "failed"
    assert not Path("results/ppo/seed0").exists()
    partial = Path("results/ppo/.seed0.partial")
    assert json.loads((partial / "status.json").read_text())["state"] == "failed"
    seconds = json.loads((partial / "status.json").read_text())["cost"]["wall_seconds"]
    assert seconds > 0

    done = []

    def counts(self, n_steps):
        done.append(self.step)
        return plain_step(self, n_steps)

    monkeypatch.setattr(PPOTrainer, "take_step", counts)
    assert run("ppo")[0].state == "done"
    assert done == [2, 3]
    assert alignbench.load_metrics("results").equals(alignbench.load_metrics("straight"))
    log = alignbench.load_train_log("results")
    assert list(log["step"]) == [1, 2, 3, 4]
    assert status("ppo")["cost"]["training_completions"] == 32
    assert status("ppo")["cost"]["wall_seconds"] > seconds


def test_a_run_that_failed_before_its_first_step_leaves_nothing_but_why(recipe_folder):
    [outcome] = run("ppo", sets=["reward.label=nothat"])
    assert outcome.state == "failed"
    (why,) = [path for path in Path("results").rglob("*") if path.is_file()]
    assert read_failures(Path("results")) == {("ppo", 0): str(outcome.error)}
    assert run("ppo")[0].state == "done"  # the mended recipe is not refused
    assert not why.exists()


def test_what_builds_on_a_failed_run_is_not_run(recipe_folder, monkeypatch):
    from alignbench.methods.reward_model import RewardModel

    def fails(self, data, run):
        raise TrainingError("no luck")

    monkeypatch.setattr(RewardModel, "train", fails)
    outcomes = run("base", "ppo_learned_reward", "dpo")
    assert [(o.recipe, o.state) for o in outcomes] == [
        ("base", "done"), ("reward_model", "failed"), ("ppo_learned_reward", "failed"), ("dpo", "done"),
    ]  # fmt: skip
    assert "reward_model (seed 0), which it builds on, failed" in str(outcomes[2].error)


def test_pairs_are_drawn_once_and_charged_to_both(recipe_folder):
    run("dpo", "reward_model")
    entries = list((recipe_folder / "cache" / "data").glob("completions-*"))
    assert len(entries) == 2  # of training prompts, shared; of held-out prompts, for the reward model's accuracy
    costs = [status(name)["upstream_cost"] for name in ("dpo", "reward_model")]
    assert costs[0] == costs[1]
    assert costs[0]["training_completions"] == 32


def test_pairs_are_drawn_anew_when_the_code_of_a_draw_has_changed(recipe_folder, monkeypatch):
    """Two imports away from what draws pairs; an unrelated change leaves them."""
    plain, pairs = code_hash.read_source, recipe_folder / "cache" / "data"
    monkeypatch.setattr("alignbench.pipeline.drawing.code_hash", code_hash.code_hash.__wrapped__)
    for changed, n_entries in (
        (None, 1),
        ("alignbench.methods.on_policy.trainer", 1),
        ("alignbench.models.sampling.token_draw", 2),
    ):
        more = {changed: b"\nchanged = True\n"}
        monkeypatch.setattr(
            code_hash, "read_source", lambda name, file, more=more: plain(name, file) + more.get(name, b"")
        )
        assert run("dpo", sets=["budget.completions=8"], force=True)[0].state == "done"
        assert len(list(pairs.glob("completions-*"))) == n_entries


@pytest.mark.parametrize("sets", FULL_AND_LORA)
def test_results_name_no_folder_of_this_machine(recipe_folder, sets):
    """Apart from what the user wrote into the recipe."""
    run("ppo", sets=[*sets, "evaluation.evaluate_every=32"])
    files = [
        file for file in Path("results/ppo/seed0").rglob("*") if file.suffix in (".json", ".jsonl", ".md", ".yaml")
    ]
    assert len(files) > 5
    for file in files:
        assert str(recipe_folder) not in file.read_text(), file


def test_held_out_prompts_never_reach_training(recipe_folder, monkeypatch):
    from alignbench.methods.ppo import PPO

    seen = []
    plain = PPO.train

    def spy(self, data, run):
        seen.extend(prompt.text for prompt in (*data.prompts, *data.validation_prompts))
        return plain(self, data, run)

    monkeypatch.setattr(PPO, "train", spy)
    run("ppo")
    heldout = set(alignbench.load_completions("results/ppo")["prompt"])
    assert len(heldout) == 12
    assert heldout.isdisjoint(seen)


def test_evaluation_prompts_of_their_own_must_not_be_trained_on(recipe_folder, prompt_file):
    [outcome] = run("base", sets=[f"evaluation.prompts={prompt_file}"])
    assert outcome.state == "failed"
    assert "evaluation.prompts" in str(outcome.error)


@pytest.mark.parametrize(("by_name", "expected"), [(True, "trl-detox-v1"), (False, "trl-detox-v1*")])
def test_wiki_toxic_by_name_is_the_protocols_own_source(recipe_folder, monkeypatch, by_name, expected):
    pairs = itertools.product(["dog", "cat", "birds", "man", "woman", "bird"], repeat=4)
    rows = [f"{i},the {' '.join(words)},{i % 3 and 1}" for i, words in enumerate(itertools.islice(pairs, 610))]
    Path("test.csv").write_text("\n".join(["id,comment_text,label", *rows]))
    monkeypatch.setattr("datasets_prep.hub.file_path", lambda dataset, name, *_: Path(name))
    source = "wiki_toxic" if by_name else "test.csv"
    [outcome] = run(
        "base",
        sets=["evaluation.protocol=trl-detox-v1", "evaluation.n_prompts=null", f"evaluation.prompts={source}"],
    )
    assert outcome.state == "done", outcome.error
    metrics = json.loads(next(Path("results/base/seed0/evaluations").glob("*/metrics.json")).read_text())
    assert metrics["comparability"]["protocol"] == expected
    ids = list(alignbench.load_completions("results/base")["prompt_id"])
    assert ids == [str(i) for i in range(601) if i % 3][:400]


def test_chat_enters_prompts_and_comparability(recipe_folder):
    template = "'{% for m in messages %}{{ m.content }} {% endfor %}'"
    run("base", sets=[f"chat.template={template}", "chat.system=you are nice"])
    metrics = json.loads(next(Path("results/base/seed0/evaluations").glob("*/metrics.json")).read_text())
    assert metrics["comparability"]["chat"]["system"] == "you are nice"
    with_chat = values("base")
    run("base", force=True)
    assert values("base")["perplexity", None] != with_chat["perplexity", None]


def test_adapters_through_the_whole_flow(recipe_folder):
    """LoRA for both methods; PPO starts from DPO's adapter, merged, with a fresh one of its own."""
    outcomes = run("dpo", "ppo", "ppo_after_dpo", sets=[LORA])
    assert [o.state for o in outcomes] == ["done"] * 3, [o.error for o in outcomes]
    for name, weights_file in (
        ("dpo", "adapter_model.safetensors"),
        ("ppo", "adapter_model.safetensors"),
        ("ppo_after_dpo", "model.safetensors"),  # an adapter alone would leave DPO's weights out
    ):
        files = {file.name for file in Path(f"results/{name}/seed0/artifact").iterdir()}
        assert files & {"adapter_model.safetensors", "model.safetensors"} == {weights_file}
    assert status("ppo")["cost"]["trainable_parameters"] < 5000
    # KL in training is to the policy after DPO, in the evaluation to the base model.
    assert abs(alignbench.load_train_log("results/ppo_after_dpo")["objective/kl"].iloc[0]) < 1e-4


@pytest.mark.parametrize("sets", FULL_AND_LORA)
def test_an_artifact_is_the_policy_that_was_evaluated(recipe_folder, checkpoints, sets):
    """Log-probabilities of the evaluated completions, from the artifact loaded afresh."""
    from alignbench.models.loading import load_policy
    from alignbench.records import Completion, Prompt

    run("ppo_after_dpo", sets=[*sets, "method.learning_rate=0.01"])
    policy = load_policy(Path("results/ppo_after_dpo/seed0/artifact"))
    rows = alignbench.load_completions("results/ppo_after_dpo").head(8)
    for row in rows.itertuples():
        ids = tuple(policy.tokenizer.convert_tokens_to_ids(row.completion.split()))
        ids += (policy.eos_id,) * (row.finish_reason == "eos")
        if len(ids) != row.n_tokens + (row.finish_reason == "eos"):
            continue  # a text that does not encode back to what was sampled
        completion = Completion(row.prompt_id, row.sample, row.completion, ids, row.finish_reason)
        [logprobs] = policy.token_logprobs([Prompt(row.prompt_id, row.prompt)], [completion])
        assert logprobs.sum().item() == pytest.approx(row.logprob, abs=1e-3)
        assert abs(row.logprob - row.reference_logprob) > 1e-3


def test_the_start_is_the_upstream_policy(recipe_folder, finished):
    """Untrained after DPO is DPO's policy, not the base."""
    finished("dpo")
    Path("third.yaml").write_text("extends: shared.yaml\nname: third\nmethod: {name: untrained}\npolicy: {run: dpo}\n")
    run("dpo", "third", sets=[])
    assert values("third")["kl", None] == pytest.approx(values("dpo")["kl", None])


@pytest.mark.parametrize("name", few_of(["ppo", "dpo"], ["ppo"]))
def test_bfloat16_policy(recipe_folder, name):
    [outcome] = run(name, sets=["policy.dtype=bfloat16"])
    assert outcome.state == "done", outcome.error
    assert values(name)["perplexity", None] > 1


def test_two_recipes_of_one_name_are_refused(recipe_folder):
    """`b` wants a reward model on other pairs than `a` does; both are called reward_model."""
    Path("suite.yaml").write_text(
        "name: s\nrecipes:\n"
        "  - {recipe: ppo_learned_reward.yaml, name: a}\n"
        "  - {recipe: ppo_learned_reward.yaml, name: b, overrides: {pairs: {completions_per_prompt: 4}}}\n"
    )
    with pytest.raises(UsageError, match=r"reward_model, seed 0: two recipes of this name"):
        plan(load(["suite.yaml"]))


def test_upstream_on_other_splits_is_refused(recipe_folder):
    text = Path("reward_model.yaml").read_text()
    Path("reward_model.yaml").write_text(json.dumps(json.loads(text) | {"data": {"split_seed": 5}}))
    with pytest.raises(UsageError, match=r"reward\.run: reward_model has another `data` block"):
        plan(load(["ppo_learned_reward.yaml"]))


def test_an_unexpected_error_ends_one_run_and_not_the_suite(recipe_folder, monkeypatch):
    from alignbench.methods.untrained import Untrained

    def fails(self, data, run):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Untrained, "train", fails)
    outcomes = run("base", "dpo")
    assert [outcome.state for outcome in outcomes] == ["failed", "done"]
    assert "unexpected ZeroDivisionError: a defect" in str(outcomes[0])


def test_a_wrong_judge_comes_to_light_before_training(recipe_folder, monkeypatch, checkpoints):
    from alignbench.methods.ppo import PPO

    monkeypatch.setattr(PPO, "train", lambda self, data, run: pytest.fail("training had begun"))
    judge = {"classifier": str(checkpoints / "judge"), "label": "toxc"}
    [outcome] = run("ppo", sets=[f"evaluation.scorers={json.dumps([judge])}"])
    assert "did you mean 'toxic'" in str(outcome.error)


def test_more_pairs_than_the_budget_pays_for_are_refused(recipe_folder):
    [outcome] = run("dpo", sets=["pairs.n_prompts=40"])
    assert "budget.completions: got 32, expected at least 80" in str(outcome.error)


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("ppo", ["method.learning_rate=1e30", "method.ppo_epochs=1", "method.mini_batch_size=8"]),
        ("dpo", ["method.learning_rate=1e30", "budget.completions=8"]),
        ("reward_model", ["method.learning_rate=1e30", "budget.completions=8"]),
    ],
)
def test_weights_that_blow_up_stop_the_run(recipe_folder, name, sets):
    [outcome] = run(name, sets=sets)
    assert outcome.state == "failed"
    assert "lower method.learning_rate" in str(outcome.error)
    assert not Path(f"results/{name}/seed0").exists()


def test_what_training_saw_is_kept_and_another_split_is_refused(recipe_folder, finished):
    """Hashes of whole texts: of the untrained none are seen; a run that splits otherwise trains on held-out prompts."""
    from alignbench.comparison.compare import compare
    from alignbench.errors import LeakError

    finished("base", "ppo")
    base, ppo = (json.loads(Path(f"results/{name}/seed0/prompts.json").read_text()) for name in ("base", "ppo"))
    assert base["seen"] == []
    assert base["heldout"] == ppo["heldout"]
    assert set(ppo["heldout"].values()) == set(alignbench.load_completions("results/ppo")["prompt_id"])
    assert len(set(ppo["seen"])) == len(ppo["seen"]) > 0
    assert not set(ppo["seen"]) & ppo["heldout"].keys()
    assert not [note for note in compare("results").notes if "cannot be checked" in note]
    run("dpo", sets=["data.split_seed=7"])
    with pytest.raises(LeakError, match=r"could see \d+ of the prompts that"):
        compare("results", allow_mismatch=True)
