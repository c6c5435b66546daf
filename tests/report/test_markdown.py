"""The same content as Markdown, in which nothing that a model wrote acts."""

import re

import pytest
from fixtures.reported import HOSTILE

from alignbench.report.markdown import escaped, fenced, markdown
from alignbench.report.text import visible


@pytest.fixture(scope="module")
def read():
    """Reads Markdown as a pull request does, HTML included."""
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table")
    return parser.parse


def html_of(tokens):
    for token in tokens:
        if token.type in ("html_block", "html_inline"):
            yield token.content.strip()
        yield from html_of(token.children or ())


def test_the_same_sections_and_tables_as_the_page(made):
    text = markdown(made)
    assert re.findall("^## (.*)", text, re.MULTILINE) == [section.title for section in made.sections]
    for figure in made.figures:
        assert f"### {figure.picture.title}" in text
        assert escaped(figure.numbers.rows[0].cells[0].text) in text
    assert "![" not in text


def test_pictures_are_linked_where_there_are_files(made):
    pictures = {figure.picture.name: f"figures/{figure.picture.name}.svg" for figure in made.figures}
    text = markdown(made, pictures)
    assert re.findall(r"!\[.*?\]\(<(.*?)>\)", text) == list(pictures.values())


def test_hostile_texts_stay_in_their_blocks(hostile, read):
    tokens = read(markdown(hostile))
    said = set(html_of(tokens))
    assert all(re.fullmatch(r"(</?details>(<summary>[^<>]*</summary>)?\s*)+", one) for one in said), said
    code = {token.content.rstrip("\n") for token in tokens if token.type == "fence"}
    shown = [one for one in HOSTILE.values() if visible(one) in code]
    assert len(shown) >= 3  # of five prompts
    assert not [token for token in tokens for child in token.children or () if child.type in ("link_open", "image")]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_text_ends_its_block(read, text):
    (block,) = read(fenced(text))
    assert block.content == visible(text) + "\n"


@pytest.mark.parametrize(
    "text", ["a_b_c", "*x* _y_ `z`", "[a](b) ![c](d) <b> &amp;", "| a | b |", "# h", "- a", "1 < 2", "$x$ ~~y~~", "\\"]
)
def test_no_word_is_markdown(read, text):
    tokens = read(f"x {escaped(text)}")
    (paragraph,) = [token for token in tokens if token.type == "inline"]
    assert {child.type for child in paragraph.children} == {"text"}
    assert "".join(child.content for child in paragraph.children) == f"x {text}"


def test_nobody_is_mentioned_and_nothing_is_linked():
    for said in ("@everyone", "#12", "http:", "www."):
        assert said not in escaped(f"see {said}x")
    assert escaped("toxicity_mean@judge") == "toxicity_mean@judge"
