"""Completions that another program has stored: measured as far as texts alone allow.

Objective: none here. What a text does not say is withheld: KL, the cost of an answer and, unless the file says how
completions ended, how many were cut. Perplexity is that of the texts under `policy.model`, the base of the other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from alignbench.errors import DataError
from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.records import Completion, Cost, Decoding, Policy, Prompt
from datasets_prep.stored_completions import StoredAnswers, read_stored_completions

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel


class StoredPolicy:
    """Answers with what a file holds. Implements `records.Policy`; nothing is drawn, so the key decides nothing."""

    def __init__(self, reader: LanguageModel, settings: StoredCompletions, answers: StoredAnswers) -> None:
        self.reader, self.settings, self.answers = reader, settings, answers
        self.spent = Cost()
        """Nothing: what the completions have cost elsewhere is not known."""

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
    ) -> list[Completion]:
        """Returns the first completions of each prompt, no longer than they would have been drawn here.

        DataError where the file has too few.
        """
        from alignbench.models.foreign_tokens import retold

        found = []
        for prompt in prompts:
            answers = self.answers.of(prompt)
            if len(answers) < n_samples:
                raise DataError(
                    f"method.file: {self.settings.file}: got {len(answers)} completions of the prompt "
                    f"{prompt.text[:80]!r} ({prompt.id}), expected {n_samples}"
                )
            drawn = (Completion(prompt.id, i, one.text, (), one.finish) for i, one in enumerate(answers[:n_samples]))
            found += [retold(self.reader, prompt, one, decoding.max_new_tokens) for one in drawn]
        return found

    def token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> None:
        """Returns None: what drew the texts is not here to be asked."""

    def save(self, directory: Path) -> None:
        """Writes which file it is."""
        from alignbench.models.policy_file import write_policy_file

        columns = {"prompt_column": self.settings.prompt_column, "completion_column": self.settings.completion_column}
        named = {"file": self.settings.file, "reader": self.reader.name, **columns}
        write_policy_file(directory, "stored_completions", **named)


def load_stored(directory: Path, load_part: Callable[[Path], Policy]) -> StoredPolicy:
    """Reads what `StoredPolicy.save` wrote."""
    from alignbench.embedded import resolve
    from alignbench.models.language_model import LanguageModel
    from alignbench.models.policy_file import read_policy_file

    record = read_policy_file(directory)
    reader = load_part(Path(resolve(record["reader"])))
    assert isinstance(reader, LanguageModel)
    return StoredCompletions(record["file"], record["prompt_column"], record["completion_column"]).policy(reader)


@dataclass(frozen=True)
class StoredCompletions:
    """Completions of a file."""

    file: str
    """A .jsonl, .json, .csv or .parquet file with a prompt and a completion in each row, or a list of completions."""
    prompt_column: str | None = None
    """Column of the prompt; null: `prompt`, `instruction`, `question` and the like."""
    completion_column: str | None = None
    """Column of the completion; null: `completion`, `response`, `output`, `generated_text` and the like."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal", "seq2seq"}),
        gives="policy",
        load_policy=load_stored,
        moved=lambda record, move: record | {key: move(record[key]) for key in ("file", "reader")},
        is_made_elsewhere=True,
        reads=lambda method: {"file": method.file},
        beside_its_models="It is the texts of the file that policy.json names.",
    )

    def train(self, data: TrainData, run: RunContext) -> StoredPolicy:
        """Reads the file; nothing is trained."""
        return self.policy(run.policy)

    def policy(self, reader: LanguageModel) -> StoredPolicy:
        """Reads the file, in the tokens of a model."""
        answers = read_stored_completions(Path(self.file), "method.file", self.prompt_column, self.completion_column)
        return StoredPolicy(reader, self, answers)


plugin = StoredCompletions
