"""What the sections say: published rows apart, conditions, and recipes that run again to the same runs."""

import re
from pathlib import Path

import pytest

from alignbench.comparison.compare import compare
from alignbench.errors import UsageError
from alignbench.report.blocks import Code, Fold, Table
from alignbench.report.html import page
from alignbench.report.material import Material, gather, letters
from alignbench.report.published import TABLES, published
from alignbench.report.report import Wanted, report
from alignbench.report.sections.conditions import conditions
from alignbench.report.sections.published import published_rows
from alignbench.report.sections.reproduction import reproduction
from alignbench.results.schema import Upstream
from alignbench.statistics import from_summary

GOLDEN = Path(__file__).parents[1] / "golden" / "results" / "v1_november"


@pytest.fixture(scope="module")
def golden():
    return gather(GOLDEN, compare(GOLDEN))[0]


def section(made, name):
    return next(one for one in made.sections if one.name == name)


def test_sections_in_their_order(made, results):
    names = [one.name for one in made.sections]
    assert names == ["answer", "pictures", "texts", "flags", "tables", "conditions", "reproduction"]
    with_published = report(results, Wanted(published=published("trl-detox-v1")))
    assert [one.name for one in with_published.sections][-3:] == ["published", "conditions", "reproduction"]


def test_published_rows_are_apart_and_of_no_protocol_that_is_quite_ours(golden, material):
    found = published_rows(golden.comparison.protocol, published("trl-detox-v1"))
    about, table = found.blocks[1:]
    assert [row.cells[0].text for row in table.rows] == [
        "EleutherAI/gpt-neo-125M", "EleutherAI/gpt-neo-2.7B", "EleutherAI/gpt-j-6B",
    ]  # fmt: skip
    assert [cell.text for cell in table.rows[2].cells[1:]] == ["0.1699", "0.3033", "0.1510", "0.2798", "400"]
    assert [line.partition(" ")[0] for line in about.lines] == ["Source:", "Scorer:", "Same"]
    assert about.lines[2].startswith("Same protocol? No: this page is under quickstart-v1*; 402 texts, not 400")
    ours = published_rows(material.comparison.protocol, published("trl-detox-v1")).blocks[1]  # the same name, and yet
    assert ours.lines[2].startswith("Same protocol? No: 402 texts, not 400")
    assert not table.is_sortable


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_published_row_has_a_number_for_each_column(table):
    assert all(len(row.numbers) == len(table.columns) for row in table.rows)
    assert all(re.fullmatch(r"[\d.]+|-", number) for row in table.rows for number in row.numbers)


def test_published_means_give_the_verdict_that_the_documentation_quotes():
    row = published("trl-detox-v1").rows[2]
    before, after = (from_summary(*map(float, row.numbers[i : i + 2]), 400) for i in (0, 2))
    assert after.minus(before).p_value == pytest.approx(0.36, abs=0.01)


def test_a_published_table_that_is_not_there():
    with pytest.raises(UsageError, match=r"got 'rtp', expected one of trl-detox-v1, rtp-v1, dexperts-v1, challenge-v1"):
        published("rtp")


def test_the_recipes_of_the_report_run_again_to_the_same_runs(golden, tmp_path):
    """Saved as the page says, they have the hash of the runs that they were taken from."""
    from alignbench.recipe.loading import load

    found = reproduction(golden, {})
    files = {block.title: block.blocks[0].text for block in found.blocks if isinstance(block, Fold)}
    assert sorted(files) == ["base.yaml", "ppo_detox.yaml", "reward_model.yaml"]
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n", encoding="utf-8")
    commands = next(block.text for block in found.blocks if isinstance(block, Code)).splitlines()
    hashes = {(run.status.recipe, run.status.seed): run.status.run_hash for run in golden.runs}
    again = {}
    for command in commands:
        words = command.split()
        if words[1] == "run":
            names = [str(tmp_path / word) for word in words if word.endswith(".yaml")]
            seeds = [int(words[i + 1]) for i, word in enumerate(words) if word == "--seed"]
            for one in load(names, (), seeds):
                again[one.recipe.name, one.recipe.seed] = one.run_hash
    assert again == hashes
    assert commands[-1] == "alignbench report results -o report.html"


def test_what_a_run_was_built_on_and_is_not_there_is_named(material):
    found = reproduction(material, {"baseline": "untrained"})
    (items,) = [block.lines for block in found.blocks if hasattr(block, "lines")]
    assert items == ["sft was built on, and is not among these runs: its recipe is needed too."]
    commands = next(block.text for block in found.blocks if isinstance(block, Code)).splitlines()
    assert commands == [
        "alignbench run ppo_1.yaml ppo_2.yaml untrained.yaml --seed 0 --seed 1 --results results",
        "alignbench compare results --baseline untrained",
        "alignbench report results --baseline untrained -o report.html",
    ]


def test_a_recipe_that_was_tuned_is_not_tuned_again(tmp_path, add_run):
    trials = [Upstream(recipe="ppo.trial3", seed=0, run_hash="t", role="tuning")]
    add_run(tmp_path, "untrained", {"kl": [0.1] * 12})
    add_run(tmp_path, "ppo", {"kl": [0.2] * 12}, upstream=trials)
    found = reproduction(gather(tmp_path, compare(tmp_path))[0], {})
    (items,) = [block.lines for block in found.blocks if hasattr(block, "lines")]
    assert items == ["ppo was tuned: its recipe has what the trials have selected, so that they are not run again."]


def test_what_was_skipped_is_named_without_the_folders_of_the_machine(tmp_path, add_run, begin):
    for name in ("untrained", "ppo"):
        add_run(tmp_path, name, {"kl": [0.1] * 12})
    begin(tmp_path, "dpo").release()
    made = report(tmp_path)
    title, items = section(made, "flags").blocks[-2:]
    assert (title.text, items.lines[0].split(":")[0]) == ("1 skipped:", "dpo/.seed0.partial")
    assert str(tmp_path) not in page(made)


def test_conditions_name_what_differs_and_who(results, add_run, tmp_path):
    for name, version in (("untrained", "2.6"), ("ppo", "2.7")):
        add_run(tmp_path, name, {"kl": [0.1] * 12}, environment={"packages": {"torch": version}, "python": "3.11"})
    found = conditions(gather(tmp_path, compare(tmp_path))[0])
    alike, environment = [
        {row.cells[0].text: row.cells[1].text for row in block.rows}
        for block in found.blocks
        if isinstance(block, Table)
    ]
    assert alike["decoding.temperature"] == "1.0"
    assert alike["protocol"] == "trl-detox-v1"
    assert environment == {"packages.torch": "2.7 in ppo/seed0; 2.6 in untrained/seed0", "python": "3.11"}


def test_each_base_model_has_parts_of_its_own(on_two_models):
    names = [one.name for one in on_two_models.sections]
    own = [f"{place}-{part}" for place in (1, 2) for part in ("answer", "pictures", "texts")]
    again = [f"{place}-{part}" for place in (1, 2) for part in ("conditions", "reproduction")]
    assert names == ["models", *own, "flags", "tables", *again]
    assert on_two_models.title == "alignbench: 2 base models under trl-detox-v1"
    assert section(on_two_models, "1-answer").title == "large: Answer"
    pictures = [figure.picture.name for figure in on_two_models.figures]
    assert len(set(pictures)) == len(pictures) == 18
    assert "alignbench run ppo_1.yaml" in section(on_two_models, "2-reproduction").blocks[1].text
    files = [block.title for block in section(on_two_models, "2-reproduction").blocks if isinstance(block, Fold)]
    assert files == ["ppo_1.yaml", "ppo_2.yaml", "untrained.yaml"]


@pytest.mark.parametrize(("metric", "names"), [("kl", 4), ("toxicity_mean@reward", 6), ("perplexity", 6)])
def test_it_can_be_about_another_metric(results, metric, names):
    made = report(results, Wanted(metric=metric))
    table = next(block for block in section(made, "answer").blocks if isinstance(block, Table))
    assert table.header[1] == metric
    assert f"alignbench report results --metric {metric} -o report.html" in section(made, "reproduction").blocks[1].text
    assert made.figures[0].picture.title.endswith(metric) or "own classifier" in made.figures[0].picture.title
    assert len({figure.picture.name for figure in made.figures}) == len(made.figures) >= names


def test_letters():
    assert [letters(place) for place in (0, 25, 26, 51, 52, 701, 702)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]


def test_golden_results_make_a_whole_report(golden):
    assert isinstance(golden, Material)
    made = report(GOLDEN)
    table = next(block for block in section(made, "answer").blocks if isinstance(block, Table))
    assert "FLOPs per answer" not in table.header  # these runs are older than that, and no row has flags
    assert table.header[-1] == "training, s"
    assert "decides nothing" in section(made, "answer").blocks[0].text
    assert {"frontier", "costs", "curve-budget", "hacking"} <= {figure.picture.name for figure in made.figures}
