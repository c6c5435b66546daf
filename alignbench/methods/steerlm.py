"""Fine-tuning conditioned on an attribute: completions are imitated after a word on how good they are.

Paper: SteerLM, Dong et al. 2023 (arXiv:2310.05344). Trainer: that of `sft`.

Objective: minimise -log pi(y | a(r(x, y)), x) over the completions of the starting policy, all of them, where a is the
attribute that says in words in which of `levels` parts of all rewards theirs is. When it answers, the policy is asked
for the best one.

Differences from the paper: there is one attribute, the recipe's reward, in place of several of a trained model; its
levels are quantiles of the rewards, not a scale of people; completions are the policy's own; the second round of
training on answers to the best attribute is left out.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from alignbench.errors import TrainingError
from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.methods.trl.settings import ImitationSettings
from alignbench.models.asked_otherwise import AskedOtherwise
from alignbench.records import Demonstration, Policy, Prompt

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel

logger = logging.getLogger(__name__)

LEVEL = "{level}"


def _checked_attribute(value: str) -> str:
    if value.count(LEVEL) != 1:
        raise ValueError(f"a text with {LEVEL} in it once, where the level goes")
    return value


def with_words(prompt: Prompt, words: str) -> Prompt:
    """Returns the prompt with words before it; in a conversation before its last message."""
    if prompt.messages is None:
        return replace(prompt, text=words + prompt.text)
    *before, (role, content) = prompt.messages
    return replace(prompt, messages=(*before, (role, words + content)))


def levels_of(rewards: Sequence[float], n_levels: int) -> list[int]:
    """Returns the level of each reward, from 0: the share of rewards below it, in `n_levels` equal parts.

    Equal rewards have equal levels, so that some levels may stay empty, the highest ones too.
    """
    ordered = sorted(rewards)
    return [n_levels * bisect_left(ordered, reward) // len(ordered) for reward in rewards]


class Steered(AskedOtherwise):
    """A language model that is asked for an attribute before every prompt. Implements `records.Policy`."""

    def __init__(self, base: LanguageModel, words: str) -> None:
        super().__init__(base)
        self.words = words

    def asked(self, prompt: Prompt) -> Prompt:
        """Returns the prompt with the words before it."""
        return with_words(prompt, self.words)

    def save(self, directory: Path) -> None:
        """Writes the model within, and the words."""
        from alignbench.models.policy_file import write_policy_file

        write_policy_file(directory, "steerlm", words=self.words)
        self.base.save(directory / "base")


def load_steered(directory: Path, load_part: Callable[[Path], Policy]) -> Steered:
    """Reads what `Steered.save` wrote."""
    from alignbench.models.language_model import LanguageModel
    from alignbench.models.policy_file import read_policy_file

    base = load_part(directory / "base")
    assert isinstance(base, LanguageModel)
    return Steered(base, read_policy_file(directory)["words"])


@dataclass(frozen=True)
class SteerLM(ImitationSettings):
    """Imitation of all completions, each after its level of reward; the best level is asked for."""

    levels: Annotated[int, Field(ge=2)] = 5
    """Parts of equal size that rewards are divided into, where no two are equal."""
    attribute: Annotated[str, AfterValidator(_checked_attribute)] = "quality: {level}\n"
    """What stands before a prompt, with the level from 0 to levels - 1 in place of `{level}`."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal", "seq2seq"}),
        learns_from=frozenset({"labelled_completions"}),
        reads_labels=False,
        gives="policy",
        load_policy=load_steered,
        beside_its_models="Before every prompt stands the text `words` of policy.json.",
        tokens_before_a_prompt=lambda method, policy: method.longest_attribute(policy),
        texts_in_a_pass=lambda method: method.rows_at_once,
    )

    def train(self, data: TrainData, run: RunContext) -> Steered:
        """Trains on all completions."""
        from alignbench.methods.trl.imitation import imitate

        levels = levels_of([one.reward for one in data.labelled_completions], self.levels)
        words = {level: self.attribute.replace(LEVEL, str(level)) for level in sorted(set(levels))}
        self._check_words(words, run.policy)
        demonstrations = [
            Demonstration(with_words(one.prompt, words[level]), one.completion)
            for one, level in zip(data.labelled_completions, levels, strict=True)
        ]
        fitting = _that_fit(demonstrations, run.policy)
        best, within = words[max(words)], run.policy.with_model

        def as_policy(model: Any) -> Steered:
            return Steered(within(model), best)

        drawn = data.drawn_completions
        policy = imitate(self, fitting, run, title="SteerLM", drawn_completions=drawn, as_policy=as_policy)
        return Steered(policy, best)

    def longest_attribute(self, policy: LanguageModel) -> int:
        """The most tokens that a level takes before a prompt."""
        words = [self.attribute.replace(LEVEL, str(level)) for level in range(self.levels)]
        asked = policy.encode_prompts([with_words(Prompt("", "x"), one) for one in words])
        return max(map(len, asked)) - len(policy.encode_prompt("x"))

    def _check_words(self, words: dict[int, str], policy: LanguageModel) -> None:
        """TrainingError where the tokenizer cannot tell two levels apart."""
        encoded = {tuple(policy.text_tokenizer.encode(text)) for text in words.values()}
        if len(encoded) < len(words):
            raise TrainingError(
                f"method.attribute: got {self.attribute!r}, whose {len(words)} levels the policy's tokenizer encodes "
                f"as {len(encoded)}; expected words that it can tell apart"
            )


def _that_fit(demonstrations: Sequence[Demonstration], policy: LanguageModel) -> list[Demonstration]:
    """Those that the policy's context has room for, with the words before their prompts."""
    fitting = [
        one
        for one in demonstrations
        if len(policy.encode_prompt(one.prompt)) <= policy.longest_prompt(len(one.completion.token_ids))
    ]
    if not fitting:
        raise TrainingError("method.attribute: it leaves no room in the policy's context; shorten data.prompt_tokens")
    if n_lost := len(demonstrations) - len(fitting):
        logger.warning("SteerLM: %d of %d completions do not fit with the attribute", n_lost, len(demonstrations))
    return fitting


plugin = SteerLM
