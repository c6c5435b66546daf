"""What `compare` prints: no more than 40 lines for ten recipes, whatever the width, the seeds and the flags."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from alignbench.cli import main
from alignbench.comparison.columns import LETTERS
from alignbench.comparison.compare import compare
from alignbench.comparison.grid import cut, cut_name, grid, printable, titled
from alignbench.comparison.numbers import interval, short
from alignbench.comparison.page import MEANINGS, View, page
from alignbench.records import AnswerCost, Cost
from alignbench.results.schema import Upstream
from alignbench.statistics.estimate import Estimate

N = 60
LONG = "ppo_with_a_very_long_name_of_a_recipe_and_seed_of_its_own_number_"


@pytest.fixture(scope="module")
def tables(tmp_path_factory, add_run):
    """Results folders by recipes and seeds, made once: the last recipes have every kind of flag."""
    made = {}

    def get(n_recipes, n_seeds=1, flagged=True):
        if (n_recipes, n_seeds, flagged) not in made:
            folder = tmp_path_factory.mktemp("table")
            for place in range(n_recipes):
                for seed in range(n_seeds):
                    write(folder, add_run, place, seed, flagged and place == n_recipes - 1, n_recipes)
            made[n_recipes, n_seeds, flagged] = folder
        return made[n_recipes, n_seeds, flagged]

    return get


def write(folder, add_run, place, seed, is_bad, n_recipes):
    rng = np.random.default_rng((place, seed))
    base = np.random.default_rng(99).uniform(0.3, 0.7, N)
    judged = np.clip(base + (0.2 if is_bad else -0.02 * place) + rng.normal(0, 0.02, N), 0, 1)
    length = np.full(N, 8.0 if is_bad else 20.0) + rng.normal(0, 1, N)
    columns = {
        "toxicity_mean@reward": np.clip(base - 0.04 * place + rng.normal(0, 0.02, N), 0, 1),
        "toxicity_mean@judge": 1.2 - judged if is_bad and place == 9 else judged,
        "completion_tokens": length, "kl": rng.gamma(2, 1 + place, N),
        "perplexity": 2.0 + 2.0 * is_bad + rng.normal(0, 0.1, N),
        "distinct_2": rng.uniform(0.7, 0.9, N), "repetition_rate": np.full(N, 0.3 * is_bad) + rng.normal(0, 0.001, N),
    }  # fmt: skip
    texts = pd.DataFrame(
        {
            "prompt_id": [f"p{i}" for i in range(N)], "prompt": "Say\x1b[31m something\n\u202e", "sample": 0,
            "completion": f"an answer of {place}\x07", "n_tokens": np.maximum(1, length.round()).astype(int),
            "finish_reason": "eos", "toxicity@judge": judged, "toxicity@reward": judged,
        }
    )  # fmt: skip
    recipe = f"name: r\nmethod: {{learning_rate: 0.000{place}1, beta: 0.{place}}}\n"
    recipe += "data: {heldout: null}\nevaluation: {prompts: null}\n"
    name = "untrained" if place == 0 else f"{LONG if n_recipes == 10 else 'ppo_'}{place}"
    add_run(
        folder, name, columns, seed=seed, completions=texts, resolved_recipe=recipe, answer_cost=AnswerCost(20, 1e9),
        cost=Cost(wall_seconds=10.0 * place, training_completions=1024 * (1 + is_bad)) if place else Cost(),
        unscored={"toxicity_mean@reward": 2} if is_bad else None,
        upstream=[Upstream(recipe="rm", seed=0, run_hash="x", role="reward")] if is_bad else (),
    )  # fmt: skip


@pytest.mark.parametrize(("n_recipes", "n_seeds"), [(2, 6), (5, 2), (10, 1), (10, 2)])
def test_up_to_ten_recipes_take_forty_lines_of_any_width(tables, n_recipes, n_seeds):
    comparison = compare(tables(n_recipes, n_seeds))
    for width in (80, 120, 200):
        require_forty(comparison, page(comparison, View(width)), width)


def require_forty(comparison, lines, width):
    n_recipes = len(comparison.recipes)
    assert len(lines) <= 40
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() and line.isprintable() for line in lines)
    text = "\n".join(lines)
    assert not re.search(r"\b(tied|equally good|the same as)\b", text)
    for part in ("ANSWER", "ABOUT", "recipe ", "NOT DONE", "MORE"):
        assert any(line.startswith(part) for line in lines), part
    rows = lines[next(i for i, line in enumerate(lines) if line.startswith("recipe ")) :][1 : n_recipes + 1]
    order = [comparison.ranking.ranges[name] for name in comparison.ranking.order]
    assert [re.search(r"  (\d+(?:-\d+)?)  ", row)[1] for row in rows] == list(map(str, order))
    flags = {flag.name for row in comparison.recipes for flag in row.flags} - {"seeds_not_covered"}
    assert {"degenerate", "length_shift", "upstream"} <= flags
    for name in flags:
        assert sum(line.startswith(f"{LETTERS[name]} {name} (") for line in lines) == 1


def test_every_flag_of_the_page_has_a_letter_and_a_meaning():
    assert LETTERS.keys() == MEANINGS.keys()
    assert len(set(LETTERS.values())) == len(LETTERS)


def test_many_recipes_have_a_line_each(tables):
    comparison = compare(tables(20, flagged=False))
    for width in (80, 200):
        lines = page(comparison, View(width))
        assert all(any(line.startswith(f"{row.recipe} ") for line in lines) for row in comparison.recipes)
        assert len(lines) < 20 + 35
        assert max(map(len, lines)) <= width


def test_where_there_is_nothing_to_report_there_is_no_sentence(tables):
    lines = page(compare(tables(2, 6, flagged=False)), View(120))
    first = {line.split("  ")[0] for line in lines}
    assert first & {"SKIPPED", "NOTE", "NOTES", "SETTLE", "REWARD MODEL"} == set()
    assert not any(line.startswith(f"{letter} ") for letter in LETTERS.values() for line in lines)
    assert "flags" not in next(line for line in lines if line.startswith("recipe "))
    assert "One seed" not in " ".join(lines)


def test_each_seed_where_there_are_few(tables):
    two, ten = ("\n".join(page(compare(tables(n, k)), View(120))) for n, k in ((5, 2), (2, 6)))
    row = next(line for line in two.splitlines() if line.startswith("ppo_1") and "%" in line)
    assert len(re.findall(r"0\.\d{3}", row[-14:])) == 2
    assert "the spread between seeds is known from two runs" in " ".join(two.split())
    assert re.search(r"ppo_1 .* 0\.\d{3} to 0\.\d{3}$", ten, re.MULTILINE) or "each seed" not in ten


def test_verdicts_of_one_pair_are_the_same_wherever_they_stand(tables):
    """The page, the details with and without all pairs, and the fields of JSON that are about all pairs."""
    folder = tables(10, 1)
    comparison, every = compare(folder), compare(folder, all_pairs=True)
    words = {row.recipe: comparison.verdict(row, comparison.key) for row in comparison.recipes[1:]}
    assert words == {row.recipe: every.verdict(row, every.key) for row in every.recipes[1:]}
    assert words == {name: comparison.ranking.verdict(name, "untrained") for name in words}
    records = [r for r in comparison.records() if r["verdict_all_pairs"] is not None]
    assert words == {r["recipe"]: r["verdict_all_pairs"] for r in records}
    for r in records:
        found = comparison.ranking.ranges[r["recipe"]]
        assert (r["rank_first"], r["rank_last"]) == (found.first, found.last)


def test_rows_that_draw_alike_are_not_called_unequal(tables):
    flags = {flag.text for row in compare(tables(5, 2)).recipes for flag in row.flags if flag.name == "budget_differs"}
    assert flags == {
        "training drew from 1,024 to 2,048 completions from the policy, not all at equal budget: "
        "1,024 in ppo_1, ppo_2, ppo_3; 2,048 in ppo_4"
    }


def test_dominated_rows_and_when_training_pays(tmp_path, add_run):
    """Of two rows that are alike one draws four answers for each of its own, and a third is worse and dearer."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.4, 0.6, N)
    costs = {"untrained": (0.0, 0.0, 1e6, 0), "ppo": (-0.21, 1e12, 1e6, 8), "best_of_4": (-0.2, 0.0, 4e6, 0),
             "dpo": (-0.1, 2e12, 2e6, 8)}  # fmt: skip
    for name, (change, flops, per_answer, steps) in costs.items():
        noise = rng.normal(0, 0.01, (2, N))
        columns = {"toxicity_mean@judge": base + change + noise[0], "perplexity": 2.0 + noise[1]}
        cost = Cost(wall_seconds=1.0, forward_flops=flops, optimizer_steps=steps)
        add_run(tmp_path, name, columns, cost=cost, answer_cost=AnswerCost(10, per_answer))
    comparison = compare(tmp_path)
    assert [(one.recipe, one.by) for one in comparison.dominations] == [("dpo", "ppo")]
    assert comparison.answer.cost_multiples == {"ppo": 1.0, "dpo": 1.0}
    assert comparison.answer.best == "ppo"
    assert comparison.pays_from == {"best_of_4": 333_334}  # 1e12 + n 1e6 < n 4e6
    lines = page(comparison, View(120))
    assert "DOMINATED  no better and no cheaper: dpo by ppo." in lines
    assert "PAYS  training ppo costs less from 333,334 answers on against best_of_4." in lines


def test_every_pair_where_asked_for(tables):
    comparison = compare(tables(5, 2), all_pairs=True)
    lines = page(comparison, View(80))
    start = next(i for i, line in enumerate(lines) if line.startswith("every pair "))
    order = comparison.ranking.order
    marks = {"better": "+", "worse": "-", "not distinguishable": "=", "not tested": "?", None: "."}
    for place, name in enumerate(order):
        found = lines[start + 1 + place].split()[2:]
        assert found == [marks[comparison.ranking.verdict(name, other)] for other in order]


@pytest.fixture
def call(monkeypatch):
    def invoke(*arguments, columns=120, color=False):
        monkeypatch.setenv("COLUMNS", str(columns))
        return CliRunner().invoke(main, ["compare", *map(str, arguments)], color=color)

    return invoke


def test_colours_are_for_terminals_that_want_them(tables, call, monkeypatch):
    folder = tables(2, 6)
    plain = call(folder).output
    assert "\x1b" not in plain
    painted = call(folder, color=True).output
    assert "\x1b[1mANSWER" in painted
    assert re.sub(r"\x1b\[\d*m", "", painted) == plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert call(folder, color=True).output == plain


def test_hostile_texts_do_not_steer_the_terminal(tables, call):
    for output in (call(tables(2, 6)).output, call(tables(2, 6), "--texts", "3").output):
        assert "Say?[31m something ?" in output
        assert "\x1b" not in output


def test_texts(tables, call):
    found = call(tables(5, 2), "--texts", "3", columns=80)
    assert found.exit_code == 0
    assert found.output.count("untrained: ") == 3
    assert all(len(line) <= 80 for line in found.output.splitlines())


def test_sorted_by_any_column(tables, call):
    folder = tables(5, 2)
    comparison = compare(folder)
    for column, sign in (("distinct_2", -1), ("wall_seconds", 1), ("recipe", 1)):
        lines = call(folder, "--sort", column, "--columns", f"recipe,{column},value").output.splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("recipe "))
        names = [line.split()[0] for line in lines[start + 1 : start + 6]]
        if column == "recipe":
            assert names == sorted(names)
        else:
            values = {r["recipe"]: r["value"] for r in comparison.records() if r["metric"] == column}
            assert names == sorted(names, key=lambda name: sign * values[name])
    details = call(folder, "--details", "--sort", "kl", "--section", "toxicity").output
    assert details.index("ppo_1") < details.index("ppo_4")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--section", "costs"], "--section: got 'costs', expected one of toxicity, design, pairs"),
        (["--section", "costs"], "did you mean 'cost'?"),
        (["--columns", "kll"], "--columns: got 'kll', expected one of the columns, did you mean 'kl'? (recipe, "),
        (["--columns", "toxicity_mean"], "--columns: toxicity_mean has several scorers; write one of toxicity_mean@"),
        (["--sort", "perplexty"], "--sort: got 'perplexty', expected one of the columns, did you mean 'perplexity'?"),
        (["--metric", "kll"], "--metric: got 'kll', expected one of what was measured, did you mean 'kl'?"),
        (["--metric", "toxicity_mean"], "--metric: toxicity_mean was taken over several scorers; write one of"),
        (["--details", "--columns", "kl"], "--columns is for the table alone, not for --details"),
        (["--format", "json", "--texts"], "--texts is for the table alone, not for --format json"),
        (["--format", "json", "--section", "cost"], "--section is one of --details; --format json has always all of"),
    ],
)
def test_unknown_names_and_options_that_do_not_go_together(tables, call, arguments, said):
    result = call(tables(2, 6), *arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert len(result.output.splitlines()) == 1


def test_sections(tables, call):
    one = call(tables(2, 6), "--section", "cost").output
    assert "Cost of a run, upstream included" in one
    assert "Quality" not in one
    assert "Flags:" not in one
    two = call(tables(2, 6), "--section", "flags", "--section", "quality").output
    assert "Flags:" in two
    assert "Quality" in two
    assert "Cost of a run" not in two
    assert one.splitlines()[0] == call(tables(2, 6), "--details").output.splitlines()[0]


def test_a_single_recipe_and_a_folder_without_runs(tmp_path, tables, call):
    result = call(tables(2, 6) / "untrained")
    assert result.exit_code == 3
    assert "nothing was compared: got untrained alone" in result.output
    (tmp_path / "empty").mkdir()
    result = call(tmp_path / "empty")
    assert (result.exit_code, len(result.output.splitlines())) == (1, 1)
    assert "no complete run in" in result.output


def test_numbers_on_the_page():
    assert [short(x) for x in (None, 0.0, 0.12345, 1.2345, 12.345, 123.45, 1234.5)] == [
        "-", "0.000", "0.123", "1.23", "12.3", "123", "1,234",
    ]  # fmt: skip
    assert short(0.00004) == "4e-05"
    assert (short(0.1, "+"), short(-0.1, "+")) == ("+0.100", "-0.100")
    assert interval(Estimate(-0.1, -0.2, 0.05), "+") == "-0.100 [-0.200, +0.050]"
    assert interval(Estimate(0.1)) == "0.100"


def test_setting_of_text():
    assert grid(["a", "bb"], [["xyz", "1"]], [True, False]) == ["a    bb", "xyz   1"]
    assert cut("abcdefgh", 6) == "abc..."
    assert cut("abc", 3) == "abc"
    assert cut_name("abcdefghij", 9) == "abc...hij"
    assert printable("a\x1b[0m\n b\u202e\x00\ud800") == "a?[0m b???"
    assert titled("X", "one two three four", 10) == ["X  one two", "   three", "   four"]
    assert titled("X", "one two three four five six", 14, most=2) == ["X  one two", "   three ..."]
    assert titled("X", "about 95 % of it", 12) == ["X  about", "   95 % of", "   it"]


def test_without_toxicity_there_are_the_details(tmp_path, add_run, call):
    for name in ("untrained", "ppo"):
        add_run(tmp_path, name, {"kl": np.linspace(0, 1, N)})
    (tmp_path / "ppo" / "seed1").mkdir()
    result = call(tmp_path)
    assert result.exit_code == 0
    assert "Quality" in result.output
    assert "1 skipped:" in result.output
    assert result.output == call(tmp_path, "--details").output
    assert call(tmp_path, "--metric", "kl").output.startswith("ANSWER  ")
