"""The page: hostile texts stay texts, and nothing but its own script and style can act."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from fixtures.reported import HOSTILE, N, add_reported

from alignbench.records import MetricValue
from alignbench.report.html import page
from alignbench.report.report import report
from alignbench.report.text import visible


class Read(HTMLParser):
    """Elements with their attributes, in order, and the text of those that hold scripts and styles."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.raw, self.text = [], {}, []
        self._inside = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = (tag, dict(attrs).get("type")) if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside:
            self.raw.setdefault(self._inside, []).append(data)
        else:
            self.text.append(data)


@pytest.fixture(scope="module")
def text(made):
    return page(made)


@pytest.fixture(scope="module")
def hostile_text(hostile):
    return page(hostile)


def data_of(text):
    (found,) = Read(text).raw["script", "application/json"]
    return json.loads(found)


def test_the_policy_lets_the_pages_own_script_and_style_act_and_nothing_else(text):
    read = Read(text)
    (policy,) = [a["content"] for tag, a in read.elements if a.get("http-equiv") == "Content-Security-Policy"]
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts["default-src"] == parts["base-uri"] == parts["form-action"] == "'none'"
    for kind, directive in ((("script", None), "script-src"), (("style", None), "style-src")):
        (own,) = read.raw[kind]
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert parts[directive] == f"'sha256-{digest}'"
    place = [tag for tag, _ in read.elements]
    assert place.index("meta") < place.index("style") < place.index("script")


@pytest.mark.parametrize("which", ["text", "hostile_text"])
def test_nothing_is_asked_of_anybody(which, request):
    for tag, attributes in Read(request.getfixturevalue(which)).elements:
        assert tag not in ("img", "link", "iframe", "object", "embed", "base", "source", "image")
        assert not {"src", "srcset", "style", "action", "poster", "ping"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")


def test_hostile_texts_add_no_element(text, hostile_text):
    """The same elements as of a page of plain texts from as many recipes, but for what one seed has less."""
    kinds = [{tag for tag, _ in Read(one).elements} for one in (text, hostile_text)]
    assert kinds[0] == kinds[1]
    assert [tag for tag, _ in Read(hostile_text).elements].count("script") == 2


def test_hostile_texts_arrive_as_they_were_written(hostile_text):
    data = data_of(hostile_text)
    found = {written[0] for _, _, several in data["prompts"] for written in several}
    assert {visible(text) for text in HOSTILE.values()} <= found
    assert any(text.endswith("… (98,000 more characters)") for text in found)
    assert len(data["prompts"]) == N


def test_no_text_can_end_the_element_that_holds_it(hostile_text):
    body = hostile_text.partition('class="texts-data">')[2].partition("</script>")[0]
    assert not set("<>&") & set(body)
    json.loads(body)


def test_names_are_hostile_too(tmp_path, add_run):
    name = "</title><script>alert(1)</script>"
    add_run(tmp_path, "untrained", {"kl": [0.1] * 12}, environment={"python": name, "\u202e": "\ud800"})
    add_run(tmp_path, "ppo", {"kl": [0.2] * 12}, environment={"python": name, "\u202e": "\ud800"})
    made = page(report(tmp_path))
    assert made.encode()
    assert "<script>alert" not in made
    assert "&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in made
    assert "⟨U+D800⟩" in made


def test_runs_of_which_little_was_stored(tmp_path, add_run):
    """No texts, no lengths, no costs, nothing along training, and a judge that one recipe lacks."""
    for name in ("untrained", "ppo", "dpo"):
        scorer = "other" if name == "dpo" else "judge"
        path = add_run(tmp_path, name, {f"toxicity_mean@{scorer}": [0.1 * i for i in range(10)]}, prompts=None)
        for file in path.rglob("completions.parquet"):
            file.unlink()
    made = page(report(tmp_path))
    assert "No completions were stored, or none that can be read." in made
    assert "not measured" in made


def test_two_reward_models_alone(tmp_path, add_run):
    for name in ("reward_model", "reward_model_2"):
        whole = [MetricValue("pair_accuracy", None, 0.8, 0.7, 0.9, "higher", 50, 0)]
        add_run(tmp_path, name, {}, whole=whole, kind="reward_model", protocol="pairs")
    made = page(report(tmp_path))
    assert "Reward models (95 % intervals)" in made
    assert "pair_<wbr>accuracy" in made
    assert "<h1>alignbench: 2 reward models</h1>" in made


def test_the_table_opens_the_reasons_of_every_verdict(text, material):
    read = Read(text)
    opened = [a for tag, a in read.elements if tag == "td" and a.get("class") == "opens"]
    assert len(opened) == len(material.rows)
    rows = [a for tag, a in read.elements if tag == "tr" and a.get("class") == "reasons"]
    assert len(rows) == len(opened)
    for said in ("adjusted p", "detectable difference", "difference at equal length", "these runs", "the method"):
        assert said in text


@pytest.mark.parametrize("which", ["made", "on_two_models"])
def test_every_id_is_there_once_and_every_link_leads_to_one(which, request):
    text = page(request.getfixturevalue(which))
    ids = [a["id"] for _, a in Read(text).elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = {a["href"][1:] for _, a in Read(text).elements if "href" in a}
    assert links <= set(ids)


def test_every_picture_says_what_it_shows(text):
    pictures = [a for tag, a in Read(text).elements if tag == "svg"]
    assert len(pictures) == 9 + 2  # and small ones among the reasons of two recipes
    assert all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in pictures)


def test_twenty_recipes_are_less_than_five_megabytes(tmp_path, add_run):
    long = "Many words, as they come, 中文字符 and <b>&amp;</b> \U0001f600. " * 80  # two to six bytes a character
    add_reported(add_run, tmp_path, lambda i: f"{i} {long}", n_recipes=20, seeds=(0,), n=60, n_curves=3)
    made = page(report(tmp_path))
    assert len(made.encode()) < 5_000_000
    assert "more would have been shown, but the page would have become too large" in made
    prompts = data_of(made)["prompts"]
    assert 20 < len(prompts) < 60
    assert all(len(written) == 20 for _, _, written in prompts)
    assert re.search(r'<svg[^>]*aria-label="How toxicity went along the budget', made)
