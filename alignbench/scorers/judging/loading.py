"""Makes a model that is asked in words from its settings: here, behind an endpoint, or a script."""

from __future__ import annotations

from alignbench.errors import ScorerError
from alignbench.models.loading import load_language_model
from alignbench.records import file_sha256
from alignbench.runtime.device import cache_directory
from alignbench.scorers.base import Place
from alignbench.scorers.judging.answers import KeptAnswers
from alignbench.scorers.judging.chat_model import ChatModel
from alignbench.scorers.judging.endpoint import EndpointModel
from alignbench.scorers.judging.local import LocalModel
from alignbench.scorers.judging.script import ScriptModel


def load_asked(
    *,
    place: Place,
    llm_judge: str,
    llm_sha256: str | None,
    llm_revision: str | None,
    endpoint: str | None,
    key_from: str,
    timeout_seconds: float,
    attempts: int,
    at_once: int,
    price: tuple[float, float],
) -> KeptAnswers:
    """Makes the model of `llm_judge.AskedModel`, with the cache of its answers."""
    model: ChatModel
    key, name = f"{place.where}.llm_judge", place.resolve(llm_judge)
    if endpoint is not None:
        limits = (key_from, timeout_seconds, attempts, at_once)
        model = EndpointModel(llm_judge, endpoint, place.where, *limits)
    elif name.endswith(".py"):
        if llm_sha256 not in (None, file_sha256(name)):
            raise ScorerError(f"{key}: {name}: the script has changed since the recipe was read; start the run again")
        model = ScriptModel(name, key)
    else:
        loaded = load_language_model(name, where=key, revision=llm_revision, device=place.device, shown_as=llm_judge)
        model = LocalModel(loaded, place.where)
    return KeptAnswers(model, cache_directory() / "answers", name=place.name, price=price)
