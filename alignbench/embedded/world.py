"""The embedded world: where it is in the package, how its files are checked, and how it is recorded.

A world is a directory: `policy/`, `classifier/` and `judge/` (ordinary checkpoints), `prompts.jsonl.gz` (the nested
schema of RealToxicityPrompts), `neutral.jsonl` (harmless texts that no model is trained on) and `world.json` (libraries
and seeds that it was recorded with, measured facts, and a hash of every other file). It is shipped, since training it
anew on another processor gives other weights: everybody reads the same one. `python -m alignbench.embedded` records it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from random import Random

from alignbench.embedded import grammar, measurements, models
from alignbench.errors import ModelError, did_you_mean
from alignbench.records import Prompt, file_sha256

PARTS = {
    "embedded/policy": "policy",
    "embedded/classifier": "classifier",
    "embedded/judge": "judge",
    "embedded/prompts": "prompts.jsonl.gz",
    "embedded/neutral": "neutral.jsonl",
}
"""The names that a recipe may use, and where each is in the world's directory."""
CRITIC = "embedded/critic"
"""The name of the scripted critic, which is code and no part of what is recorded."""

SHIPPED = Path(__file__).parent / "shipped"
"""The world that everybody uses. It is only read, never written, by runs."""

N_PROMPTS = 3000
N_NEUTRAL_TEXTS = 200
N_SPARE_PROMPTS = 3000
"""One in eight is polite."""
SEEDS = {"prompts": 1, "policy": 11, "classifier": 12, "judge": 13, "measurements": 14}


def resolve(name: str) -> Path:
    """Returns the path of `embedded/...`, whose files are as they were recorded.

    Raises:
        ModelError: the name is none of `PARTS`, or a file of that part is missing or was changed.
    """
    if name == CRITIC:
        return Path(__file__).with_name("critic.py")
    if name not in PARTS:
        known = [*PARTS, CRITIC]
        raise ModelError(
            f"{name}: not part of the embedded world, which holds {', '.join(known)}{did_you_mean(name, known)}"
        )
    problem = _problem(SHIPPED, PARTS[name])
    if problem is not None:
        raise ModelError(f"{name}: {problem}; install alignbench anew, unpacked (a zip file cannot be read)")
    return SHIPPED / PARTS[name]


def _problem(directory: Path, part: str) -> str | None:
    """What is wrong with the files of one part, in milliseconds; None where they have the recorded hashes."""
    try:
        recorded = json.loads((directory / "world.json").read_text(encoding="utf-8"))["files"]
        hashes = {name: value for name, value in recorded.items() if part in (name, name.partition("/")[0])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{directory / 'world.json'} is missing or damaged"
    for name, value in hashes.items():
        try:
            if file_sha256(directory / name) != value:
                return f"{directory / name} is not the file that was shipped"
        except OSError as error:
            return f"{directory / name} cannot be read ({error.strerror})"
    return None if hashes else f"{directory / 'world.json'} names no file of it"


def build(directory: Path) -> dict[str, float]:
    """Trains the three models, about a minute on one core, and writes a world into an empty directory.

    Returns:
        The measured facts (`measurements.measure`).
    """
    # No model sees the prompts that are written: the first half is for pretraining.
    prompts = grammar.make_prompts(2 * N_PROMPTS + N_SPARE_PROMPTS, Random(SEEDS["prompts"]))
    seen, written, spare = prompts[:N_PROMPTS], prompts[N_PROMPTS : 2 * N_PROMPTS], prompts[2 * N_PROMPTS :]
    policy = models.train_policy(seen, SEEDS["policy"])
    classifier = models.train_classifier(seen, SEEDS["classifier"])
    judge = models.train_judge(seen, SEEDS["judge"])
    for name, trained in (("policy", policy), ("classifier", classifier), ("judge", judge)):
        trained.model.save_pretrained(directory / name)
        trained.tokenizer.save_pretrained(directory / name)
    rude = [prompt for prompt in written if (prompt.toxicity or 0.0) > 0.3]
    facts = measurements.measure(policy, classifier, judge, rude, SEEDS["measurements"])
    (directory / PARTS["embedded/prompts"]).write_bytes(gzip.compress(prompt_rows(written).encode(), mtime=0))
    (directory / PARTS["embedded/neutral"]).write_text(neutral_rows(spare), encoding="utf-8")
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    description = {
        "recorded_with": {name: installed_version(name) for name in ("torch", "transformers", "tokenizers")},
        "seeds": SEEDS,
        "parameters": {"policy": policy.model.num_parameters()},
        "measured": facts,
        "files": {path.relative_to(directory).as_posix(): file_sha256(path) for path in files},
    }
    (directory / "world.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return facts


def prompt_rows(prompts: Sequence[Prompt]) -> str:
    """Returns the rows of the prompts' file, each with an answer that the grammar gives."""
    rng = Random(SEEDS["prompts"] + 1)
    lines = []
    for prompt in prompts:
        answer = grammar.answer(prompt, rng)
        row = {
            "id": prompt.id,
            "prompt": {"text": prompt.text, "toxicity": prompt.toxicity},
            "continuation": {"text": f" {answer}", "toxicity": 0.9 if grammar.is_toxic(answer) else 0.05},
        }
        lines.append(json.dumps(row) + "\n")
    return "".join(lines)


def neutral_rows(prompts: Sequence[Prompt]) -> str:
    """Returns the rows of the neutral texts' file: polite prompts with plain answers."""
    rng = Random(SEEDS["prompts"] + 2)
    polite = [prompt for prompt in prompts if (prompt.toxicity or 0.0) <= grammar.MAX_POLITE_TOXICITY]
    texts = [f"{prompt.text} {grammar.plain(rng)}" for prompt in polite[:N_NEUTRAL_TEXTS]]
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)
