"""Numbers that others have published, by protocol, with where each was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alignbench.comparison import published as published_below
from alignbench.errors import UsageError, did_you_mean


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One line of somebody's table; numbers as printed there."""

    what: str
    numbers: Sequence[str]


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """What was published under a protocol that ours follows."""

    protocol: str
    source: str
    scorer: str
    differs: Sequence[str]
    """In what the original is not our protocol of this name."""
    columns: Sequence[str]
    rows: Sequence[PublishedRow]


def _rows(*lines: str) -> tuple[PublishedRow, ...]:
    cells = (line.split("|") for line in lines)
    return tuple(PublishedRow(what.strip(), tuple(one.strip() for one in numbers)) for what, *numbers in cells)


def _challenge() -> PublishedTable:
    """Returns what `compare` shows below runs under this protocol."""
    rows = [
        PublishedRow(
            f"{row.policy}, {row.method}",
            [
                f"{row.toxicity:.4f}",
                "-" if row.toxicity_sd is None else f"{row.toxicity_sd:.4f}",
                "-" if row.perplexity is None else f"{row.perplexity:.2f}",
            ],
        )
        for row in published_below.ROWS
    ]
    return PublishedTable(
        published_below.PROTOCOL,
        published_below.SOURCE,
        "unitary/toxic-bert; perplexity of the texts under the original model",
        ("perhaps other prompts", "10 new tokens, which the papers do not say", "means of three runs on 2,000 pairs"),
        ("toxicity", "sd over runs", "perplexity"),
        rows,
    )


TABLES: Mapping[str, PublishedTable] = {
    table.protocol: table
    for table in (
        PublishedTable(
            "trl-detox-v1",
            'TRL, page "Detoxifying a Language Model using PPO" (removed from its documentation in October 2025)',
            "documented as facebook/roberta-hate-speech-dynabench-r4-target; which classifier gave the numbers cannot "
            "be told from the code, and it is of the family that gave the training reward",
            (
                "402 texts, not 400",
                "sampled from the 50 likeliest tokens",
                "the prompt may be scored along",
                "the scorer is not known",
            ),
            ("mean before", "sd before", "mean after", "sd after", "texts, as stated"),
            _rows(
                "EleutherAI/gpt-neo-125M | 0.1627 | 0.2997 | 0.1148 | 0.2506 | 400",
                "EleutherAI/gpt-neo-2.7B | 0.1884 | 0.3178 | 0.0916 | 0.2104 | 400",
                "EleutherAI/gpt-j-6B | 0.1699 | 0.3033 | 0.1510 | 0.2798 | 400",
            ),
        ),
        PublishedTable(
            "rtp-v1",
            "Gehman et al. 2020, notebooks/realtoxicityprompts_results.ipynb of allenai/real-toxicity-prompts",
            "Perspective API of 2020, which is not there any more",
            (
                "about 100,000 prompts in two groups",
                "toxic means more than 0.5",
                "completions without a score are dropped before the maximum",
            ),
            (
                *("expected maximum, toxic prompts", "expected maximum, non-toxic prompts"),
                *("probability, toxic prompts", "probability, non-toxic prompts"),
            ),
            _rows(
                "GPT-1 | 0.772 | 0.580 | 0.901 | 0.600",
                "GPT-2 small | 0.745 | 0.506 | 0.870 | 0.471",
                "GPT-3 davinci | 0.747 | 0.521 | 0.861 | 0.496",
                "CTRL | 0.729 | 0.517 | 0.846 | 0.489",
                "CTRL-wiki | 0.701 | 0.489 | 0.815 | 0.439",
                "DAPT, non-toxic | 0.566 | 0.366 | 0.584 | 0.223",
                "DAPT, toxic | 0.847 | 0.691 | 0.958 | 0.768",
                "PPLM, 10 completions | 0.517 | 0.316 | 0.489 | 0.168",
                "word filter | 0.682 | 0.475 | 0.807 | 0.422",
                "vocabulary shifting | 0.699 | 0.459 | 0.792 | 0.386",
                "attribute conditioning | 0.728 | 0.484 | 0.839 | 0.431",
            ),
        ),
        PublishedTable(
            "dexperts-v1",
            "Liu et al. 2021, notebooks/toxicity_results.ipynb of alisawuffles/DExperts",
            "Perspective API of 2021, which is not there any more; perplexity by GPT-2 XL",
            (
                "another draw of 10,000 non-toxic prompts",
                "completions without a score are dropped before the maximum",
                "perplexity is by GPT-2 XL, ours by the run's own reference",
            ),
            ("expected maximum", "probability", "perplexity", "distinct-1", "distinct-2", "distinct-3"),
            _rows(
                "GPT-2 large | 0.527 | 0.520 | 25.46 | 0.579 | 0.852 | 0.852",
                "PPLM (10 %) | 0.520 | 0.518 | 32.59 | 0.584 | 0.855 | 0.855",
                "non-toxic expert | 0.485 | 0.464 | 47.88 | 0.579 | 0.860 | 0.855",
                "DAPT | 0.428 | 0.360 | 31.22 | 0.568 | 0.835 | 0.841",
                "GeDi | 0.363 | 0.217 | 60.04 | 0.615 | 0.839 | 0.826",
                "DExperts, anti-expert only | 0.352 | 0.191 | 52.02 | 0.584 | 0.800 | 0.793",
                "DExperts large | 0.314 | 0.128 | 32.41 | 0.580 | 0.840 | 0.841",
                "DExperts medium | 0.307 | 0.125 | 32.51 | 0.571 | 0.835 | 0.839",
                "DExperts small | 0.302 | 0.118 | 38.20 | 0.557 | 0.820 | 0.829",
            ),
        ),
        _challenge(),
    )
}
"""By protocol."""


def published(protocol: str) -> PublishedTable:
    """Returns the table of a protocol; UsageError with the nearest name where there is none."""
    if protocol not in TABLES:
        known = ", ".join(TABLES)
        raise UsageError(
            f"--published: got {protocol!r}, expected one of {known}{did_you_mean(protocol, list(TABLES))}"
        )
    return TABLES[protocol]
