"""What a policy must do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from alignbench.embedded import resolve
from alignbench.models.loading import load_policy
from alignbench.records import Completion, Cost, Decoding, Policy, Prompt

from .expectations import expect

DECODING = Decoding(max_new_tokens=8)
N_SAMPLES = 2
KEY = (0, "conformance")


def load_saved(directory: Path) -> Policy:
    """Loads what a policy has saved, with the models of the embedded world within."""
    return load_policy(directory, resolve)


def check_policy(
    policy: Policy, prompts: Sequence[Prompt], *, load: Callable[[Path], Policy] | None = load_saved
) -> None:
    """Checks answers, draws, log-probabilities, costs, and that what was saved is the policy.

    Args:
        policy: The policy; it is asked, and not changed.
        prompts: At least three, with different texts.
        load: Loads what `policy.save` wrote; None leaves saving out.
    """
    lacking = [part for part in ("generate", "token_logprobs", "save", "spent") if not hasattr(policy, part)]
    expect(not lacking, f"a {type(policy).__name__} lacks {', '.join(lacking)}: see alignbench.records.Policy")
    drawn = _check_answers(policy, prompts)
    _check_draws(policy, prompts, drawn)
    _check_logprobs(policy, prompts, drawn)
    if load is not None:
        _check_saving(policy, prompts, drawn, load)


def _draw(policy: Policy, prompts: Sequence[Prompt], n_samples: int = N_SAMPLES, key: Any = KEY) -> list[Completion]:
    return policy.generate(prompts, DECODING, n_samples, key)


def _check_answers(policy: Policy, prompts: Sequence[Prompt]) -> list[Completion]:
    before = Cost(**asdict(policy.spent))
    drawn = _draw(policy, prompts)
    places = [(one.prompt_id, one.sample) for one in drawn]
    expected = [(prompt.id, sample) for prompt in prompts for sample in range(N_SAMPLES)]
    expect(
        places == expected,
        f"generate: got {len(drawn)} completions, beginning with {places[:3]}, expected the samples 0 to "
        f"{N_SAMPLES - 1} of each prompt, prompt by prompt: {expected[:3]}",
    )
    longest = max(len(one.token_ids) for one in drawn)
    limit = DECODING.max_new_tokens
    expect(longest <= limit, f"generate: a completion has {longest} tokens, expected at most max_new_tokens {limit}")
    short = [one for one in drawn if one.finish_reason == "length" and len(one.token_ids) < limit]
    expect(not short, f"generate: the finish_reason is `length` after {[len(one.token_ids) for one in short]} tokens")
    spent = policy.spent.since(before)
    n_given = sum(len(one.token_ids) for one in drawn)
    expect(
        spent.generated_tokens >= n_given,
        f"spent: grew by {spent.generated_tokens} generated tokens, expected at least the {n_given} that were given",
    )
    flops = spent.generation_flops + spent.forward_flops
    expect(flops > 0, "spent: no FLOPs came to it, expected those of answering")
    return drawn


def _check_draws(policy: Policy, prompts: Sequence[Prompt], drawn: Sequence[Completion]) -> None:
    by = "expected every draw to depend on the key, the prompt's id, the sample and the position alone"
    expect(_draw(policy, prompts) == list(drawn), f"generate: the same call gave other completions; {by}")
    turned = _draw(policy, prompts[::-1])
    expect(
        sorted(turned, key=_place) == sorted(drawn, key=_place),
        f"generate: other completions for the prompts in another order; {by}",
    )
    alone = [one for prompt in prompts for one in _draw(policy, [prompt])]
    expect(alone == list(drawn), f"generate: other completions for each prompt alone than in a batch; {by}")
    first = [one for one in drawn if one.sample == 0]
    expect(_draw(policy, prompts, 1) == first, f"generate: sample 0 changes with the number of samples; {by}")
    other = _draw(policy, prompts, key=(1, "conformance"))
    expect(other != list(drawn), "generate: another key gave the same completions, expected other draws")


def _place(one: Completion) -> tuple[str, int]:
    return one.prompt_id, one.sample


def _check_logprobs(policy: Policy, prompts: Sequence[Prompt], drawn: Sequence[Completion]) -> None:
    owners = [prompt for prompt in prompts for _ in range(N_SAMPLES)]
    found = policy.token_logprobs(owners, drawn)
    if found is None:
        return
    shapes = [tuple(one.shape) for one in found]
    expected = [(len(one.token_ids),) for one in drawn]
    expect(shapes == expected, f"token_logprobs: got shapes {shapes[:3]} ..., expected {expected[:3]} ...")
    expect(
        all(bool(torch.isfinite(one).all()) and bool((one <= 0).all()) for one in found),
        "token_logprobs: got a number above 0 or none at all, expected log-probabilities of tokens that were drawn",
    )
    alone = policy.token_logprobs(owners[:1], drawn[:1])
    expect(
        alone is not None and torch.allclose(alone[0], found[0], atol=1e-4),
        "token_logprobs: other values for a completion alone than in a batch",
    )


def _check_saving(
    policy: Policy, prompts: Sequence[Prompt], drawn: Sequence[Completion], load: Callable[[Path], Policy]
) -> None:
    with TemporaryDirectory() as folder:
        policy.save(Path(folder) / "artifact")
        again = load(Path(folder) / "artifact")
        expect(
            type(again) is type(policy),
            f"save: loading gives a {type(again).__name__}, expected a {type(policy).__name__}; `policy.json` names "
            "the method whose `facts.load_policy` reads it",
        )
        expect(_draw(again, prompts) == list(drawn), "save: what was loaded answers otherwise than what was saved")
