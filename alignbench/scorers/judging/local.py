"""A language model on this machine that is asked in words: its likeliest answer, or the next word's probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from alignbench.models.chat import Chat
from alignbench.models.language_model import LanguageModel
from alignbench.models.loading import weights_fingerprint
from alignbench.records import Cost, Decoding, Prompt
from alignbench.scorers.judging.chat_model import Answer, Question
from alignbench.scorers.next_words import NextWords


class LocalModel:
    """Implements `ChatModel`. A model with a chat template gets a question as a user's turn, any other as a text."""

    def __init__(self, model: LanguageModel, where: str) -> None:
        """Wraps a loaded model; `where` is the block of the recipe named in errors."""
        self._model, self._where = model, where
        if model.tokenizer.chat_template:
            model.chat = Chat()

    @cached_property
    def identity(self) -> Sequence[object]:
        """Hash of its weights, and its chat template."""
        return ["local", weights_fingerprint(self._model.model), self._model.tokenizer.chat_template]

    @property
    def spent(self) -> Cost:
        """FLOPs so far; what it writes are no tokens of a policy."""
        spent = self._model.spent
        return Cost(generation_flops=spent.generation_flops, forward_flops=spent.forward_flops)

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Answers each question with the likeliest token at every position."""
        answers: dict[int, Answer] = {}
        kinds = dict.fromkeys((question.words, question.max_tokens) for question in questions)
        for words, max_tokens in kinds:
            rows = [i for i, one in enumerate(questions) if (one.words, one.max_tokens) == (words, max_tokens)]
            texts = [questions[i].text for i in rows]
            found = self._told(texts, words) if words else self._written(texts, max_tokens)
            answers.update(zip(rows, found, strict=True))
        return [answers[i] for i in range(len(questions))]

    def _told(self, texts: Sequence[str], words: tuple[str, ...]) -> list[Answer]:
        model = self._model
        encoded = model.encode_prompts(texts)
        before = "x" + texts[0][-80:] if model.chat is None else model.chat.rendered(model.tokenizer, model.name, "x")
        encode = model.encode_prompt if model.chat is None else self._bare
        rows = NextWords(model, words, encode, before, f"{self._where}.grade_words").probabilities(encoded)
        return [
            Answer(problem="the model has no room for the question")
            if row is None
            else Answer(None, dict(zip(words, row, strict=True)), len(ids), 1)
            for ids, row in zip(encoded, rows, strict=True)
        ]

    def _bare(self, text: Prompt | str) -> list[int]:
        return list(self._model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _written(self, texts: Sequence[str], max_tokens: int) -> list[Answer]:
        model = self._model
        encoded = model.encode_prompts(texts)
        fitting = [i for i, ids in enumerate(encoded) if 0 < len(ids) <= model.longest_prompt(max_tokens)]
        drawn = model.generate([Prompt(f"q{i}", texts[i]) for i in fitting], _likeliest(max_tokens), 1, ("judge",))
        found = dict(zip(fitting, drawn, strict=True)) if fitting else {}
        return [
            Answer(found[i].text, None, len(ids), len(found[i].token_ids))
            if i in found
            else Answer(problem="the model has no room for the question")
            for i, ids in enumerate(encoded)
        ]


def _likeliest(max_tokens: int) -> Decoding:
    return Decoding(max_tokens, top_k=1)
