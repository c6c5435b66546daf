"""A report as one page of HTML that needs nothing else, and lets nothing in it do anything."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from alignbench.report.pictures.picture import Picture
from alignbench.report.report import Report
from alignbench.report.sample import Sample
from alignbench.report.text import inert_json, visible

_DIGITS = 4


def page(report: Report) -> str:
    """Returns the page. A browser lets its own script and style run, by their hashes, and nothing else."""
    style, script = _part("page.css"), _part("page.js")
    policy = (
        f"default-src 'none'; style-src 'sha256-{_hash(style)}'; script-src 'sha256-{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # What stands in the page as it is: our own files, of which none ends the element that it is in.
    parts: dict[str, Any] = {"style": Markup(style), "script": Markup(script), "policy": policy}
    whole = _environment().from_string(_part("page.html")).render(report=report, data=_data, **parts)
    return whole + "\n"


@cache
def _environment() -> Environment:
    """Everything that is put in is escaped, and made visible before."""
    found = Environment(autoescape=True, undefined=StrictUndefined, finalize=_shown)
    found.filters |= {"breakable": _breakable, "inline": Picture.inline, "unbroken": _unbroken}
    return found


def _shown(value: object) -> object:
    return value if isinstance(value, Markup) else visible(str(value))


def _breakable(name: str) -> Markup:
    """Returns a name that may go on in another line after `_` and `@`."""
    return Markup(re.sub("([_@])", r"\1<wbr>", str(escape(visible(name)))))


def _unbroken(text: str) -> str:
    """Returns a number with its interval, which may begin a line of its own, but has no end within one."""
    return text.replace(", ", ",\N{NO-BREAK SPACE}")


@cache
def _part(name: str) -> str:
    return files("alignbench.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data(sample: Sample) -> Markup:
    """Returns the texts for the script, which makes text nodes of them."""
    content = {
        "recipes": sample.recipes,
        "judges": sample.judges,
        "threshold": sample.threshold,
        "harmless": sample.has_harmless_prompts,
        "prompts": [
            [
                one.id,
                one.text,
                [
                    written and [written.text, [None if s is None else round(s, _DIGITS) for s in written.scores]]
                    for written in one.written
                ],
            ]
            for one in sample.prompts
        ],
    }
    return Markup(inert_json(content))
