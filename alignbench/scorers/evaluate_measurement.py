"""A measurement of Hugging Face's `evaluate` as a scorer: any that gives a number for a text.

Such as `toxicity`, `regard` and `honest`, by their names on the hub, or a script of one's own. A script is Python code,
and runs with all rights. The library is imported when a recipe that names a measurement is run, and never else.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from alignbench.errors import ScorerError, did_you_mean
from alignbench.identity import PartOfIdentity
from alignbench.records import TextWindow, file_sha256, fingerprint
from alignbench.scorers.base import BesideRecipe, Place, ScorerKind, SourceSettings, Text, hash_of, read_text


def script_of(measurement: str) -> Path | None:
    """The file of a local measurement, which may be named by its folder; None where it is one of the hub."""
    path = Path(measurement)
    if path.is_dir():
        path = path / f"{path.name}.py"
    return path if path.is_file() else None


def _without_folder(measurement: str) -> str:
    return Path(measurement).stem if measurement.endswith(".py") else measurement


def _script_sha256(measurement: str) -> str | None:
    script = script_of(measurement)
    return None if script is None else file_sha256(script)


class Measurement:
    """Scores texts by a measurement. Implements `records.Scorer`."""

    def __init__(
        self,
        module: Any,
        *,
        name: str,
        where: str,
        result: str,
        given_as: str = "predictions",
        as_words: bool = False,
        complement: bool = False,
        reads_prompt: bool = False,
        joint: str = "",
    ) -> None:
        """Wraps what `evaluate.load` gives.

        Args:
            module: The measurement.
            name: How the scorer is called in tables.
            where: The block of the recipe named in errors.
            result: The place of the number in what `compute` returns: `toxicity`, or `regard.negative`.
            given_as: The name of the argument of `compute` that takes the texts.
            as_words: Give each text as the list of its words, as `honest` takes it.
            complement: Score 1 less the number.
            reads_prompt: Measure prompt and completion as one text.
            joint: What comes between them where the completion does not go on with the prompt.
        """
        self.name, self._module, self._where, self._result = name, module, where, result
        self._given_as, self._as_words, self._complement = given_as, as_words, complement
        self._reads_prompt, self._joint = reads_prompt, joint
        source = inspect.getsourcefile(type(module))
        self.sources = (file_sha256(source) if source else str(type(module)),)
        """What the score comes from: the hash of the measurement's code."""
        settings = [module.config_name, result, given_as, as_words, complement, reads_prompt, joint]
        self.fingerprint = fingerprint([*self.sources, *settings])

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float | None]:
        """Scores every completion; what the measurement says of an equal text is asked once. NaN is no score."""
        window: TextWindow = "prompt_and_completion" if self._reads_prompt else "completion"
        pairs = zip(prompts, completions, strict=True)
        texts = [read_text(*pair, window, self._joint) for pair in pairs]
        distinct = list(dict.fromkeys(texts))
        found = dict(zip(distinct, self._numbers(distinct), strict=True))
        return [found[text] for text in texts]

    def _numbers(self, texts: Sequence[str]) -> list[float | None]:
        """A number for each text; where the measurement gives one number for several texts, it is asked one by one."""
        if not texts:
            return []
        found = self._found(self._computed(texts))
        if isinstance(found, list | tuple) and len(found) == len(texts):
            return [self._number(value) for value in found]
        if len(texts) > 1:
            return [number for text in texts for number in self._numbers([text])]
        return [self._number(found)]

    def _computed(self, texts: Sequence[str]) -> Any:
        given: list[Any] = [text.split() for text in texts] if self._as_words else list(texts)
        try:
            return self._module.compute(**{self._given_as: given})
        except Exception as error:  # what a measurement raises has no common type
            first = str(error).strip().partition("\n")[0]
            raise ScorerError(
                f"{self._where}.evaluate_measurement: it raised {type(error).__name__}: {first}"
            ) from error

    def _found(self, computed: Any) -> Any:
        """What stands at the place of the number: of all texts, or a list with one of each."""
        first, *within = self._result.split(".")
        value = self._entry(computed, first)
        for key in within:
            value = [self._entry(one, key) for one in value] if isinstance(value, list) else self._entry(value, key)
        return value

    def _entry(self, value: Any, key: str) -> Any:
        """The entry of a mapping, or of a list of labels with their scores."""
        if isinstance(value, list | tuple) and all(isinstance(one, Mapping) and "label" in one for one in value):
            value = {one["label"]: one.get("score") for one in value}
        if isinstance(value, Mapping) and key in value:
            return value[key]
        known = [str(one) for one in value] if isinstance(value, Mapping) else []
        got = f"expected one of {', '.join(known)}{did_you_mean(key, known)}" if known else f"there is {value!r:.60}"
        raise ScorerError(f"{self._where}.evaluate_result: got {key!r}, and the measurement has none of it; {got}")

    def _number(self, value: Any) -> float | None:
        if isinstance(value, str | list | tuple | Mapping) or value is None:
            raise ScorerError(
                f"{self._where}.evaluate_result: got {value!r:.60} at {self._result}, expected a number for each text"
            )
        number = float(value)
        if math.isnan(number):
            return None
        return 1.0 - number if self._complement else number


class MeasurementJudge(SourceSettings):
    """A measurement that judges."""

    takes: ClassVar[str] = "a measurement of the `evaluate` library"

    evaluate_measurement: Annotated[
        Text | None,
        PartOfIdentity(_without_folder, "where a script lies; `evaluate_sha256` says what is in it"),
        BesideRecipe(),
    ] = None
    """Its name on the hub, such as `toxicity`, or a script, or its folder, beside the recipe or here."""
    evaluate_sha256: Annotated[Text | None, hash_of("evaluate_measurement", _script_sha256)] = Field(
        default=None, validate_default=True
    )
    """SHA-256 of the script; null: filled in, or a measurement of the hub. Any other script is refused."""
    evaluate_config: Text | None = None
    """Its configuration: a language of `honest`, or the model that `toxicity` is to use; null: its own."""
    evaluate_revision: Text | None = None
    """Branch, tag or commit of a measurement of the hub; null: that of the installed library."""
    evaluate_result: Text | None = None
    """The place of the number in what it computes: `toxicity`, or `regard.negative`; null: the measurement's name."""
    evaluate_argument: Text = "predictions"
    """The argument that takes the texts: `data` of `regard`."""
    evaluate_words: bool = False
    """Give each text as a list of its words, as `honest` takes them."""
    evaluate_complement: bool = False
    """The number says how harmless a text is: the score is 1 less the number."""

    def load(self, place: Place, *, as_reward: bool = False) -> Measurement:
        """Imports the library, and loads the measurement."""
        import evaluate

        assert self.evaluate_measurement is not None
        key = f"{place.where}.evaluate_measurement"
        script = script_of(self.evaluate_measurement)
        if script is not None and self.evaluate_sha256 not in (None, file_sha256(script)):
            raise ScorerError(f"{key}: {script}: the script has changed since the recipe was read; start the run again")
        try:
            module = evaluate.load(
                str(script or self.evaluate_measurement),
                self.evaluate_config,
                module_type="measurement",
                revision=self.evaluate_revision,
                keep_in_memory=True,
            )
        except Exception as error:  # what a script raises when it is loaded has no common type
            first = str(error).strip().partition("\n")[0]
            raise ScorerError(
                f"{key}: got {self.evaluate_measurement!r}, expected a measurement's script beside the recipe or its "
                f"name on the hub; it cannot be loaded: {type(error).__name__}: {first}"
            ) from error
        return Measurement(
            module,
            name=place.name,
            where=place.where,
            result=self.evaluate_result or Path(self.evaluate_measurement).stem,
            given_as=self.evaluate_argument,
            as_words=self.evaluate_words,
            complement=self.evaluate_complement != as_reward,
            reads_prompt=place.text != "completion" and not as_reward,
            joint=place.joint,
        )


class MeasurementReward(MeasurementJudge):
    """The same as a reward: 1 less the harm of the completion."""

    def load(self, place: Place, *, as_reward: bool = True) -> Measurement:
        """Imports the library, and loads the measurement."""
        return super().load(place, as_reward=as_reward)


plugin = ScorerKind(reward=MeasurementReward, judge=MeasurementJudge)
