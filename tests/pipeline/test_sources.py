"""Sources of data: one of an installed package feeds a recipe as those of alignbench do."""

from importlib.metadata import EntryPoint

import pytest

from alignbench import plugins
from alignbench.code_hash import code_hash, directory_of
from alignbench.errors import InputsError, RecipeError, UsageError
from alignbench.pipeline.input_checks import check_inputs
from alignbench.pipeline.inputs import inputs_of
from alignbench.pipeline.prompts import heldout_prompts, neutral_texts, prepared_prompts
from alignbench.recipe.loading import load
from alignbench.records import file_sha256
from datasets_prep import sources

CODE = """
from pathlib import Path
from datasets_prep.settings import ColumnMapping
from datasets_prep.sources.base import Source
from toy_sources.words import VERBS

FILE = Path(__file__).with_name("subjects.txt")

def read(request):
    subjects = FILE.read_text().split(",")
    if request.split == "test":
        subjects = ["two birds"]
    rows = [{"id": f"{s} {v} {e}", "asked": f"now {s} {v} {e}", "harm": 0.5, "story": "the old man runs"}
            for s in subjects for v in VERBS for e in ("red", "old", "good", "bad", "nice")]
    return [] if request.split == "none" else rows

prompts = Source(
    read,
    columns=ColumnMapping(prompt="asked", toxicity="harm"),
    heldout={"split": "test", "max_prompts": 6},
    files=lambda: [FILE],
)
stories = Source(lambda request: [{"text": "a calm story"}, {"text": "another one"}], frozenset({"texts"}))
no_source = "nothing"
"""


@pytest.fixture
def installed(tmp_path_factory, monkeypatch):
    """A package with sources, as if installed; gives its folder."""
    import sys

    folder = tmp_path_factory.mktemp("site") / "toy_sources"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "words.py").write_text('VERBS = ("runs", "sings", "sees", "likes")\n')
    (folder / "reading.py").write_text(CODE)
    (folder / "subjects.txt").write_text("the dog,a cat,one man")
    monkeypatch.syspath_prepend(folder.parent)
    offered = [EntryPoint(f"toy_{name}", f"toy_sources.reading:{name}", "alignbench.sources")
               for name in ("prompts", "stories", "no_source", "missing")]  # fmt: skip
    monkeypatch.setattr(plugins, "entry_points", lambda group: offered if group == "alignbench.sources" else [])
    plugins.entries_of.cache_clear()
    yield folder
    monkeypatch.undo()
    plugins.entries_of.cache_clear()
    code_hash.cache_clear()
    directory_of.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy_sources"]:
        del sys.modules[name]


def loaded(*sets):
    (one,) = load(["ppo.yaml"], ["data.prompts=toy_prompts", "evaluation.n_prompts=null", *sets])
    return one


def recipe(*sets):
    return loaded(*sets).recipe


def test_its_prompts_are_prepared_split_and_kept(recipe_folder, installed, tiny_policy):
    policy, kept = tiny_policy(), recipe_folder / "cache" / "data"
    data = prepared_prompts(recipe(), policy)
    assert data.statistics["n_rows"] == 60
    assert len(data.train) + len(data.validation) + len(data.heldout) == 60
    assert min(len(data.train), len(data.validation), len(data.heldout)) > 0
    assert {prompt.toxicity for prompt in data.train} == {0.5}
    assert heldout_prompts(recipe(), policy, data).prompts == data.heldout

    assert prepared_prompts(recipe(), policy) == data
    assert len(list(kept.iterdir())) == 1
    with (installed / "words.py").open("a") as file:  # an import away from what reads
        file.write("changed = True\n")
    code_hash.cache_clear()
    assert prepared_prompts(recipe(), policy).train == data.train
    assert len(list(kept.iterdir())) == 2
    prepared_prompts(recipe("data.max_prompts=50"), policy)
    assert len(list(kept.iterdir())) == 3


def test_named_alone_for_the_evaluation_it_has_its_own_settings(recipe_folder, installed, tiny_policy):
    own, policy = recipe("evaluation.prompts=toy_prompts"), tiny_policy()
    heldout = heldout_prompts(own, policy, prepared_prompts(own, policy))
    assert len(heldout.prompts) == 6
    assert all("two birds" in prompt.text for prompt in heldout.prompts)


def test_its_columns_give_way_to_those_of_the_recipe(recipe_folder, installed, tiny_policy):
    own = recipe("data={prompts: toy_prompts, columns: {prompt: story}}")
    with pytest.raises(Exception, match="1 prompts are left"):  # the same story in every row
        prepared_prompts(own, tiny_policy())


def test_its_texts_are_neutral_texts(recipe_folder, installed, tiny_policy):
    own = recipe("evaluation.neutral=toy_stories")
    data = prepared_prompts(own, tiny_policy())
    assert set(neutral_texts(own, data)) == {"a calm story", "another one"}
    with pytest.raises(RecipeError, match="toy_stories, wikitext or embedded"):
        recipe("evaluation.neutral=toy_prompts")


def test_files_and_code_are_among_the_inputs(recipe_folder, installed):
    found = inputs_of(recipe("evaluation.neutral=toy_stories"), {})
    code = sources.code_of("toy_prompts")
    assert found["data.prompts"] == {"subjects.txt": file_sha256(installed / "subjects.txt")[:16], "code": code}
    assert found["evaluation.neutral"] == {"code": code}
    (installed / "words.py").write_text('VERBS = ("runs",)\n')
    code_hash.cache_clear()
    assert inputs_of(recipe(), {})["data.prompts"]["code"] != code


def test_it_is_known_to_check(recipe_folder, installed):
    not_looked_up = check_inputs([loaded()])
    assert not any("toy" in one for one in not_looked_up)
    with pytest.raises(InputsError, match=r"data.prompts: toy_prompts: holds no rows"):
        check_inputs([loaded("data.split=none")])


def test_what_is_no_source_is_said_where_it_is_named_and_troubles_nobody_else(recipe_folder, installed, tiny_policy):
    with pytest.raises(UsageError, match=r"source of data 'toy_no_source' of the entry point .* expected a Source"):
        check_inputs([loaded("data.prompts=toy_no_source")])
    with pytest.raises(UsageError, match=r"'toy_missing' of the entry point .* cannot be imported from toy_sources"):
        check_inputs([loaded("data.prompts=toy_missing")])
    (plain,) = load(["ppo.yaml"])
    assert prepared_prompts(plain.recipe, tiny_policy()).train
