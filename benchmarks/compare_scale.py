"""Wall seconds and memory of comparing many runs: makes run directories, then times the commands that read them.

    python benchmarks/compare_scale.py FOLDER --bars                             # whatever has a bar, and which are met
    python benchmarks/compare_scale.py FOLDER --recipes 200 --seeds 5            # compare, ls: 1,000 runs
    python benchmarks/compare_scale.py FOLDER --recipes 60 --seeds 3 --all-pairs
    python benchmarks/compare_scale.py FOLDER --against OTHER_CHECKOUT           # the same runs, by another alignbench

The runs are written by alignbench itself, with numbers from a generator in place of what models would have said: an
untrained recipe and trained ones, two scorers, every fourth recipe with shorter completions. A FOLDER that exists is
measured as it is. One JSON line per command and round: wall and CPU seconds and the peak of resident memory of a
process of its own, and a hash of what it printed. benchmarks/README.md has the figures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from alignbench.recipe.recipe import Recipe
    from alignbench.records import EvalReport, MetricValue

Floats = NDArray[np.float64]
SCORERS = ("reward", "judge")
LOWER, HIGHER, NONE = "lower", "higher", "none"
OF_TEXTS = {
    **{"distinct_1": HIGHER, "distinct_2": HIGHER, "distinct_3": HIGHER, "completion_tokens": NONE},
    **{"repetition_rate": LOWER, "rep_4": LOWER, "copy_rate": LOWER, "empty_rate": LOWER, "truncated_rate": NONE},
    **{"refusal_rate": NONE, "perplexity": LOWER, "kl": NONE, "kl_k3": NONE, "kl_exact": NONE},
}
"""Means over prompts that no scorer gives, with their directions."""
OF_CORPUS = {
    **{"corpus_distinct_1": HIGHER, "corpus_distinct_2": HIGHER, "corpus_distinct_3": HIGHER, "self_bleu": LOWER},
    **{"neutral_perplexity": LOWER, "kl_per_token": NONE, "kl_k3_per_token": NONE, "kl_exact_per_token": NONE},
}
N_SEEN = 3000
"""Texts that training could see."""
BARS: tuple[tuple[tuple[int, int], str, float], ...] = (
    ((200, 5), "compare", 15),
    ((200, 5), "ls", 3),
    ((60, 3), "compare --all-pairs", 30),
)
"""Recipes and seeds, a command, and the wall seconds that it may take on two idle cores."""
MOST_MB = 1000
"""Of resident memory that any of them may take."""


@dataclass(frozen=True)
class Answers:
    """What a policy would have answered; n prompts, k completions of each."""

    scores: dict[str, Floats]
    """(n, k), by scorer."""
    lengths: NDArray[np.int64]
    """(n, k), tokens."""

    @classmethod
    def draw(cls, rng: np.random.Generator, prompts: Floats, k: int, gain: float, shorter: float) -> Answers:
        """Draws around what each prompt provokes, (n,), less a gain in log odds."""
        odds = prompts[:, None] - gain + rng.normal(0, 0.8, (len(prompts), k))
        scores = {one: 1 / (1 + np.exp(-odds - rng.normal(0, 0.3, odds.shape))) for one in SCORERS}
        return cls(scores, 1 + rng.poisson(19 * shorter, odds.shape))

    def columns(self, rng: np.random.Generator) -> dict[str, Floats]:
        """Returns a value per prompt of every metric that is a mean over prompts."""
        found: dict[str, Floats] = {}
        for scorer, scores in self.scores.items():
            toxic = (scores >= 0.5).astype(float)
            found[f"toxicity_mean@{scorer}"], found[f"toxicity_rate@{scorer}"] = scores.mean(axis=1), toxic.mean(axis=1)
            found[f"expected_max_toxicity@{scorer}"] = scores.max(axis=1)
            found[f"toxicity_probability@{scorer}"] = toxic.max(axis=1)
        for name in OF_TEXTS:
            found[name] = rng.beta(2, 8, len(self.lengths))
        return found | {"completion_tokens": self.lengths.mean(axis=1), "rep_4": np.zeros(len(self.lengths))}

    def frame(self, ids: list[str]) -> pd.DataFrame:
        """Returns the completions as they are stored."""
        import pandas as pd

        n, k = self.lengths.shape
        return pd.DataFrame(
            {
                "prompt_id": np.repeat(ids, k),
                "prompt": np.repeat(
                    [f"The text of prompt {one}, as a person could have written it," for one in ids], k
                ),
                "sample": np.tile(np.arange(k), n),
                "completion": [" ".join(["word"] * length) for length in self.lengths.ravel()],
                "n_tokens": self.lengths.ravel(),
                "finish_reason": "eos",
                **{f"toxicity@{one}": scores.ravel() for one, scores in self.scores.items()},
                "logprob": -2.5 * self.lengths.ravel(),
                "reference_logprob": -2.7 * self.lengths.ravel(),
                "token_ids": [list(range(length)) for length in self.lengths.ravel()],
            }
        )


def evaluated(rng: np.random.Generator, answers: Answers, ids: list[str]) -> EvalReport:
    """What the evaluator would have measured."""
    import pandas as pd

    from alignbench.records import AnswerCost, EvalReport

    columns = answers.columns(rng)
    values = pd.DataFrame(columns, index=pd.Index(ids, name="prompt_id"))
    metrics = [_mean(name, column) for name, column in columns.items()] + list(_of_corpus(rng))
    cost = AnswerCost(float(answers.lengths.mean()), 1e9)
    return EvalReport("trl-detox-v1", tuple(metrics), values, answers.frame(ids), answer_cost=cost)


def _mean(name: str, column: Floats) -> MetricValue:
    from alignbench.records import MetricKey, MetricValue

    key, mean = MetricKey.parse(name), float(column.mean())
    value = float(np.exp(mean)) if name == "perplexity" else mean
    direction: Any = OF_TEXTS.get(name, LOWER)
    return MetricValue(key.metric, key.scorer, value, None, None, direction, len(column), 0, reason="no interval")


def _of_corpus(rng: np.random.Generator) -> Iterator[MetricValue]:
    from alignbench.records import MetricValue

    for name, scorer, direction in (
        *(("toxicity_std", scorer, NONE) for scorer in SCORERS),
        *((name, None, direction) for name, direction in OF_CORPUS.items()),
    ):
        value = float(rng.uniform(0.4, 0.6))
        left = tuple((value + rng.normal(0, 0.01, 20)).tolist())
        count: Any = direction
        yield MetricValue(name, scorer, value, None, None, count, 400, 0, None, left, (20,) * 20)


def make(folder: Path, work: argparse.Namespace) -> None:
    """Writes the runs: one untrained recipe, and trained ones after it."""
    from alignbench.recipe.loading import load
    from alignbench.runtime.device import choose_device, describe_environment

    environment = describe_environment(choose_device("cpu"))
    base, trained = load(["base"])[0].recipe, load(["ppo_detox"])[0].recipe
    prompts = np.random.default_rng(work.prompts).normal(-1.0, 1.2, work.prompts)
    for place in range(work.recipes):
        for seed in range(work.seeds):
            recipe = trained if place else base
            name = f"{recipe.name}_{place:03}" if place else recipe.name
            budget = recipe.budget.model_copy(update={"completions": 4096})
            recipe = recipe.model_copy(update={"name": name, "seed": seed, "budget": budget})
            rng = np.random.default_rng((work.prompts, place, seed))
            gain = (place * 7 % 40) / 40 + rng.normal(0, 0.1) if place else 0.0
            answers = Answers.draw(rng, prompts, work.samples, gain, 0.6 if place % 4 == 3 else 1.0)
            write(folder, recipe, rng, answers, environment)


def write(
    folder: Path, recipe: Recipe, rng: np.random.Generator, answers: Answers, environment: dict[str, Any]
) -> None:
    """Writes one complete run."""
    from alignbench.records import Cost, fingerprint
    from alignbench.results.writer import RunDirectory

    ids = [f"prompt-{place:05}" for place in range(len(answers.lengths))]
    heldout = {fingerprint(one): one for one in ids}
    comparability = {
        **{"protocol": "trl-detox-v1", "samples_per_prompt": answers.lengths.shape[1], "n_prompts": len(ids)},
        **{"heldout_prompts": fingerprint(ids), "scorers": {one: fingerprint(one) for one in SCORERS}},
        **{"decoding": {"max_new_tokens": 30, "temperature": 1.0, "top_k": 0, "top_p": 1.0}},
        **{"toxicity_threshold": 0.5, "threshold_inclusive": True, "hardware_class": "cpu-x86_64"},
    }
    run = RunDirectory.begin(
        folder,
        recipe=recipe.name,
        method=recipe.method_name,
        seed=recipe.seed,
        run_hash=recipe.run_hash({}),
        resolved_recipe=recipe.to_yaml(),
        environment=environment,
        inputs={"policy.model": {"config.json": fingerprint("config"), "tokenizer.json": fingerprint("tokenizer")}},
    )
    with run:
        run.write_prompts((fingerprint(place) for place in range(N_SEEN)), heldout)
        run.write_evaluation(evaluated(rng, answers, ids), comparability, {one: (one,) for one in SCORERS})
        spent = Cost(wall_seconds=float(rng.uniform(50, 60)), training_completions=4096 if recipe.seed else 4100)
        run.complete(cost=spent, train_reward=float(rng.normal()))


def measured(arguments: list[str], checkout: Path) -> dict[str, Any]:
    """Runs one command of alignbench in a process of its own, and returns what it took."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    start = time.perf_counter()
    command = [sys.executable, "-m", "alignbench", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=checkout)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}")
    return {
        "wall_s": round(wall, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss / 1024),
        "printed": hashlib.sha256(printed).hexdigest()[:16],
    }


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="where the runs are, or are made")
    arguments.add_argument("--recipes", type=int, default=200)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--prompts", type=int, default=400)
    arguments.add_argument("--samples", type=int, default=4, help="completions of every prompt")
    arguments.add_argument("--bars", action="store_true", help="measure whatever has a bar, in folders below this one")
    arguments.add_argument("--all-pairs", action="store_true", help="measure `compare --all-pairs` alone")
    arguments.add_argument("--format", default="table", help="that `compare` prints")
    arguments.add_argument("--rounds", type=int, default=1)
    arguments.add_argument("--against", type=Path, action="append", default=[], help="another checkout of alignbench")
    return arguments


def require_runs(folder: Path, work: argparse.Namespace) -> int:
    """Makes the runs where they are not there, and returns how many there are."""
    if not folder.exists():  # in a process of its own: a command begins with the memory of the one that starts it
        writer = multiprocessing.Process(target=make, args=(folder, work))
        writer.start()
        writer.join()
    return sum(1 for _ in folder.glob("*/seed*"))


def measure_bars(work: argparse.Namespace, here: Path) -> None:
    """Measures whatever has a bar, and prints whether it is met."""
    for (recipes, seeds), command, most_s in BARS:
        folder = work.folder.resolve() / f"{recipes}x{seeds}"
        sizes = argparse.Namespace(**vars(work) | {"recipes": recipes, "seeds": seeds})
        said = {"command": command, "runs": require_runs(folder, sizes), "bar_s": most_s, "bar_mb": MOST_MB}
        for _ in range(work.rounds):
            found = measured([*command.split(), str(folder)], here)
            is_met = found["wall_s"] <= most_s and found["peak_mb"] <= MOST_MB
            print(json.dumps(said | found | {"met": is_met}), flush=True)


def main() -> None:
    """Makes the runs where they are not there, measures, and prints."""
    work = parser().parse_args()
    here, folder = Path(__file__).resolve().parents[1], work.folder.resolve()
    if work.bars:
        measure_bars(work, here)
        return
    n_runs = require_runs(folder, work)
    compare = ["compare", "--format", work.format]
    commands = [[*compare, "--all-pairs"]] if work.all_pairs else [compare, ["ls"]]
    for _ in range(work.rounds):
        for command in commands:
            for checkout in (here, *work.against):
                said = {"command": " ".join(command), "runs": n_runs, "checkout": checkout.name}
                print(json.dumps(said | measured([*command, str(folder)], checkout)), flush=True)


if __name__ == "__main__":
    main()
