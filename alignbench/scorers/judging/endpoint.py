"""A model behind an OpenAI-compatible endpoint, asked by the `openai` client.

Requests that time out, are dropped, or are answered by 408, 409, 429 or 5xx are tried again, a bounded number of times,
with growing pauses; the client's own retries are off. What then has no answer is told so. The key comes from an
environment variable, and what a server says is never repeated in words: it may hold the key.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from alignbench.errors import ScorerError, UsageError
from alignbench.records import Cost
from alignbench.scorers.judging.chat_model import Answer, Question

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the second attempt, doubled before each further one, and the most that is waited."""
HOPELESS = 5
"""Questions in a row without an answer, after which the others of a call are not asked."""
TOP = 20
"""Likeliest tokens that are asked for, the most that the interface gives."""
_AGAIN = frozenset({408, 409, 429})
_REFUSALS = {
    401: "it does not take the key",
    403: "it does not allow this",
    404: "it knows no such model or address",
}
NO_PROBABILITIES = "the server answers without the log-probabilities that it was asked for"


def check_endpoint(endpoint: str) -> None:
    """ValueError for what is no address of a server, or holds a secret."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the address of a server, such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ValueError("an address without a name, password or query: the key belongs into the environment")


class EndpointModel:
    """Implements `ChatModel`."""

    def __init__(
        self,
        model: str,
        endpoint: str,
        where: str,
        key_from: str,
        timeout_seconds: float,
        attempts: int,
        at_once: int,
    ) -> None:
        """Prepares asking; nothing is sent yet.

        Args:
            model: The model's name at the server.
            endpoint: The server's address, which ends before `/chat/completions`.
            where: The block of the recipe named in errors.
            key_from: The environment variable that has the key; servers without keys need none.
            timeout_seconds: The most seconds of an attempt.
            attempts: The most attempts of a question.
            at_once: Questions on their way at the same time.
        """
        try:
            import openai
        except ImportError as error:
            raise UsageError(f"{where}.endpoint: needs the openai client: pip install 'alignbench[judge]'") from error
        self._openai, self._model, self._where = openai, model, where
        self._attempts, self._at_once, self._in_a_row = attempts, at_once, 0
        self._limit, self._temperature = "max_tokens", {"temperature": 0.0}
        self._endpoint, self._key_from = endpoint, key_from
        self._key = _key_in(key_from, where)
        self._client = openai.OpenAI(
            api_key=self._key or "none", base_url=endpoint, timeout=timeout_seconds, max_retries=0
        )
        self._timeout, self._is_uncounted = timeout_seconds, False
        self._lock = threading.Lock()
        self.spent = Cost()
        """Nothing that is known: what a server computes, it does not say."""

    @cached_property
    def identity(self) -> Sequence[object]:
        """The model's name, and what the server says of it: in its list, and with an answer of a word."""
        listed: Mapping[str, Any] = {}
        try:
            known = {one.id: one.model_dump() for one in self._client.models.list()}
            listed = {key: known.get(self._model, {}).get(key) for key in ("id", "owned_by", "root")}
        except self._openai.OpenAIError as error:
            self._require_right(error)
        said, _ = self._request(Question("Say yes.", 1))
        told = [getattr(said, key, None) for key in ("model", "system_fingerprint")]
        of_answer = [one if isinstance(one, str) else None for one in told]
        return ["endpoint", self._model, listed, of_answer]

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Asks several at once; after a row of questions without an answer the others are not asked."""
        self._in_a_row = 0
        with ThreadPoolExecutor(self._at_once) as pool:
            return list(pool.map(self._asked, questions))

    def _asked(self, question: Question) -> Answer:
        if self._in_a_row >= HOPELESS:
            return Answer(problem="the server had not answered several questions before")
        said, problem = self._request(question)
        with self._lock:
            self._in_a_row = 0 if said is not None else self._in_a_row + 1
        return Answer(problem=problem) if said is None else self._answer(said, question)

    def _request(self, question: Question) -> tuple[Any, str]:
        """What the server answers, or None and why."""
        problem = ""
        for attempt in range(self._attempts):
            try:
                return self._sent(question), ""
            except self._openai.APIStatusError as error:
                self._require_right(error)
                problem, asked_for = f"the server answers {error.status_code}", "0"
                if self._has_other_names(error):
                    continue
                if error.status_code < 500 and error.status_code not in _AGAIN:
                    break
                asked_for = error.response.headers.get("retry-after")
            except (self._openai.OpenAIError, OSError) as error:  # no connection, no whole answer in time
                problem, asked_for = f"the server gives no answer ({type(error).__name__})", None
            except (ValueError, TypeError, AttributeError) as error:  # no JSON
                problem, asked_for = f"the server's answer cannot be read ({type(error).__name__})", None
            if attempt + 1 < self._attempts:
                time.sleep(_pause(attempt, asked_for))
        return None, problem

    def _sent(self, question: Question) -> Any:
        options: dict[str, Any] = {"logprobs": True, "top_logprobs": TOP} if question.words else {}
        options |= {self._limit: 1 if question.words else question.max_tokens}
        messages = [{"role": "user", "content": question.text}]
        end = time.monotonic() + self._timeout
        asked = self._client.chat.completions.with_streaming_response
        with asked.create(model=self._model, messages=messages, **options, **self._temperature) as response:
            return json.loads(_whole(response, end), object_hook=lambda values: SimpleNamespace(**values))

    def _has_other_names(self, error: Any) -> bool:
        """True where the server wants a setting under its later name, or not at all; from now on it is asked so."""
        if error.status_code != 400:
            return False
        if error.param == "max_tokens" and self._limit == "max_tokens":
            self._limit = "max_completion_tokens"
            return True
        if error.param == "temperature" and self._temperature:
            self._temperature = {}
            return True
        return False

    def _answer(self, said: Any, question: Question) -> Answer:
        usage = getattr(said, "usage", None)
        counts = [getattr(usage, key, None) for key in ("prompt_tokens", "completion_tokens")]
        n_read, n_written = (count if isinstance(count, int) else 0 for count in counts)
        if not (n_read or self._is_uncounted):
            self._is_uncounted = True
            logger.warning("%s.endpoint: the server says no token counts: costs lack its tokens and money", self._where)
        choices = getattr(said, "choices", None)
        if not isinstance(choices, list) or not choices:
            return Answer(n_read=n_read, n_written=n_written, problem="the server's answer has no choice in it")
        if question.words:
            found = _probabilities(choices[0], question.words)
            return Answer(None, found, n_read, n_written, None if found is not None else NO_PROBABILITIES)
        text = getattr(getattr(choices[0], "message", None), "content", None)
        if not isinstance(text, str):
            return Answer(n_read=n_read, n_written=n_written, problem="the server's answer has no text")
        return Answer(text.replace(self._key, "***") if self._key else text, None, n_read, n_written)

    def _require_right(self, error: Exception) -> None:
        """ScorerError where asking again will never help: it is a mistake in the recipe or the environment."""
        status = getattr(error, "status_code", None)
        if status in _REFUSALS:
            has_key = "has a key" if self._key else "has none"
            raise ScorerError(
                f"{self._where}.endpoint: {self._endpoint} answers {status}: {_REFUSALS[status]}; the model is "
                f"{self._model!r}, and the key is taken from the environment variable {self._key_from}, which {has_key}"
            ) from None


def _whole(response: Any, end: float) -> bytes:
    """The body of an answer; OSError where it breaks off, or is not whole by then.

    The client's own limit begins anew with every part, and some servers send white space to keep one waiting.
    """
    parts = []
    try:
        for part in response.iter_bytes():
            if time.monotonic() > end:
                raise TimeoutError
            parts.append(part)
    except TimeoutError:
        raise
    except Exception as error:  # of the library below the client, which is another one from version to version
        raise ConnectionError(type(error).__name__) from None
    return b"".join(parts)


def _key_in(variable: str, where: str) -> str:
    """The key without white space around it; ScorerError for one that no request can carry, which is not shown."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ScorerError(
            f"{where}.key_from: got a key with white space or other than plain characters in it from the environment "
            f"variable {variable}, expected the key alone"
        )
    return key


def _pause(attempt: int, asked_for: str | None) -> float:
    """Seconds before the next attempt: as the server asks, within bounds, else doubled each time."""
    try:
        wanted = float(asked_for or "")
    except ValueError:
        wanted = FIRST_PAUSE * 2.0**attempt
    return min(max(wanted, 0.0), LONGEST_PAUSE) if math.isfinite(wanted) else LONGEST_PAUSE


def _probabilities(choice: Any, words: Sequence[str]) -> dict[str, float] | None:
    """Probabilities of words at the first position; tokens that differ in white space alone are one word."""
    positions = getattr(getattr(choice, "logprobs", None), "content", None)
    if not isinstance(positions, list) or not positions:
        return None
    found = dict.fromkeys(words, 0.0)
    try:
        for one in positions[0].top_logprobs:
            word = next((word for word in words if word.strip() == one.token.strip()), None)
            if word is not None:
                found[word] += math.exp(min(0.0, float(one.logprob)))
    except (TypeError, ValueError, AttributeError):
        return None
    return found
