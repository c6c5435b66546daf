"""What must not move without a word: `python tests/golden/record.py` records it, `test_golden.py` compares.

`python tests/golden/record.py --results NAME` trains, and makes another folder of stored results, `results/NAME`; those
of earlier versions stay, so that reading them is tested for ever.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["COLUMNS"] = "120"
FOLDER = Path(__file__).parent
RECORDED, RESULTS = FOLDER / "recorded", FOLDER / "results"
FRAMES = (
    *("load_results", "load_metrics", "load_curves", "load_completions", "load_divergence", "load_train_log"),
    *("load_train_completions", "load_events"),
)


def files() -> dict[str, str]:
    """Everything that is recorded, by the name of its file."""
    return {**recipes(), **command_line(), "names.json": names(), **scorers(), **draws(), **stored_results()}


def recipes() -> dict[str, str]:
    """The resolved form of every recipe that is shipped, alone and in suites, and the identity of its run."""
    from alignbench.recipe.layers import shipped_names
    from alignbench.recipe.loading import load

    found, identities = {}, {}
    for name in shipped_names():
        for loaded in load([name]):
            recipe = loaded.recipe
            found[f"recipes/{name.replace('/', '.')}/{recipe.name}.seed{recipe.seed}.yaml"] = recipe.to_yaml()
            identities[f"{name}/{recipe.name}/seed{recipe.seed}"] = loaded.run_hash
    return {**found, "recipes/identities.json": _json(identities)}


def command_line() -> dict[str, str]:
    """What `--help` says of every verb, and what the verbs that train nothing say of what is shipped."""
    from alignbench.cli import main
    from alignbench.methods.registry import known_methods

    found = {f"help/{verb}.txt": _said(verb, "--help") for verb in main.commands}
    found |= {"help/alignbench.txt": _said("--help")}
    found |= {"methods/all.txt": _said("methods")}
    found |= {f"methods/{name}.txt": _said("methods", name) for name in known_methods()}
    found["dry_run.txt"] = _said("run", "quickstart", "--dry-run", "--results", "nowhere")
    found["check.txt"] = _said("check", "quickstart", "quickstart_tuned")
    return found


def _said(*arguments: str) -> str:
    from click.testing import CliRunner

    from alignbench.cli import main

    result = CliRunner().invoke(main, arguments, prog_name="alignbench", terminal_width=120)
    return f"{result.output}exit code {result.exit_code}\n"


def names() -> str:
    """The public names."""
    import alignbench

    return _json(sorted(alignbench.__all__))


def scorers() -> dict[str, str]:
    """Fingerprints of scorers over files that everybody has."""
    import torch

    from alignbench.embedded import resolve
    from alignbench.scorers.function import PythonFunction
    from alignbench.scorers.lexicon import LexiconScorer
    from alignbench.scorers.reward_model import load_classifier_scorer
    from alignbench.scorers.weighted_sum import Term, WeightedSum

    def classifier(part, **options):
        return load_classifier_scorer(
            resolve(part), where="reward", revision=None, trust_remote_code=False, device=torch.device("cpu"), **options
        )

    def lexicon(**options):
        return LexiconScorer(str(FOLDER / "words.txt"), where="judge", name="words", **options)

    logit = classifier("embedded/classifier", name="reward", label="nothate", transform="logit")
    function = PythonFunction(f"{FOLDER / 'a_function.py'}:length", where="reward", name="length")
    found = {
        "logit": logit,
        "probability": classifier("embedded/judge", name="judge", label="toxic", transform="probability"),
        "both texts": classifier(
            "embedded/judge", name="judge", label="toxic", transform="logit", text="prompt_and_completion", joint=" "
        ),
        "scaled": classifier("embedded/judge", name="judge", label="toxic", transform="logit", scale=(2.0, 0.5)),
        "complement": classifier("embedded/classifier", name="r", label="nothate", transform="logit", complement=True),
        "lexicon": lexicon(),
        "lexicon share": lexicon(score="share"),
        "function": function,
        "sum": WeightedSum([Term("main", logit, 1.0), Term("length", function, -0.5)], name="reward"),
    }
    return {"fingerprints.json": _json({name: scorer.fingerprint for name, scorer in found.items()})}


def draws() -> dict[str, str]:
    """The uniform numbers that tokens are drawn by, to the bit."""
    from alignbench.models.sampling.token_draw import uniforms

    rows = [("first prompt", 0), ("first prompt", 1), ("second prompt", 0)]
    return {"draws.json": _json([[value.hex() for value in row] for row in uniforms(("golden", 0), rows, 3).tolist()])}


def stored_results() -> dict[str, str]:
    """What is said of every folder of stored results: `ls`, `compare` in every format, and the frames."""
    return {name: text for folder in sorted(RESULTS.iterdir()) for name, text in _of_results(folder.name).items()}


def _of_results(version: str) -> dict[str, str]:
    import alignbench
    from alignbench.comparison import FORMATS

    found = {}
    with _inside(RESULTS), _compared_once(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found["ls.txt"] = _said("ls", version)
        for style in FORMATS:
            found[f"compare.{style}.txt"] = _said("compare", version, "--format", style)
        found["compare.all_pairs.txt"] = _said(
            "compare", version, "--all-pairs", "--baseline", "ppo_detox", "--details"
        )
        for name in FRAMES:
            frame = getattr(alignbench, name)(version)
            columns = {column: str(dtype) for column, dtype in frame.dtypes.items()}
            rows = json.loads(frame.to_json(orient="values", double_precision=15))
            found[f"{name}.json"] = _json({"columns": columns, "rows": rows}, indent=None)
        found["warnings.json"] = _json(sorted({str(warning.message) for warning in caught}))
    return {f"{version}/{name}": text for name, text in found.items()}


@contextmanager
def _compared_once() -> Iterator[None]:
    """Has each comparison made once, however many formats it is written in."""
    from alignbench.comparison import compare as module

    plain, made = module.compare, {}

    def compare(paths: list[Path], **asked: Any) -> Any:
        key = repr((paths, sorted(asked.items())))
        if key not in made:
            made[key] = plain(paths, **asked)
        return made[key]

    module.compare = compare
    try:
        yield
    finally:
        module.compare = plain


class _inside:  # noqa: N801
    """The current folder for a while, so that no path of a machine is recorded."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.before = folder, Path.cwd()

    def __enter__(self) -> None:
        os.chdir(self.folder)

    def __exit__(self, *_: object) -> None:
        os.chdir(self.before)


def _json(value: object, indent: int | None = 1) -> str:
    return json.dumps(value, indent=indent) + "\n"


def make_results(folder: Path) -> None:
    """Trains the recipes of `small.yaml`, kills one run while it trains, and damages one afterwards."""
    suite = str(FOLDER / "small.yaml")
    command = [sys.executable, "-m", "alignbench", "run", "--results", str(folder)]
    subprocess.run([*command, suite], check=True)
    killed = subprocess.Popen([*command, suite, "--seed", "2"])
    while not _n_lines(folder / "ppo_detox/.seed2.partial/train_log.jsonl") >= 2:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    [metrics] = folder.glob("base/seed2/evaluations/*/metrics.json")
    metrics.write_text(metrics.read_text(encoding="utf-8")[:1000], encoding="utf-8")
    for weights in [*folder.rglob("artifact"), *folder.rglob("checkpoints")]:
        shutil.rmtree(weights)  # nothing that is read here is in them
    for lock in folder.rglob(".*.lock"):
        lock.unlink()


def _n_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--results"]:
        make_results(RESULTS / sys.argv[2])
    shutil.rmtree(RECORDED, ignore_errors=True)
    for name, text in files().items():
        (RECORDED / name).parent.mkdir(parents=True, exist_ok=True)
        (RECORDED / name).write_text(text, encoding="utf-8")
