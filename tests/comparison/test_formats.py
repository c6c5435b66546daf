"""Every format is parsed back: the same tables, words and numbers in each, and the watermark too."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from importlib.metadata import EntryPoint

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from alignbench import plugins
from alignbench.cli import main
from alignbench.comparison import FORMATS
from alignbench.comparison.compare import compare
from alignbench.comparison.cost_columns import shown
from alignbench.comparison.document import COSTS, document
from alignbench.comparison.formats import render
from alignbench.comparison.numbers import number, p_value
from alignbench.comparison.writers.csv import LIST_SEPARATOR
from alignbench.comparison.writers.latex import escaped
from alignbench.errors import UsageError
from alignbench.records import Cost, HackingDiagnosis, MetricValue

N = 60


@pytest.fixture
def comparison(tmp_path, add_run, begin, comparability):
    """Two seeds, three recipes, every flag and list filled, one damaged run, fields that differ."""
    rng = np.random.default_rng(11)
    base = rng.uniform(0.2, 0.6, N)
    same = comparability | {"toxicity_threshold": 0.4, "threshold_inclusive": True}
    for name, change, length in (("untrained", 0.0, 20), ("ppo", -0.1, 12), ("dpo", -0.002, 20)):
        for seed in (0, 1):
            lengths = rng.integers(length - 4, length + 4, N)
            toxicity = base + change + rng.normal(0, 0.01, N)
            columns = {
                "toxicity_mean@judge": toxicity,
                "toxicity_mean@reward": toxicity + 0.01,
                "toxicity_rate@judge": (toxicity > 0.4).astype(float),
                "completion_tokens": lengths,
                "perplexity": 3 + rng.normal(0, 0.1, N),
            }
            completions = pd.DataFrame(
                {
                    "prompt_id": [f"p{i}" for i in range(N)], "prompt": "I", "sample": 0, "completion": "am",
                    "n_tokens": lengths, "finish_reason": "eos", "toxicity@judge": toxicity,
                    "toxicity@reward": toxicity + 0.01,
                }
            )  # fmt: skip
            found = HackingDiagnosis("evident", 1024, ("reward rose by 1.25, judge by 0.125.",)) if seed else None
            add_run(
                tmp_path, name, columns, seed=seed, completions=completions,
                whole=[MetricValue("kl", None, None, None, None, "none", 0, N, "50 % of a & b_c failed")],
                comparability=same | ({"chat": {"system": "a|b_c <i> & 50 % {x}"}} if name == "dpo" else {}),
                cost=Cost(1234.5, 1.25, 8192, 245_760, 8192, 128, 124_439_808), train_reward=1.5,
                reward_hacking=found if name == "ppo" else None,
                environment={"hardware_class": "cpu-x86_64", "packages": {"torch": "2.6" if seed else "2.7"}},
            )  # fmt: skip
    begin(tmp_path, "kto_killed").release()
    return compare(tmp_path, allow_mismatch=True, all_pairs=True)


def tables_of_document(comparison):
    return [[list(one.header), *map(list, one.rows)] for one in document(comparison).sections]


class Html(HTMLParser):
    """Reads tables, and checks that every element is closed where it should be."""

    def __init__(self):
        super().__init__()
        self.open, self.tables, self.text, self.scopes = [], [], [], []

    def handle_starttag(self, tag, attrs):
        assert tag in {"section", "div", "p", "strong", "ul", "li", "h3", "table", "caption", "thead", "tbody", "tr",
                       "th", "td"}, tag  # fmt: skip
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")
        if tag == "th":
            self.scopes.append(dict(attrs)["scope"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[-1][-1][-1] += data
        self.text.append(data)


def latex_plain(text):
    """Undoes the escapes of one line, and refuses a special character that is not escaped."""
    names = {"textless": "<", "textgreater": ">", "textbar": "|", "textquotedbl": '"', "textbackslash": "\\",
             "textasciitilde": "~", "textasciicircum": "^"}  # fmt: skip
    found, place = "", 0
    token = re.compile(r"\\([a-z]+)\{\}|\\([{}$&#%_])|(\$-\$)|(\{\})|([^\\{}$&#%_~^<>|\"])")
    while place < len(text):
        match = token.match(text, place)
        assert match, f"unescaped at {text[place : place + 20]!r}"
        name, char, minus, _empty, plain = match.groups()
        found += names[name] if name else char or ("-" if minus else "") or plain or ""
        place = match.end()
    return found


def latex_tables(text):
    found = []
    for body in re.findall(r"\\begin\{tabular\}\{l(r*)\}\n\\toprule\n(.*?)\n\\bottomrule", text, re.DOTALL):
        rows = [line for line in body[1].splitlines() if line != r"\midrule"]
        assert all(line.endswith(r" \\") for line in rows)
        cells = [re.split(r"(?<!\\) & ", line.removesuffix(r" \\")) for line in rows]
        assert {len(row) for row in cells} == {len(body[0]) + 1}
        found.append([[latex_plain(cell) for cell in row] for row in cells])
    return found


def markdown_tables(text):
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        header, _rule, *rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        found.append([[cell.strip().replace("\\|", "|") for cell in row] for row in (header, *rows)])
    return found


def test_formats_with_tables_hold_the_same_cells(comparison):
    expected = tables_of_document(comparison)
    assert len(expected) >= 10
    html = Html()
    html.feed(render(comparison, "html-fragment"))
    assert html.open == []
    assert html.tables == expected
    pages = latex_tables(render(comparison, "latex"))
    assert max(len(page[0]) for page in pages) == 6
    for table in expected:
        n_pages = -(-(len(table[0]) - 1) // 5)
        parts, pages = pages[:n_pages], pages[n_pages:]
        assert [[row[0], *(cell for part in parts for cell in part[i][1:])] for i, row in enumerate(table)] == table
        assert all([row[0] for row in part] == [row[0] for row in table] for part in parts)
    assert pages == []
    assert markdown_tables(render(comparison, "markdown")) == expected
    plain = render(comparison, "details").replace("\n", " ")
    for table in expected:
        for row in table[1:]:
            assert all(cell in plain for cell in row)


def test_csv_is_the_json_as_text(comparison):
    records = json.loads(render(comparison, "json"))
    rows = list(csv.DictReader(io.StringIO(render(comparison, "csv"))))
    assert len(rows) == len(records) > 50
    for row, record in zip(rows, records, strict=True):
        assert list(row) == list(record)
        for name, value in record.items():
            if isinstance(value, list):
                assert row[name] == LIST_SEPARATOR.join(map(str, value))
            elif isinstance(value, float):
                assert float(row[name]) == value  # to the last digit
            else:
                assert row[name] == ("" if value is None else str(value))
    frame = pd.read_csv(io.StringIO(render(comparison, "csv")))
    assert frame["value"].dtype == float
    assert (frame["mismatch"] != "").all()
    assert frame["mismatch"].notna().all()


def check_columns(section, recipe, cells, by_place):
    """Of a table with a column per metric or cost."""
    fields = {shown_as: name for name, shown_as in COSTS.items()}
    for name, cell in zip(section.header[1:], cells, strict=True):
        if name == "method":
            assert cell == by_place[recipe, "kl", None]["method"]
        elif section.title.startswith("Cost"):
            assert cell == shown(fields[name], by_place[recipe, fields[name], None]["value"])
        else:
            key, _, judge = name.partition("@")
            assert cell.split(" ")[0] == number(by_place[recipe, key, judge or None]["value"])


def test_what_tables_show_stands_in_the_records(comparison):
    """From the records alone, every number and word of the tables."""
    records = json.loads(render(comparison, "json"))
    by_place = {(r["recipe"], r["metric"], r["scorer"]): r for r in records if r["family"] != "all pairs"}

    def interval(record, name, sign=""):
        value, low, high = (record[f"{name}{end}"] for end in ("", "_ci_low", "_ci_high"))
        text = (sign if (value or 0) > 0 else "") + number(value)
        return text if low is None else f"{text} [{number(low)}, {number(high)}]"

    checked = 0
    for section in document(comparison).sections:
        metric, _, scorer = section.title.partition(":")[0].partition("@")
        for row in section.rows:
            cells, record = row[1:], by_place.get((row[0], metric, scorer))
            if "lower is better" in section.title:
                value = {"": record["value"], "_ci_low": record["ci_low"], "_ci_high": record["ci_high"]}
                expected = [
                    ",".join(map(str, record["seeds"])), interval({f"v{k}": v for k, v in value.items()}, "v"),
                    interval(record, "difference", "+"), p_value(record["p_value"]), p_value(record["p_adjusted"]),
                ]  # fmt: skip
                assert cells[:-1] == expected
                word = record["verdict"] or "baseline"
                assert cells[-1] == word + (" !" if set(record["flags"]) & {"mismatch"} else "")
            elif "what stands behind" in section.title:
                runs = {f"runs{k}": record[f"runs_{n}"] for k, n in
                        (("", "difference"), ("_ci_low", "ci_low"), ("_ci_high", "ci_high"))}  # fmt: skip
                assert cells[:4] == [
                    record["estimand"], interval(runs, "runs", "+"), p_value(record["runs_p_value"]),
                    number(record["detectable_difference"]),
                ]  # fmt: skip
                for key in ("settling_prompts", "settling_seeds"):
                    assert record[key] is None or f"{record[key]:,}" in cells[4]
            elif "every pair" in section.title:
                (pair,) = [
                    r for r in records
                    if (r["recipe"], r["baseline"], r["metric"], r["scorer"], r["family"])
                    == (row[0], cells[0], metric, scorer, "all pairs")
                ]  # fmt: skip
                assert cells[1:] == [interval(pair, "difference", "+"), p_value(pair["p_value"]),
                                     p_value(pair["p_adjusted"]), pair["verdict"] + " !"]  # fmt: skip
            elif "equal length" in section.title:
                record = by_place[row[0], *cells[0].split("@")]
                matched = {f"m{k}": record[f"length_matched{n}"] for k, n in
                           (("", "_difference"), ("_ci_low", "_ci_low"), ("_ci_high", "_ci_high"))}  # fmt: skip
                assert cells[2:] == [interval(matched, "m", "+"), f"{record['length_matched_share']:.1%}"]
            elif "Reward hacking" in section.title:
                record = next(r for r in records if r["recipe"] == row[0])
                assert cells == [record["reward_hacking"], f"{record['reward_hacking_seeds']} of 1", "1,024"]
                assert section.remarks == [f"{row[0]}, {one}" for one in record["reward_hacking_evidence"]]
            else:
                check_columns(section, row[0], cells, by_place)
            checked += 1
    assert checked > 25


@pytest.mark.parametrize("style", FORMATS)
def test_watermark_notes_flags_and_skipped_runs_stand_in_every_format(comparison, style):
    text = render(comparison, style)
    mark = "a|b_c <i> & 50 % {x}"
    if style == "html-fragment":
        html = Html()
        html.feed(text)
        text = " ".join(html.text)
        assert text.count("NOT COMPARABLE") == 1 + len(html.tables)  # a table that is copied out takes it along
    elif style == "latex":
        assert text.count("NOT COMPARABLE") == 1 + text.count(r"\begin{tabular}")
        mark = escaped(mark)
    elif style in ("table", "details", "markdown"):
        assert text.startswith("NOT COMPARABLE")
    else:
        rows = json.loads(text) if style == "json" else list(csv.DictReader(io.StringIO(text)))
        assert all(mark in str(row["mismatch"]) and "chat.system" in str(row["mismatch"]) for row in rows)
    flat = " ".join(text.split())
    assert mark in flat
    along_training = () if style == "table" else ("evident",)  # the page has the flag instead
    for said in ("Holm", "Versions differ, torch", "kto", "unfinished", "length", *along_training):
        assert said in flat, said
    assert "nan" not in re.findall(r"[a-z]+", flat.lower())
    if style in ("json", "csv"):
        assert "2.7 in dpo/seed0" in flat
    general = {"mismatch", "seeds_not_covered"}  # said for the whole table elsewhere
    for flag in {flag for row in comparison.recipes for flag in row.flags if flag.name not in general}:
        assert flag.name in flat.replace("\\", "")


def test_latex_is_balanced_and_escaped(comparison):
    text = render(comparison, "latex")
    opened = re.findall(r"\\(begin|end)\{(\w+)\}", text)
    stack = []
    for kind, name in opened:
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    bare = re.sub(r"\\[{}]", "", text)
    depth = 0
    for char in bare:
        depth += {"{": 1, "}": -1}.get(char, 0)
        assert depth >= 0
    assert depth == 0
    assert re.sub(r"\$-\$|\\\$", "", text).count("$") == 0
    assert [line for line in text.splitlines() if re.search(r"(?<!\\)%", line)] == text.splitlines()[:1]
    for command in re.findall(r"\\([a-zA-Z]+)", text):
        assert command in {
            "usepackage", "noindent", "fbox", "parbox", "linewidth", "textbf", "begin", "end", "centering", "caption",
            "toprule", "midrule", "bottomrule", "par", "footnotesize", "paragraph", "item", "textless", "textgreater",
            "textbar", "textbackslash", "textquotedbl",
        }, command  # fmt: skip
    for body in re.findall(r"\\caption\{(.*)\}\n", text):
        latex_plain(body)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 5 % #1 $x$ {y}", r"a\_b \& 5 \% \#1 \$x\$ \{y\}"),
        (r"C:\x ~ ^", r"C:\textbackslash{}x \textasciitilde{} \textasciicircum{}"),
        ("-0.5 [-0.6, -0.4]", r"$-$0.5 [$-$0.6, $-$0.4]"),
        ("k-25, run-1, --force", r"k-25, run-1, -{}-force"),
        ("two\nlines <0.001", r"two lines \textless{}0.001"),
    ],
)
def test_latex_escapes(text, expected):
    assert escaped(text) == expected
    assert latex_plain(expected) == " ".join(text.split())


def test_html_is_a_fragment(comparison):
    text = render(comparison, "html-fragment")
    assert not re.search(r"<(html|head|body|script|style)|on\w+=|javascript:", text)
    html = Html()
    html.feed(text)
    assert text.count("<caption>") == len(html.tables)
    assert set(html.scopes) == {"col", "row"}
    assert "<i>" not in text
    assert "<td>&lt;0.001</td>" in text
    assert "&lt;i&gt;" in text


def test_unknown_format(comparison):
    with pytest.raises(
        UsageError,
        match=r"--format: unknown format 'markdwn', did you mean 'markdown'\? \(known: csv, details, html-fragment, ",
    ):
        render(comparison, "markdwn")


def test_a_package_adds_a_format(comparison, tmp_path, monkeypatch):
    """It is given the comparison and returns the text."""
    written = "def recipes(comparison):\n    return ', '.join(row.recipe for row in comparison.recipes)\n"
    (tmp_path / "names_of_recipes.py").write_text(written)
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("a-list", "names_of_recipes:recipes", "alignbench.writers")
    monkeypatch.setattr(plugins, "entries_of", lambda group: (entry,) if group == entry.group else ())
    assert sorted([*FORMATS, "a-list"]) == plugins.WRITERS.names()
    assert render(comparison, "a-list") == "untrained, dpo, ppo"
    said = CliRunner().invoke(main, ["compare", "nowhere", "--format", "a-lst"])
    assert said.exit_code == 2
    assert "did you mean 'a-list'?" in said.output
