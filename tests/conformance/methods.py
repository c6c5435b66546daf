"""What a method must do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from alignbench.methods.base import Facts, Method, RunContext, TrainData, Trained, TrainedScorer
from alignbench.methods.kept_reward import load_reward
from alignbench.methods.registry import describe, method_class
from alignbench.models.adapters import Lora
from alignbench.models.language_model import LanguageModel
from alignbench.records import (
    Cost,
    Decoding,
    Demonstration,
    LabelledCompletion,
    Policy,
    PreferencePair,
    Prompt,
    RankedCompletions,
    total,
)
from alignbench.scorers.base import parts_of

from .expectations import expect
from .policies import check_policy
from .scorers import check_scorer
from .watched import Watched, counting
from .world import KEPT_REWARD, prompts, tiny_policy

N_DRAWN = 4


def check_method(name: str, **settings: Any) -> Method:
    """Checks a method as it is documented and declared; trains nothing.

    Args:
        name: As recipes write it.
        settings: Those of its settings that have no default.

    Returns:
        The method with these settings.
    """
    kind, described = method_class(name), describe(name)
    expect(described.doc, f"method {name}: its module has no docstring, which `alignbench methods {name}` prints")
    undocumented = [field.name for field in described.fields if not field.doc]
    expect(not undocumented, f"method {name}: {undocumented} lack a docstring under the field")
    required = [f.name for f in described.fields if f.default is MISSING and f.name not in settings]
    expect(not required, f"method {name}: {required} have no default; give them to check_method")
    method = kind(**settings)
    _check_facts(name, kind.facts, method)
    return method


def _check_facts(name: str, facts: Facts, method: Method) -> None:
    given: dict[str, tuple[Any, Any, str]] = {
        "longest_completion": (facts.longest_completion(method), int | None, "a number of tokens, or None"),
        "texts_in_a_pass": (facts.texts_in_a_pass(method), int, "a number of texts"),
        "completions_of_a_step": (facts.completions_of_a_step(method), int, "a number of completions"),
        "texts_of_a_prompt": (facts.texts_of_a_prompt(method, 4), int, "a number of texts"),
        "cautions": (facts.cautions(method), list, "a list of sentences"),
    }
    for fact, (got, expected, words) in given.items():
        fits = isinstance(got, expected) and (not isinstance(got, int) or got >= 1)
        expect(fits, f"method {name}: facts.{fact} gave {got!r}, expected {words}")
    expect(facts.architectures, f"method {name}: facts.architectures is empty, expected what it can train or ask")


class _CutOff(Exception):  # noqa: N818 - it is no error, it ends a training
    pass


def check_training(method: Method, *, budget: int = 16, lora: Lora | None = None) -> Trained:
    """Trains in the embedded world, and checks what it says along the way and what it gives.

    It then trains a second time, is cut off at the last step, and goes on from what it has kept.

    Args:
        method: With settings that fit the budget.
        budget: Completions that may be drawn for training.
        lora: The adapter that is trained; None: all weights.
    """
    name, facts = type(method).__name__, method.facts
    data = _data(tiny_policy(), facts, budget)
    watched = Watched()
    with TemporaryDirectory() as folder, counting() as counted:
        said, trained = _train(method, data, budget, lora, Path(folder), watched=watched)
        n_flops = counted()
    _check_steps(name, facts, said, budget)
    if facts.trains and facts.takes_steps:
        _check_what_moved(name, facts.gives_policy, said, watched, n_flops)
    if facts.gives == "reward_model":
        kind = type(trained).__name__
        expect(
            hasattr(trained, "score") and hasattr(trained, "save"),
            f"{name}.train gave a {kind}, expected a scorer that has a `save`",
        )
        check_scorer(cast("TrainedScorer", trained))
    else:
        expect(
            isinstance(trained, LanguageModel) == (facts.gives == "language_model"),
            f"{name}.train gave a {type(trained).__name__}, and facts.gives says {facts.gives!r}",
        )
        check_policy(cast("Policy", trained), prompts(4))
    with TemporaryDirectory() as folder:
        with suppress(_CutOff):
            _train(method, data, budget, lora, Path(folder), cut_off_at=len(said))
        again = _train(method, data, budget, lora, Path(folder))[1]
    expect(
        _answers(again) == _answers(trained),
        f"{name}.train: cut off at its last step and started again, it gave something else; expected the seed and what "
        "lies in run.checkpoints to lead to the same",
    )
    return trained


def _answers(trained: Trained) -> Sequence[object]:
    asked = prompts(4)
    if isinstance(trained, Policy):
        return trained.generate(asked, Decoding(8), 2, ("again",))
    return trained.score([one.text for one in asked], ["you are rude.", "thank you.", "yes.", "no."])


def _train(
    method: Method,
    data: TrainData,
    budget: int,
    lora: Lora | None,
    folder: Path,
    cut_off_at: int | None = None,
    watched: Watched | None = None,
) -> tuple[list[tuple[Any, ...]], Trained]:
    """Returns what `step_done` was told, and what was trained."""
    from alignbench.embedded import resolve
    from alignbench.models.loading import load_classifier
    from alignbench.runtime.randomness import seed_everything

    policy, said, watched = tiny_policy(), list[tuple[Any, ...]](), watched or Watched()
    reward = load_reward(KEPT_REWARD, policy) if method.facts.calls_reward else None
    watched.give_policy(policy)
    for part in () if reward is None else parts_of(reward):
        watched.keep("the reward", getattr(part, "model", None))

    def load_reward_model(model: str | None) -> tuple[Any, Any]:
        seed_everything(0)
        fresh = load_classifier(model or resolve("embedded/policy"), where="method.model", labels=["reward"])
        watched.give(fresh[0])
        return fresh

    def load_upstream(role: str) -> Policy:
        upstream = tiny_policy()
        watched.keep(f"the policy that it builds on as {role}", upstream.model)
        return upstream

    def step_done(
        step: int, completions: int, metrics: Mapping[str, float], cost: Mapping[str, Cost], policy: Policy | None
    ) -> None:
        if step == cut_off_at:
            raise _CutOff
        if not said:
            watched.note_first_step()
        said.append((step, completions, dict(metrics), dict(cost), policy))

    seed_everything(0)
    run = RunContext(
        seed=0, budget_completions=budget, policy=policy, load_reward_model=load_reward_model, lora=lora,
        reward=reward, reward_text="completion", checkpoints=folder, step_done=step_done, load_upstream=load_upstream,
        kept_reward=KEPT_REWARD if method.facts.calls_reward else (),
    )  # fmt: skip
    trained = method.train(data, run)
    watched.beside_steps = run.ledger.cost
    return said, trained


def _data(policy: LanguageModel, facts: Facts, budget: int) -> TrainData:
    """Prompts, and of the other kinds of training data what the method learns from."""
    train, validation = prompts(budget + 8)[:budget], prompts(budget + 8)[budget:]
    kinds = facts.learns_from - {"prompts"}
    if not kinds:
        return TrainData(train, validation)
    asked = train[: budget // N_DRAWN]
    drawn = policy.generate(asked, Decoding(12), N_DRAWN, ("training",))
    owners = [prompt for prompt in asked for _ in range(N_DRAWN)]
    scores = load_reward(KEPT_REWARD, policy).score([one.text for one in owners], [one.text for one in drawn])
    scored = [(prompt, one, float(score or 0.0)) for prompt, one, score in zip(owners, drawn, scores, strict=True)]
    middle = sorted(score for *_, score in scored)[len(scored) // 2]
    made: dict[str, Any] = {
        "preference_pairs": [_pair(scored[i : i + N_DRAWN]) for i in range(0, len(scored), N_DRAWN)],
        "ranked_completions": [_ranking(scored[i : i + N_DRAWN]) for i in range(0, len(scored), N_DRAWN)],
        "demonstrations": [Demonstration(prompt, one) for prompt, one, score in scored if score >= middle],
        "labelled_completions": [LabelledCompletion(*row[:2], row[2] >= middle, row[2]) for row in scored],
    }
    named = {"pairs" if kind == "preference_pairs" else kind: made[kind] for kind in kinds}
    return TrainData(train, validation, drawn_completions=len(drawn), **named)


def _pair(scored: Sequence[tuple[Prompt, Any, float]]) -> PreferencePair:
    worst, *_, best = sorted(scored, key=lambda one: one[2])
    return PreferencePair(best[0], best[1], worst[1], best[2], worst[2])


def _ranking(scored: Sequence[tuple[Prompt, Any, float]]) -> RankedCompletions:
    ordered = sorted(scored, key=lambda one: -one[2])
    return RankedCompletions(scored[0][0], tuple(one[1] for one in ordered), tuple(range(len(ordered))))


def _check_steps(name: str, facts: Facts, said: Sequence[tuple[Any, ...]], budget: int) -> None:
    if not (facts.trains and facts.takes_steps):
        expect(not said, f"{name}: it takes no step and called step_done {len(said)} times")
        return
    steps, completions = [one[0] for one in said], [one[1] for one in said]
    expect(
        steps == list(range(1, len(said) + 1)) and steps,
        f"{name}: step_done was told of the steps {steps[:5]} ..., expected every step once, from 1",
    )
    expect(
        completions == sorted(completions) and completions[-1] <= budget,
        f"{name}: step_done was told of {completions[:5]} ... {completions[-1]} completions, expected sums that never "
        f"fall and do not pass the budget of {budget}",
    )
    cost = total(one for _, _, _, costs, _ in said for one in costs.values())
    missing = [what for what in ("optimizer_steps", "trained_tokens", "backward_flops") if not getattr(cost, what)]
    expect(not missing, f"{name}: the costs that step_done was told of have no {', '.join(missing)}")
    if facts.gives_policy:
        expect(said[-1][4] is not None, f"{name}: step_done was given no policy, expected it as training leaves it")


def _check_what_moved(
    name: str, gives_policy: bool, said: Sequence[tuple[Any, ...]], watched: Watched, n_flops: float
) -> None:
    expect(watched.moved_at_first, f"{name}.train: no weight had moved after its first step, expected it to train")
    disturbed = watched.disturbed()
    expect(
        not disturbed,
        f"{name}.train changed {', '.join(disturbed[:3])} and {max(0, len(disturbed) - 3)} more, expected what it "
        "compares with, or does not train, to stay bit for bit as it was",
    )
    cost = total((watched.beside_steps, *(one for _, _, _, costs, _ in said for one in costs.values())))
    booked = cost.generation_flops + cost.forward_flops + cost.backward_flops
    # Padding is multiplied and not booked; a reward model is tried on padding, at length, before it is trained.
    least, most = 0.7 * n_flops if gives_policy else 0.0, 1.05 * n_flops
    expect(
        least <= booked <= most,
        f"{name}.train told of costs of {booked:.4g} FLOPs, and torch counted {n_flops:.4g} in products with weights; "
        "expected these, but for padding",
    )
