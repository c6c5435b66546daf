"""`alignbench run` in two processes, as torchrun and accelerate launch start them."""

import json

import pytest

from alignbench.pipeline import execute
from alignbench.recipe.loading import load
from alignbench.results.frames import load_completions, load_train_log
from alignbench.results.reader import read_points


def test_two_processes_write_the_runs_of_one(in_two_processes, recipe_folder):
    """Log, curve and evaluated completions of one process; a method that cannot take part is refused at its turn."""
    recipe = json.loads((recipe_folder / "ppo.yaml").read_text())
    recipe["method"]["sharding"] = "full"
    (recipe_folder / "sharded.yaml").write_text(json.dumps({**recipe, "name": "sharded"}))
    method = {"name": "quark", "batch_size": 16, "mini_batch_size": 8, "completion_tokens": [4, 6], "epochs": 1}
    (recipe_folder / "quark.yaml").write_text(json.dumps({**recipe, "name": "quark", "method": method}))
    curve = "evaluation.evaluate_every=32"
    alone = execute.run(load(["ppo.yaml", "quark.yaml"], [curve]), recipe_folder / "one")
    assert [one.state for one in alone] == ["done", "done"]
    names = [f"{name}.yaml" for name in ("base", "ppo", "sharded", "quark", "dpo")]
    codes, said = in_two_processes("-m", "alignbench", "run", *names, "--results", "two", "--set", curve)
    assert codes == [1, 1], "\n".join(said)
    for text in said:
        assert "dpo trains in one process, and 2 were started" in text
        assert "1 of 5 runs failed" in text
    for name, of_one in (("ppo", "ppo"), ("sharded", "ppo"), ("quark", "quark")):
        expected = load_train_log(recipe_folder / "one" / of_one)
        texts = load_completions(recipe_folder / "one" / of_one)["completion"].tolist()
        points = read_points(recipe_folder / "one" / of_one / "seed0")
        assert len(points) > 1
        run = recipe_folder / "two" / name / "seed0"
        log = load_train_log(run)
        numbers = [c for c in expected if expected[c].dtype.kind == "f" and not c.startswith(("time/", "memory/"))]
        for column in numbers:
            wanted = expected[column].to_numpy()
            assert log[column].to_numpy() == pytest.approx(wanted, rel=1e-3, abs=1e-4, nan_ok=True), column
        assert load_completions(run)["completion"].tolist() == texts
        assert [point.prompt_values[1].keys() for point in read_points(run)] == [
            p.prompt_values[1].keys() for p in points
        ]
        assert json.loads((run / "environment.json").read_text())["n_processes"] == 2
        costs = [
            json.loads((recipe_folder / path).read_text())["cost"]
            for path in (run / "status.json", f"one/{of_one}/seed0/status.json")
        ]
        for count in ("training_completions", "generated_tokens", "reward_calls", "optimizer_steps", "trained_tokens"):
            assert costs[0][count] == costs[1][count]
        assert (run / "artifact" / ("base" if name == "quark" else ".") / "model.safetensors").is_file()
        assert not list(run.parent.glob(".*partial"))


COUNTS = """
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

from alignbench import cli, plugins
from alignbench.methods.base import Facts


@dataclass(frozen=True)
class Counts:
    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal"}), learns_from=frozenset({"labelled_completions"}), several_processes=True
    )

    def train(self, data, run):
        from alignbench.runtime import distributed
        labelled = [one.completion.text for one in data.labelled_completions]
        said = f"{len(data.prompts)} {len(data.validation_prompts)} {labelled}"
        Path(f"seen{distributed.rank()}").write_text(f"{said} {data.drawn_completions}")
        return run.policy


entries = [EntryPoint("counts", "__main__:Counts", "alignbench.methods")]
plugins.entry_points = lambda group: entries if group == "alignbench.methods" else []
cli.main(["run", *sys.argv[1:]])
"""


def test_all_processes_learn_from_the_same_data(in_two_processes, recipe_folder):
    """What the first one alone draws included."""
    (recipe_folder / "counts.py").write_text(COUNTS)
    recipe = json.loads((recipe_folder / "dpo.yaml").read_text()) | {"name": "counts", "method": {"name": "counts"}}
    (recipe_folder / "counts.yaml").write_text(json.dumps(recipe))
    codes, said = in_two_processes("counts.py", "counts.yaml")
    assert codes == [0, 0], "\n".join(said)
    first, second = ((recipe_folder / f"seen{rank}").read_text() for rank in (0, 1))
    assert first == second
    assert int(first.split()[-1]) > 0
