"""What a model says of several answers to a prompt: which of two is better, or which of n the best and the worst.

Models prefer what stands first, or second. Of two answers both orders are asked: where the model names the same place
twice, it has told its position bias, which is counted, and the two are a tie. Of n answers the order is shuffled anew
for every prompt, by a seed. An answer that cannot be read is none, and is counted; no preference is ever made up.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from alignbench.runtime.randomness import Key, generator
from alignbench.scorers.judging.answers import KeptAnswers
from alignbench.scorers.judging.chat_model import Answer, Question
from alignbench.scorers.templates import filled

Verdict = Literal["first", "second", "tie"]
BestAndWorst = tuple[int, int] | Literal["tie"]
_TURNED: Mapping[Verdict, Verdict] = {"first": "second", "second": "first", "tie": "tie"}
_BEST_AND_WORST = re.compile(r"best\D{0,20}(\d+)\D{1,20}worst\D{0,20}(\d+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Two:
    """Two answers to a prompt."""

    prompt: str
    first: str
    second: str


class Comparing:
    """Asks a model to compare answers."""

    def __init__(self, model: KeptAnswers, rubric: str, max_tokens: int = 16) -> None:
        """Wraps a model.

        Args:
            model: What is asked.
            rubric: With `{first}` and `{second}` in it for two answers, with `{answers}` for several.
            max_tokens: The most tokens of its answer.
        """
        self.model, self._rubric, self._max_tokens = model, rubric, max_tokens
        self.counts: Counter[str] = Counter()
        """`n_compared`, of these `n_disagreements` between the two orders and `n_ties` that both orders call so, and
        `n_unanswered`; of n answers `n_best_in_place_1` and so on."""

    def compare(self, pairs: Sequence[Two]) -> list[Verdict | None]:
        """Which of each two is better; None where it was not told."""
        turned = [Two(two.prompt, two.second, two.first) for two in pairs]
        answers = self.model.ask([self._of_two(two) for two in (*pairs, *turned)])
        told = [self._told(answer) for answer in answers]
        return [self._joined(*both) for both in zip(told[: len(pairs)], told[len(pairs) :], strict=True)]

    def best_and_worst(self, groups: Sequence[tuple[str, Sequence[str], Key]]) -> list[BestAndWorst | None]:
        """The places of the best and the worst answer to each prompt, or `tie`; None where it was not told.

        A group is a prompt, its answers, and the key that alone shuffles them.
        """
        orders = [generator(*key, "order").permutation(len(texts)).tolist() for _, texts, key in groups]
        questions = [
            self._of_several(prompt, [texts[i] for i in order])
            for (prompt, texts, _), order in zip(groups, orders, strict=True)
        ]
        answers = self.model.ask(questions)
        return [self._chosen(answer, order) for answer, order in zip(answers, orders, strict=True)]

    def _of_two(self, two: Two) -> Question:
        values = {"prompt": two.prompt, "first": two.first, "second": two.second}
        return Question(filled(self._rubric, values), self._max_tokens)

    def _of_several(self, prompt: str, texts: Sequence[str]) -> Question:
        shown = "\n".join(f"<{i}>\n{text}\n</{i}>" for i, text in enumerate(texts, start=1))
        return Question(filled(self._rubric, {"prompt": prompt, "answers": shown}), self._max_tokens)

    def _told(self, answer: Answer) -> Verdict | None:
        verdict = None if answer.text is None else verdict_of(answer.text)
        if answer.text is not None and verdict is None:
            self.model.nonsense(answer.text)
        return verdict

    def _joined(self, said: Verdict | None, said_turned: Verdict | None) -> Verdict | None:
        if said is None or said_turned is None:
            self.counts["n_unanswered"] += 1
            return None
        self.counts["n_compared"] += 1
        if said != _TURNED[said_turned]:
            self.counts["n_disagreements"] += 1
            return "tie"
        self.counts["n_ties"] += said == "tie"
        return said

    def _chosen(self, answer: Answer, order: Sequence[int]) -> BestAndWorst | None:
        if answer.text is not None and verdict_of(answer.text) == "tie":
            self.counts.update(("n_compared", "n_ties"))
            return "tie"
        places = None if answer.text is None else places_of(answer.text, len(order))
        if places is None:
            self.counts["n_unanswered"] += 1
            if answer.text is not None:
                self.model.nonsense(answer.text)
            return None
        self.counts.update(("n_compared", f"n_best_in_place_{places[0] + 1}"))
        return order[places[0]], order[places[1]]


def verdict_of(text: str) -> Verdict | None:
    """A, B or tie, as whole words; None for a text that names none of them, or several."""
    if re.fullmatch(r"\W*a tie\W*", text, re.IGNORECASE):
        return "tie"
    named = {"tie" if word.lower() == "tie" else word for word in re.findall(r"\b(?:A|B|[Tt]ie|TIE)\b", text)}
    verdicts: Mapping[str, Verdict] = {"A": "first", "B": "second", "tie": "tie"}
    return verdicts[named.pop()] if len(named) == 1 else None


def places_of(text: str, n: int) -> tuple[int, int] | None:
    """The places, from 0, of `best 2, worst 1`; None for a text without them, or with places that are not there."""
    found = {tuple(map(int, match)) for match in _BEST_AND_WORST.findall(text)}
    if len(found) != 1:
        return None
    best, worst = found.pop()
    return (best - 1, worst - 1) if best != worst and 1 <= best <= n and 1 <= worst <= n else None
