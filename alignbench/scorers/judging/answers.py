"""Asks a model, and keeps its answers: a question that was answered once is never asked again.

Answers lie in the cache, one file for each model, under the hash of the question; the rubric is a part of the question.
What was not answered is not kept. Whoever uses a kept answer is charged its tokens and its money all the same, so that
a run costs the same however often it was tried.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from alignbench.records import Cost, fingerprint
from alignbench.scorers.judging.chat_model import Answer, ChatModel, Question

logger = logging.getLogger(__name__)


class KeptAnswers:
    """A `ChatModel` that remembers, counts and says what goes wrong."""

    def __init__(
        self, model: ChatModel, directory: Path | None, *, name: str, price: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        """Wraps a model.

        Args:
            model: What is asked.
            directory: Where answers are kept; None keeps them in memory alone.
            name: How the model is called in messages.
            price: Money for a million tokens read, and written.
        """
        self.model, self._directory, self.name, self._price = model, directory, name, price
        self.counts: Counter[str] = Counter()
        """`n_asked`, `n_kept` of them answered before, `n_unanswered`, `n_nonsense`."""
        self._tokens, self._money = 0, 0.0
        self._said: set[str] = set()

    @property
    def identity(self) -> Sequence[object]:
        """That of the model."""
        return self.model.identity

    @property
    def spent(self) -> Cost:
        """FLOPs of the model, and tokens and money of all that was asked, answered before or not."""
        spent = dataclasses.replace(self.model.spent, judge_tokens=self._tokens)
        return dataclasses.replace(spent, money=self._money)

    @cached_property
    def _file(self) -> Path | None:
        return None if self._directory is None else self._directory / f"answers-{fingerprint(self.identity)}.jsonl"

    @cached_property
    def _known(self) -> dict[str, Answer]:
        known: dict[str, Answer] = {}
        for line in self._file.read_text(encoding="utf-8").splitlines() if self._file and self._file.is_file() else ():
            try:
                row = json.loads(line)
                known[row["question"]] = Answer(**row["answer"])
            except (ValueError, KeyError, TypeError):  # a process was killed while it wrote: asked again
                continue
        return known

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Answers each question; equal ones are asked once."""
        keys = [fingerprint([one.text, one.max_tokens, list(one.words)]) for one in questions]
        new = {key: one for key, one in zip(keys, questions, strict=True) if key not in self._known}
        self.counts.update(n_asked=len(keys), n_kept=sum(key not in new for key in keys))
        found = dict(zip(new, self.model.ask(list(new.values())) if new else (), strict=True))
        self._keep({key: one for key, one in found.items() if one.is_one})
        answers = [self._known.get(key) or found[key] for key in keys]
        for answer in answers:
            self._charge(answer)
        return answers

    def nonsense(self, text: str) -> None:
        """Counts an answer that is none, such as a text without a grade; the first one is told."""
        self.counts["n_nonsense"] += 1
        if self.counts["n_nonsense"] == 1:
            self._say(f"it answers what it was not asked for, such as {' '.join(text.split())[:80]!r}")

    def _charge(self, answer: Answer) -> None:
        self._tokens += answer.n_read + answer.n_written
        self._money += (answer.n_read * self._price[0] + answer.n_written * self._price[1]) / 1e6
        if answer.problem is not None:
            self.counts["n_unanswered"] += 1
            self._say(answer.problem)

    def _say(self, problem: str) -> None:
        if problem not in self._said:
            self._said.add(problem)
            logger.warning("%s: %s; such texts have no score", self.name, problem)

    def _keep(self, found: dict[str, Answer]) -> None:
        self._known.update(found)
        if self._file is None or not found:
            return
        rows = "".join(
            json.dumps({"question": key, "answer": dataclasses.asdict(one)}) + "\n" for key, one in found.items()
        )
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(rows)
        except OSError as error:
            logger.warning("answers of %s are not kept (%s)", self.name, error)
