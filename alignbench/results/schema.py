"""What the JSON files of a run directory hold, as types: the schema that docs/results.md describes.

A new key belongs here, in `upgrade` with what its absence says, and in docs/results.md; none is renamed or taken away.
The types are the files' own, so that no change of the evaluator changes them in silence. Only `Cost` is the one that
runs are charged in: its fields are the keys of status.json and events.jsonl alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from alignbench.errors import ResultsError
from alignbench.records import Cost, Direction, HackingWord, MetricKey, MetricValue
from alignbench.results.json_values import plain
from alignbench.results.measurement import StoredMeasurement
from alignbench.results.traits import Traits
from datasets_prep.text_forms import TEXT_FORM

SCHEMA_VERSION = 1

State = Literal["running", "failed", "complete"]
Kind = Literal["policy", "reward_model"]
Inputs = Mapping[str, Mapping[str, str]]
"""What a run reads beside its recipe, by the key that names it: files or facts with the hash of each."""
PROMPTS_AS_ENCODED = "prompts as encoded"
"""Of the inputs under `policy.model`: what the tokenizer and the chat template make of some texts."""
SNAPSHOT = "snapshot"
"""Of the inputs under a hub model: its commit. Of one commit files arrive as they are fetched, and none changes."""
_Record = TypeVar("_Record", bound="Record")


class Part(BaseModel):
    """A part of a file. Keys that a later release of the same schema added are read past.

    Written from an object that has attributes of these names, whatever else it has.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, from_attributes=True, protected_namespaces=())


class Record(Part):
    """A JSON file of a run."""

    schema_version: int = SCHEMA_VERSION


class StoredMetric(Part):
    """One metric of one run; docs/results.md says what each key means."""

    metric: str
    scorer: str | None
    value: float | None
    ci_low: float | None
    ci_high: float | None
    direction: Direction
    n_scored: int
    n_unscored: int
    reason: str | None
    replicates: tuple[float | None, ...] | None
    group_sizes: tuple[int, ...] | None
    n_cut: int

    @property
    def key(self) -> MetricKey:
        """Metric and scorer."""
        return MetricKey(self.metric, self.scorer)

    @classmethod
    def of(cls, metric: MetricValue) -> Self:
        """Returns a metric as JSON can hold it; a value that is not finite becomes None, with a reason."""
        values = {name: plain(getattr(metric, name)) for name in cls.model_fields}
        if values["value"] is None and values["reason"] is None:
            values["reason"] = "the value was not a finite number"
        return cls(**values)


class StoredDiagnosis(Part):
    """Whether training has learned to please its reward."""

    word: HackingWord
    onset_completions: int | None
    """Completions of the budget after which reward and held-out judges part; None where they do not."""
    evidence: tuple[str, ...]
    """Sentences with the numbers."""


class StoredRows(Part):
    """What became of the rows of the source that an evaluation's prompts come from."""

    n_rows: int
    left_out: dict[str, int]
    """Rows that serve in no split, by the reason in words."""
    longest_prompt: int | None
    """In tokens, what the policy's context allows; None where it sets no limit."""


class StoredAnswerCost(Part):
    """What a policy spends on one answer, on average over the completions of an evaluation."""

    generated_tokens: float
    flops: float
    reward_calls: float = 0.0


def _whole(value: object) -> object:
    """ValueError where a cost lacks one of its fields: it is not 0 for that."""
    lacks = Cost.__dataclass_fields__.keys() - value.keys() if isinstance(value, Mapping) else ()
    if lacks:
        raise ValueError(f"lacks {', '.join(sorted(lacks))}")
    return value


StoredCost = Annotated[Cost, BeforeValidator(_whole)]


class Upstream(Part):
    """A run that this run was built on."""

    recipe: str
    seed: int
    run_hash: str
    role: str
    """What it gave: `reward`, `policy`, or `tuning` for a trial of the run's sweep."""


class StoredRecipe(Part):
    """The resolved recipe once more: to read it as YAML takes a hundred times as long."""

    sha256: str
    """Of the file that it was read from; one that has been changed since then is read again."""
    settings: dict[str, Any]


class RunStatus(Record):
    """status.json: who the run is, how far it came, what it cost."""

    alignbench: str
    """Version of the package that wrote the run."""
    state: State
    kind: Kind
    recipe: str
    method: str
    seed: int
    run_hash: str
    """Hash of the settings that are the run's identity."""
    resolved: StoredRecipe | None = None
    """Null in runs from before it was stored here."""
    inputs: dict[str, dict[str, str]] = {}
    """What the run reads beside its recipe; empty in runs from before it was recorded."""
    files: dict[str, int] | None = None
    """Of a complete run: its trained model and final evaluations, with their sizes in bytes; null where not listed."""
    upstream: tuple[Upstream, ...] = ()
    cost: StoredCost = Cost()
    """Training itself."""
    upstream_cost: StoredCost = Cost()
    """Charged from upstream runs, from building pairs and from tuning: the sum of `upstream_pieces`."""
    upstream_pieces: dict[str, StoredCost] = {}
    """What `upstream_cost` is the sum of, each once: `run HASH`, `pairs HASH`, and `evaluation HASH` of a trial."""
    evaluation_cost: StoredCost = Cost()
    train_reward: float | None = None
    """Mean reward over the last tenth of training."""
    trained_on: tuple[str, ...] = ()
    """Hashes of the weights and files that gave rewards or labels, to this run and to those it was built on."""
    reward_hacking: StoredDiagnosis | None = None
    """What the evaluations along training say; None where that was not measured."""
    reward_hacking_reason: str | None = None
    """Why it was not measured."""
    error: str | None = None
    started: str
    finished: str | None = None

    @property
    def is_interrupted(self) -> bool:
        """True where Ctrl-C ended the run, which is stored as an error of that name: nothing is wrong with it."""
        return self.state == "failed" and self.error == KeyboardInterrupt.__name__


class EvaluationFile(Record):
    """metrics.json: what was measured under one protocol."""

    protocol: str
    step: int | None = None
    """Of an evaluation along training: the training step; None after training."""
    completions: int | None = None
    """Of an evaluation along training: how much of the budget was spent."""
    n_prompts: int
    samples_per_prompt: int
    prompt_rows: StoredRows | None = None
    """What became of the rows of their source; None along training, and in runs from before it was counted."""
    comparability: dict[str, Any]
    """What must be equal between runs in one table."""
    scorer_sources: dict[str, tuple[str, ...]] = {}
    """Hashes of the weights and files of each scorer, whatever is read from them."""
    metrics: tuple[StoredMetric, ...]
    prompt_groups: dict[str, str] = {}
    """Group by prompt id, of the prompts that are variants of one text and count as one witness."""
    answer_cost: StoredAnswerCost | None = None
    """What the policy spends on an answer; None of a reward model, and in runs from before it was counted."""
    traits: dict[str, Traits] = {}
    """By name, of the metrics that installed packages brought: such a package may not be there when this is read."""
    measurement: StoredMeasurement | None = None
    """Null of what the run itself has measured."""

    @model_validator(mode="after")
    def _metrics_and_each_once(self) -> Self:
        if not self.metrics:
            raise ValueError("no metric at all")
        names = [(one.metric, one.scorer) for one in self.metrics]
        if len(set(names)) < len(names):
            raise ValueError("a metric occurs twice")
        return self

    @property
    def number(self) -> int:
        """Of the measurement: 1 for that of the run itself."""
        return 1 if self.measurement is None else self.measurement.number

    def traits_of(self, metric: str) -> Traits:
        """Returns what tables and tests go by, as stored or as the metric of this name has it."""
        return self.traits.get(metric) or Traits.of(metric)


class PromptsFile(Record):
    """prompts.json: which texts the run knows, as hashes of the whole text before any cutting."""

    seen: tuple[str, ...]
    """Those that training could see, validation included; ascending."""
    heldout: dict[str, str]
    """Those that it was evaluated on, and the id of each prompt."""
    statistics: dict[str, int | float] = {}
    """What became of the rows of the data: read, unpacked, left out and why, in each split."""
    text_form: int = 1
    """Number of the definition by which texts are the same (`text_forms.TEXT_FORM`); 1 in files from before it."""

    @classmethod
    def of(cls, seen: Iterable[str], heldout: Mapping[str, str], counts: Mapping[str, float]) -> Self:
        """Returns the record for hashes of this build, sorted, and `PreparedData.statistics`."""
        return cls(
            seen=tuple(sorted(set(seen))),
            heldout=dict(sorted(heldout.items())),
            statistics=dict(counts),
            text_form=TEXT_FORM,
        )


class NewerSchemaError(ResultsError):
    """A file that a newer release wrote."""


class Trial(Part):
    """One setting that a sweep has tried."""

    recipe: str
    seed: int
    run_hash: str
    settings: dict[str, Any]
    """Value by key, such as `method.beta`."""
    value: float | None
    """The criterion on validation prompts; null where it was not measured."""
    reason: str | None = None
    """Why it could not be selected; null where it could."""
    measured: dict[str, float | None] = {}
    """What the limits of the criterion look at."""


class TuningFile(Record):
    """tuning.json: how a sweep came to its choice."""

    suite: str
    recipe: str
    identity: str
    """Hash of criterion and trials: another sweep has another."""
    criterion: dict[str, Any]
    direction: str
    n_points: int
    """Size of the grid that the trials were drawn from."""
    trials: tuple[Trial, ...]
    selected: int
    """Position in `trials`."""
    pieces: dict[str, StoredCost]
    """What the trials cost, with pairs and upstream runs, as in `RunStatus.upstream_pieces`."""

    @property
    def upstream(self) -> tuple[Upstream, ...]:
        """The trials, as the selected run lists them."""
        return tuple(
            Upstream(recipe=trial.recipe, seed=trial.seed, run_hash=trial.run_hash, role="tuning")
            for trial in self.trials
        )


class UnreadableError(ResultsError):
    """A file of a run that is missing or is not what it should be; the run is skipped."""


_ADDED: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("state", "run_hash"): {
        **{"resolved": None, "inputs": {}, "files": None, "upstream_pieces": {}, "trained_on": ()},
        **{"reward_hacking": None, "reward_hacking_reason": None},
    },
    ("comparability", "metrics"): {
        **{"step": None, "completions": None, "prompt_rows": None, "scorer_sources": {}, "prompt_groups": {}},
        **{"answer_cost": None, "traits": {}, "measurement": None},
    },
    ("seen", "heldout"): {"statistics": {}, "text_form": 1},
}
"""Keys that a file had not from the start and what their absence says, by keys that tell which file it is."""
_ADDED_TO_METRICS = {"group_sizes": None, "n_cut": 0}
_ADDED_TO_COSTS = dict.fromkeys(
    (
        *("prompts_seen", "trained_tokens", "generation_flops", "forward_flops", "backward_flops", "device_seconds"),
        *("judge_tokens", "money"),
    ),
    0,
)


def upgrade(old: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a file of any earlier shape holds, in the shape of today.

    Keys that were added since are filled in. What was always written and is not there is damage, and stays missing.
    """
    new = dict(old)
    if "charges" in old:  # as the pieces were called at first, by labels of runs
        runs = [*old.get("upstream", ()), *old.get("trials", ())]
        names = {f"{run['recipe']}/seed{run['seed']}": f"run {run['run_hash']}" for run in runs}
        pieces = {names.get(name, name.replace("pairs-", "pairs ")): cost for name, cost in old["charges"].items()}
        new["upstream_pieces" if "state" in old else "pieces"] = pieces
    for told_by, added in _ADDED.items():
        if any(key in old for key in told_by):
            new = {**added, **new}
    for name in new.keys() & {"cost", "upstream_cost", "evaluation_cost"}:
        new[name] = _filled(new[name], _ADDED_TO_COSTS)
    for name in new.keys() & {"upstream_pieces", "pieces"}:
        new[name] = {piece: _filled(cost, _ADDED_TO_COSTS) for piece, cost in new[name].items()}
    if "metrics" in new:
        new["metrics"] = [_filled(metric, _ADDED_TO_METRICS) for metric in new["metrics"]]
    return new


def _filled(value: Any, added: Mapping[str, Any]) -> Any:
    return {**added, **value} if isinstance(value, Mapping) else value


def read_record(path: Path, kind: type[_Record]) -> _Record:
    """Reads a JSON file of a run; NewerSchemaError of a newer release, UnreadableError if missing or damaged."""
    return parse_record(read_text(path), path, kind)


def read_text(path: Path) -> str:
    """Reads a file of a run; UnreadableError where it is missing or no text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UnreadableError(f"no {path.name}") from None
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{path.name} cannot be read: {error.__class__.__name__}: {error}") from None


def parse_record(text: str, path: Path, kind: type[_Record]) -> _Record:
    """Does what `read_record` does, for the text of the file at a path."""
    try:
        content = json.loads(text, parse_constant=_refuse_number, parse_float=_finite_number)
        version = content["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnreadableError(f"{path.name} cannot be read: {error.__class__.__name__}: {error}") from None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UnreadableError(f"{path.name}: schema_version is {version!r}, which no release has written")
    if version > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{path}: schema_version is {version}, this alignbench reads up to {SCHEMA_VERSION}; "
            "upgrade alignbench, or leave this run out"
        )
    try:
        content = upgrade(content)
        if lacks := kind.model_fields.keys() - content.keys():
            raise UnreadableError(f"{path.name}: {min(lacks)}: Field required")
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"{part}." for part in first["loc"]).removesuffix(".")
        raise UnreadableError(f"{path.name}: {place + ': ' if place else ''}{first['msg']}") from None
    except (AttributeError, KeyError, TypeError) as error:
        raise UnreadableError(f"{path.name} cannot be read: {type(error).__name__}: {error}") from None


def _finite_number(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse_number(digits)


def _refuse_number(name: str) -> float:
    raise ValueError(f"{name} is no finite number")
