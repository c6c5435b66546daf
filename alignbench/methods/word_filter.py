"""A word filter: answers that hold a banned word are thrown away and drawn again.

Source: the word filter among the baselines of Gehman et al. 2020 (arXiv:2009.11462).

Objective: answer by y ~ pi(. | x), given that y holds none of `words`. Nothing is trained.

A word counts where no letter or digit touches it, whatever its case, after Unicode's compatibility forms are made one
(NFKC), without invisible characters, and across the join with the prompt: `...you as` may not go on with `s. No`. What
stands in the prompt alone is not the policy's. The completion must pass as it was decoded and once more as it is after
being tokenised anew.

KL to the policy within: -ln P(accepted), P the chance that a draw passes. An answer that took N draws gives the number
1 + 1/2 + ... + 1 / (N - 1), whose mean is exactly that (sum over k of P(N > k) / k = sum of (1 - P)^k / k).

Differences from the source: it sets the probability of a word's last token to 0, whatever would come after it, so that
`ass` forbids `assist`; here whole answers are drawn again, up to `max_draws` times each. If none passes, the last one
ends before its first banned word; its KL is not known. Where sampling is greedy a second draw would be the first.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import AfterValidator, Field

from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.records import Completion, Cost, Decoding, Policy, Prompt

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel

logger = logging.getLogger(__name__)

_LETTER = r"[^\W_]"


def folded(text: str) -> str:
    """The text without case, compatibility forms and invisible characters."""
    shown = "".join(one for one in unicodedata.normalize("NFKC", text) if unicodedata.category(one) != "Cf")
    return unicodedata.normalize("NFKC", shown.casefold())


def _checked_words(words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        if re.search(_LETTER, folded(word)) is None:
            raise ValueError(f"words with a letter or a digit, not {word!r}")
    return words


class BannedWords:
    """Finds words of a list in what goes on with a text."""

    def __init__(self, words: Sequence[str]) -> None:
        # The longest first: at one place that reaches furthest.
        ordered = sorted({" ".join(folded(word).split()) for word in words}, key=len, reverse=True)
        either = "|".join(r"\s+".join(map(re.escape, word.split())) for word in ordered)
        self._word = re.compile(rf"(?<!{_LETTER})(?=({either})(?!{_LETTER}))")

    def are_in(self, before: str, text: str) -> bool:
        """True where a word ends in `text`, be it begun `before` or not."""
        whole = folded(before + text)
        # An accent may join the prompt's last letter.
        is_prompt = (a == b for a, b in zip(folded(before), whole, strict=False))
        end_of_prompt = sum(1 for _ in takewhile(bool, is_prompt))
        return any(match.end(1) > end_of_prompt for match in self._word.finditer(whole))


class Filtered:
    """A policy of any kind, of whose answers none holds a banned word. Implements `records.Policy`."""

    choice_is_bound = False

    def __init__(self, base: Policy, words: Sequence[str], max_draws: int, within: LanguageModel | None = None) -> None:
        """`within` is the language model that gives `base` its tokens; None: the one that it is, or has within."""
        from alignbench.models.within import language_model_of

        self._within = within or language_model_of(base)
        self.base, self.words, self.max_draws = base, tuple(words), max_draws
        self._banned = BannedWords(words)
        self._n_cut = 0

    @property
    def spent(self) -> Cost:
        """What the model within has spent, on answers that were thrown away too."""
        return self.base.spent

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
    ) -> list[Completion]:
        """Samples completions; the first draw of each is the one that the model within would give."""
        return self.generate_with_choice(prompts, decoding, n_samples, key)[0]

    def generate_with_choice(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
    ) -> tuple[list[Completion], list[float]]:
        """Does the same, with the estimate of -ln P(accepted) of each: NaN where no draw was accepted."""
        owners = [prompt for prompt in prompts for _ in range(n_samples)]
        drawn = self.base.generate(prompts, decoding, n_samples, key)
        nats = [0.0] * len(drawn)
        left = self._refused(range(len(drawn)), owners, drawn)
        for turn in range(1, 1 if decoding.top_k == 1 else self.max_draws):
            for sample in sorted({drawn[place].sample for place in left}):
                places = [place for place in left if drawn[place].sample == sample]
                again = (*key, "redraw", turn, sample)
                others = self.base.generate([owners[place] for place in places], decoding, 1, again)
                for place, other in zip(places, others, strict=True):
                    drawn[place] = replace(other, sample=sample)
                    nats[place] += 1 / turn
            left = self._refused(left, owners, drawn)
        for place in left:
            drawn[place], nats[place] = self._cut(owners[place], drawn[place]), float("nan")
        self._say(len(left))
        return drawn, nats

    def _refused(self, places: Sequence[int], owners: Sequence[Prompt], drawn: Sequence[Completion]) -> list[int]:
        return [place for place in places if self.refuses(owners[place], drawn[place].text)]

    def refuses(self, prompt: Prompt, text: str) -> bool:
        """True where an answer holds a banned word, as it is or tokenised anew."""
        goes_on = self._within.chat is None and not self._within.is_encoder_decoder
        before = prompt.text if goes_on else ""
        return self._banned.are_in(before, text) or self._banned.are_in(self._anew(before), self._anew(text, before))

    def _anew(self, text: str, before: str = "") -> str:
        """The text after another one as the tokenizer gives it back."""
        tokenizer = self._within.text_tokenizer
        whole, first = (tokenizer.decode(tokenizer.encode(one)) for one in (before + text, before))
        return whole[len(first) :] if whole.startswith(first) else whole

    def _cut(self, prompt: Prompt, one: Completion) -> Completion:
        """As many tokens of an answer as hold no banned word, and an end."""
        before, end = self._within.encode_prompt(prompt), self._within.end_of_answer
        for n in range(one.n_tokens - 1, -1, -1):
            text = self._within.decode(one.token_ids[:n], before) if n else ""
            if not self.refuses(prompt, text):
                break
        ids = one.token_ids[:n]
        if end is None:
            return replace(one, text=text, token_ids=ids, finish_reason="stop")
        return replace(one, text=text, token_ids=(*ids, end), finish_reason="eos")

    def _say(self, n_cut: int) -> None:
        if n_cut and not self._n_cut:
            logger.warning(
                "word_filter: of some answers no draw passes (%d draws each); they end before a banned word",
                self.max_draws,
            )
        self._n_cut += n_cut

    def token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> None:
        """Returns None: of single tokens it is not known which of their continuations pass."""

    def save(self, directory: Path) -> None:
        """Writes the model within, and the words."""
        from alignbench.models.policy_file import write_policy_file

        write_policy_file(directory, "word_filter", words=list(self.words), max_draws=self.max_draws)
        self.base.save(directory / "base")


def load_filtered(directory: Path, load_part: Callable[[Path], Policy]) -> Filtered:
    """Reads what `Filtered.save` wrote."""
    from alignbench.models.policy_file import read_policy_file

    record, base = read_policy_file(directory), load_part(directory / "base")
    return Filtered(base, record["words"], record["max_draws"])


@dataclass(frozen=True)
class WordFilter:
    """Answers without banned words."""

    words: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_checked_words)]
    """Words and phrases that no answer may hold."""
    max_draws: Annotated[int, Field(ge=1)] = 32
    """Draws of an answer, at most; if none passes, the last one ends before its first banned word."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal", "seq2seq"}),
        asks_for_answers=True,
        gives="policy",
        load_policy=load_filtered,
        beside_its_models="An answer with one of the words of policy.json is drawn again.",
    )

    def train(self, data: TrainData, run: RunContext) -> Filtered:
        """Returns the policy of the recipe within another one."""
        return Filtered(run.start or run.policy, self.words, self.max_draws)


plugin = WordFilter
