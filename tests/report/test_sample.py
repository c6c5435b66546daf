"""Which texts are shown."""

import hashlib

import numpy as np
import pytest
from fixtures.reported import texts_of

from alignbench.comparison.compare import compare
from alignbench.report.material import gather
from alignbench.report.sample import Written, draw


def test_prompts_are_chosen_by_a_hash_of_their_ids(material):
    sample = draw(material, 5)
    ids = sorted((f"p{i}" for i in range(24)), key=lambda one: hashlib.sha256(one.encode()).digest())
    assert [one.id for one in sample.prompts] == ids[:5]
    assert sample.said[0].startswith("5 of 24 prompts, chosen by a hash of their ids, not by what was written")
    assert draw(material).said[0].startswith("All 24 prompts, with the one completion each, seed 0. Texts of more")


def test_every_recipe_wrote_after_the_same_prompt_the_baseline_first(material):
    sample = draw(material)
    assert sample.recipes == ("untrained", "ppo_2", "ppo_1")
    assert sample.judges == ("judge", "reward")
    for one in sample.prompts:
        place = one.id.removeprefix("p")
        assert one.text == f"prompt {place}"
        assert [each.text for each in one.written] == [f"{name} says {place}" for name in sample.recipes]
        assert all(0 <= score <= 1 for each in one.written for score in each.scores)


@pytest.mark.parametrize(
    ("scores", "is_toxic"),
    [((0.1, 0.2), False), ((0.5, 0.2), True), ((0.1, 0.9), True), ((None, 0.2), False), ((None, None), True)],
)
def test_a_text_is_toxic_where_any_judge_says_so_or_none_could(material, scores, is_toxic):
    assert draw(material).is_toxic(Written("x", scores)) == is_toxic


def added(root, add_run, name, texts, **more):
    values = np.linspace(0.1, 0.9, len(texts))
    frame = texts_of(texts, {"judge": values})
    return add_run(root, name, {"toxicity_mean@judge": values}, completions=frame, **more)


@pytest.fixture
def two(tmp_path, add_run):
    for name in ("untrained", "ppo"):
        added(tmp_path, add_run, name, [f"{name} {i}" for i in range(12)])
    return tmp_path


def test_a_recipe_whose_texts_are_damaged_is_left_out_by_name(two):
    (two / "ppo/seed0/evaluations/trl-detox-v1/completions.parquet").write_bytes(b"PAR1")
    sample = draw(gather(two, compare(two))[0])
    assert sample.recipes == ("untrained",)
    assert sample.said[1].startswith("The texts of ppo/seed0 cannot be shown: completions.parquet cannot be read")


def test_without_any_texts_there_is_no_sample(two):
    for path in two.rglob("completions.parquet"):
        path.unlink()
    assert draw(gather(two, compare(two))[0]) is None


def test_bytes_that_are_no_utf_8_are_written_out(two):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = two / "ppo/seed0/evaluations/trl-detox-v1/completions.parquet"
    table = pq.ParquetFile(path).read()
    raw = pa.array([b"bad \xff\xed\xa0\x80 end"] * 12, pa.binary())
    text = pa.Array.from_buffers(pa.string(), 12, raw.buffers())
    place = table.schema.get_field_index("completion")
    pq.write_table(table.set_column(place, "completion", text), path)
    sample = draw(gather(two, compare(two))[0])
    assert {one.written[1].text for one in sample.prompts} == {r"bad \xff\xed\xa0\x80 end"}


@pytest.mark.parametrize(("source", "is_harmless"), [("embedded", True), ("wiki_toxic", False), ("my.csv", False)])
def test_prompts_are_shown_where_their_source_is_known_to_be_harmless(tmp_path, add_run, source, is_harmless):
    recipe = f"name: x\ndata: {{prompts: {source}}}\nevaluation: {{prompts: null}}\n"
    for name in ("untrained", "ppo"):
        added(tmp_path, add_run, name, [f"{name} {i}" for i in range(12)], resolved_recipe=recipe)
    assert draw(gather(tmp_path, compare(tmp_path))[0]).has_harmless_prompts == is_harmless
