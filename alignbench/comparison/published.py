"""Rows of published tables that were measured under a protocol which is still to be had: to be shown, never tested."""

from __future__ import annotations

from dataclasses import dataclass

PROTOCOL = "challenge-v1"
TITLE = "Published under this protocol"
HEADER = ("policy", "method", "toxicity", "perplexity", "source")
SOURCE = "arXiv:2510.01243, Table 1"
LEGEND = (
    "Numbers of the paper, mean (standard deviation) of three runs, of 2,000 pairs where a method is trained: beside "
    "other models, kernels and perhaps other prompts, so no test sets them against the rows above. Toxicity by "
    "unitary/toxic-bert, perplexity of the texts under the original model."
)


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One cell of the table with its perplexity."""

    policy: str
    method: str
    toxicity: float
    """Mean, 0 to 1."""
    toxicity_sd: float | None
    """Over runs; None where none is given."""
    perplexity: float | None


def _of(policy: str, *cells: tuple[str, float, float | None, float | None]) -> tuple[PublishedRow, ...]:
    """Rows of one policy; toxicity and its deviation in percent, as they are printed."""
    return tuple(
        PublishedRow(policy, method, round(mean / 100, 6), None if sd is None else round(sd / 100, 6), perplexity)
        for method, mean, sd, perplexity in cells
    )


ROWS = (
    *_of(
        "GPT-2 medium",
        ("original", 48.00, None, 9.00),
        ("banned-word filter", 32.26, None, 13.76),
        ("ProFS", 24.30, 0.53, 12.37),
        ("Re-Control", 29.68, 0.85, 16.62),
        ("RAD", 21.33, 0.73, 13.26),
        ("GenARM", 36.89, 0.78, 14.59),
        ("steering by one direction", 19.79, 0.67, 11.57),
        ("ARGRE", 18.45, 0.62, 12.81),
    ),
    *_of(
        "Mistral-7B",
        ("original", 42.79, None, 7.14),
        ("banned-word filter", 32.30, None, 13.96),
        ("ProFS", 30.14, 0.98, 18.34),
        ("Re-Control", 33.44, 1.14, 17.22),
        ("RAD", 27.07, 1.09, 15.74),
        ("GenARM", 21.52, 1.03, 16.42),
        ("steering by one direction", 19.40, 1.11, 12.03),
        ("ARGRE", 18.30, 0.89, 13.24),
    ),
    *_of(
        "LLaMA-7B",
        ("original", 43.27, None, 6.97),
        ("banned-word filter", 33.75, None, 13.17),
        ("ProFS", 28.07, 1.09, 12.38),
        ("Re-Control", 32.52, 1.19, 16.58),
        ("RAD", 31.12, 0.75, 15.43),
        ("GenARM", 23.86, 0.84, 14.76),
        ("DPO", 34.30, None, None),
        ("steering by one direction", 19.49, 0.59, 11.60),
        ("ARGRE", 18.06, 0.68, 12.36),
    ),
)
"""As printed, in its order."""


def cells_of(row: PublishedRow) -> list[str]:
    """Returns a row as tables show it."""
    spread = "" if row.toxicity_sd is None else f" ({row.toxicity_sd:.4f})"
    perplexity = "-" if row.perplexity is None else f"{row.perplexity:.2f}"
    return [row.policy, row.method, f"{row.toxicity:.4f}{spread}", perplexity, SOURCE]
