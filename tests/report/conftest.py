"""One folder of results, and one of hostile texts, for all tests of reports."""

import pytest
from fixtures.reported import HOSTILE, add_reported

from alignbench.comparison.compare import compare
from alignbench.report.material import gather
from alignbench.report.report import report


@pytest.fixture(scope="session")
def results(tmp_path_factory, add_run):
    return add_reported(add_run, tmp_path_factory.mktemp("reported"))


@pytest.fixture(scope="session")
def material(results):
    return gather(results, compare(results))[0]


@pytest.fixture(scope="session")
def made(results):
    return report(results)


@pytest.fixture(scope="session")
def on_two_models(tmp_path_factory, add_run):
    roots = [tmp_path_factory.mktemp(name) for name in ("large", "small")]
    for root in roots:
        name = root.name.rstrip("0123456789")
        add_reported(add_run, root, lambda i, name=name: f"{name} says {i}", seeds=(0,), model=name)
    return report(roots)


@pytest.fixture(scope="session")
def hostile_results(tmp_path_factory, add_run):
    """Every completion and every prompt is hostile, one of 100,000 characters among them."""
    texts = [*HOSTILE.values(), "long " * 20_000]
    root = tmp_path_factory.mktemp("hostile")
    prompts = [f"{texts[i % len(texts)]} {i}" for i in range(24)]
    return add_reported(add_run, root, lambda i: texts[i % len(texts)], seeds=(0,), prompts=prompts)


@pytest.fixture(scope="session")
def hostile(hostile_results):
    return report(hostile_results)
