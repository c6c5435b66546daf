"""Raw source to prepared data: read, filter, cut, split, check, and keep the result.

Nothing depends on the order of rows in a file: prompts come in the order of a hash of their ids, so that the first n
of a split are a random sample of it. The exceptions are sources whose order means something (`wiki_toxic`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from alignbench.code_hash import code_hash
from alignbench.errors import DataError, did_you_mean
from alignbench.plugins import SOURCES
from alignbench.records import Prompt, fingerprint
from datasets_prep import hub, local_files, sources
from datasets_prep.cache import cached_prompts
from datasets_prep.columns import read_prompts
from datasets_prep.nested_text import unpacked
from datasets_prep.prepared import PreparedData, PromptRows
from datasets_prep.prompt_lengths import PromptCutter, ReadsConversations, TextTokenizer, prompt_length
from datasets_prep.rows import Row
from datasets_prep.settings import ColumnMapping, PromptSettings
from datasets_prep.sources.base import Request, Source
from datasets_prep.splits import Split, apart_from, check_no_leak, split_of, stable_hash
from datasets_prep.text_forms import normalised_text

_N_TOKENIZER_PROBES = 256
_NO_LIMIT = 10**9
"""A context of so many tokens is a library's way to say that there is no limit."""
_SOURCE_FIELDS = {
    "prompts", "config", "split", "revision", "columns", "heldout", "heldout_config", "heldout_split", "on_leak",
}  # fmt: skip
"""Fields that say where prompts come from. The fingerprint holds the prompts themselves instead."""
_STAGES = {
    "n_empty_text": ("without text", "columns.prompt"),
    "n_null_toxicity": ("without a toxicity", "columns.toxicity"),
    "n_outside_toxicity": ("outside the toxicity range", "min_prompt_toxicity or data.max_prompt_toxicity"),
    "n_over_max_chars": ("with too many characters", "max_prompt_chars"),
    "n_under_min_chars": ("with too few characters", "min_prompt_chars"),
    "n_duplicate_text": ("repeated", "prompts"),
    "n_leaked": ("held out elsewhere", "on_leak"),
    "n_too_short": ("with too few tokens", "prompt_tokens"),
    "n_uncuttable": ("that cannot be cut to the drawn length", "prompt_tokens"),
    "n_too_long": ("longer than the policy's context allows", "prompt_tokens"),
    "n_duplicate_after_cut": ("repeated once cut", "prompt_tokens"),
    "n_over_max_prompts": ("over the limit of prompts", "max_prompts"),
}
"""What can become of a row, in order: statistic, words for it, the key that loosens it."""


def source_settings(source: str) -> PromptSettings:
    """Returns the settings of held-out prompts that are given by the name or the path of their source alone."""
    known = sources.find(source, "prompts") or sources.of_copy(Path(source).expanduser())
    return PromptSettings(prompts=source, **(known.heldout if known else {}))


def evaluation_settings(source: str | PromptSettings) -> PromptSettings:
    """Returns the settings of a source that is held out as a whole: `evaluation.prompts`."""
    settings = source_settings(source) if isinstance(source, str) else source
    return settings.model_copy(update={"validation_fraction": 0.0, "heldout_fraction": 1.0, "heldout": None})


def prepare_prompts(
    settings: PromptSettings,
    tokenizer: TextTokenizer,
    *,
    context_tokens: int,
    training_tokens: int | None = None,
    cache_directory: Path | None,
) -> PreparedData:
    """Returns the prompts of a recipe in three splits that never meet.

    Args:
        settings: The `data:` block.
        tokenizer: The policy's tokenizer; lengths are counted with it.
        context_tokens: The longest prompt, in tokens, that the policy's context allows; longer ones are skipped.
        training_tokens: The same for the training split alone, where training needs more room; the other two splits
            do not depend on it. None: `context_tokens`.
        cache_directory: Where results are kept; None keeps nothing.

    Returns:
        The splits in hash order, or in that of the source where it means something. `statistics` counts what became of
        every row; the counts of a second source (`data.heldout`) are under `heldout/`, and under
        `n_too_long_for_training` the prompts that the training split alone has lost.

    Raises:
        DataError: A source cannot be read, or no prompt is left for a split that should have some.
        LeakError: `data.heldout` shares ids or texts with `data.prompts`, and these are not to be dropped.
    """
    pool, heldout_pool, counts = read_pools(settings, conversations=isinstance(tokenizer, ReadsConversations))
    longest_in_training = min(context_tokens, training_tokens if training_tokens is not None else context_tokens)
    key = fingerprint(
        {
            "settings": settings.model_dump(mode="json", exclude=_SOURCE_FIELDS),
            "content": _content(pool),
            "heldout": _content(heldout_pool),
            "rows": counts,
            "context_tokens": [context_tokens, longest_in_training],
            "tokenizer": _tokenizer_fingerprint(tokenizer, pool),
            "code": [code_hash(__name__), sources.code_of(settings.prompts, settings.heldout)],
        }
    )

    def build() -> PreparedData:
        data = _build(settings, tokenizer, context_tokens, pool, heldout_pool, counts, key)
        return data if longest_in_training == context_tokens else _fit_training(data, tokenizer, longest_in_training)

    data = build() if cache_directory is None else cached_prompts(cache_directory, key, build)
    check_no_leak({"train": data.train, "validation": data.validation, "heldout": data.heldout})
    return data


def read_pools(
    settings: PromptSettings, *, conversations: bool = False
) -> tuple[list[Prompt], list[Prompt], dict[str, Counter[str]]]:
    """Reads and filters the sources, without any tokenizer; `conversations` are for chat models.

    Returns:
        The uncut prompts of `prompts` and of `heldout`, and by source (``, `heldout/`) what became of its rows.

    Raises:
        DataError: As `prepare_prompts`.
        LeakError: As `prepare_prompts`.
    """
    counts: dict[str, Counter[str]] = {"": Counter()}
    pool = read_pool(settings, "prompts", counts[""], conversations=conversations)
    heldout_pool: list[Prompt] = []
    if settings.heldout is not None:
        counts["heldout/"] = Counter()
        heldout_pool = read_pool(settings, "heldout", counts["heldout/"], conversations=conversations)
        if settings.on_leak == "drop":
            kept = apart_from(pool, heldout_pool)
            counts[""]["n_leaked"] = len(pool) - len(kept)
            pool = kept
            if not pool:
                raise DataError(_nothing_left(f"data.prompts: {settings.prompts}: no prompt is left", counts[""]))
        check_no_leak({"data.prompts": pool, "data.heldout": heldout_pool})
    return pool, heldout_pool, counts


def uncut_splits(settings: PromptSettings, *, conversations: bool) -> dict[Split, list[Prompt]]:
    """Returns the uncut prompts of a `data:` block by the split they belong to; errors are those of `read_pools`."""
    pool, heldout_pool, _ = read_pools(settings, conversations=conversations)
    splits: dict[Split, list[Prompt]] = {"train": [], "validation": [], "heldout": heldout_pool}
    shares = settings.split_seed, settings.validation_fraction, _own_heldout_fraction(settings)
    for one in pool:
        splits[split_of(one.group or one.text, *shares)].append(one)
    return splits


def read_pool(
    settings: PromptSettings, field: str, counts: Counter[str] | None = None, *, conversations: bool = False
) -> list[Prompt]:
    """Returns the uncut prompts of one source that pass the filters, each text once, in hash order.

    Args:
        settings: The `data:` block.
        field: `prompts` or `heldout`.
        counts: Takes in what becomes of the rows.
        conversations: True where a prompt may be a list of messages.

    Raises:
        DataError: The source cannot be read, or no prompt is left.
    """
    counts = Counter() if counts is None else counts
    key, source = f"data.{field}", getattr(settings, field)
    has_filter = settings.min_prompt_toxicity is not None or settings.max_prompt_toxicity is not None
    rows, known = source_rows(settings, field, key)
    in_file_order = known is not None and known.in_file_order
    columns = columns_of(settings.columns, known, conversations=conversations)
    rows, counts["n_unpacked"] = unpacked(rows, columns, f"{key}: {source}")
    prompts = read_prompts(
        rows,
        columns,
        origin=f"{key}: {source}",
        needs_toxicity=has_filter,
        conversations=conversations,
    )
    counts["n_rows"] = len(prompts)
    kept = []
    for prompt in prompts:
        reason = _reason_to_skip(prompt, settings, has_filter)
        if reason is None:
            kept.append(prompt)
        else:
            counts[reason] += 1
    unique: dict[str, Prompt] = {}
    # Of rows with one text the smallest id stays: the order in the file must not matter. Where it does, the first.
    for prompt in kept if in_file_order else sorted(kept, key=_identity):
        unique.setdefault(normalised_text(prompt.text), prompt)
    counts["n_duplicate_text"] = len(kept) - len(unique)
    if not unique:
        raise DataError(_nothing_left(f"{key}: {source}: no prompt is left", counts))
    if in_file_order:
        return list(unique.values())
    return sorted(unique.values(), key=lambda prompt: stable_hash(settings.split_seed, "order", prompt.id))


def source_rows(settings: PromptSettings, field: str, key: str) -> tuple[Sequence[Row], Source | None]:
    """Returns the raw rows of `prompts` or `heldout`, and the source that they are of; None: of no source by name.

    Raises:
        DataError: They cannot be read.
    """
    name: str = getattr(settings, field)
    split = settings.split if field == "prompts" else settings.heldout_split
    revision = settings.revision if name == settings.prompts else None
    config = settings.config if field == "prompts" else settings.heldout_config
    if field == "heldout" and config is None and name == settings.prompts:
        config = settings.config
    known, path = sources.find(name, "prompts"), Path(name).expanduser()
    if known is not None or name == "embedded":
        hub.check_no_config(config, key, name)
    if known is not None:
        rows = known.read(Request(key, split, revision))
        if not rows:
            raise DataError(f"{key}: {name}: holds no rows, expected at least one.")
        return rows, known
    if name == "embedded":
        raise DataError(f"{key}: the embedded prompts have no name here; give the path of their file.")
    if path.is_dir() and (copied := sources.of_copy(path)) is not None:
        return copied.read(Request(key, split, folder=path)), copied
    if path.is_dir():
        return sources.of_layout(hub.read_rows(str(path), split, None, key, config=config))
    if is_local(name):
        hub.check_no_config(config, key, "a file")
        return sources.of_layout(local_files.read_rows(path, key))
    hint = did_you_mean(name, [*SOURCES.names(), "embedded"])
    return sources.of_layout(hub.read_rows(name, split, revision, key, hint, config))


def is_local(name: str) -> bool:
    """True where reading a source fetches nothing: a file or a folder, there or not, and sources that say so."""
    known = sources.find(name, "prompts")
    if known is not None or name == "embedded":
        return known is not None and known.hub_id is None
    return Path(name).expanduser().exists() or name.endswith(local_files.SUFFIXES) or name.startswith((".", "/", "~"))


def columns_of(own: ColumnMapping, source: Source | None, *, conversations: bool) -> ColumnMapping:
    """Returns the columns that a recipe names, for the rest those that its source does: messages for chat models."""
    if source is None:
        return own
    messages = {"prompt": "messages"} if conversations and source.has_messages else {}
    return source.columns.model_copy(update=messages | own.model_dump(exclude_none=True))


def _reason_to_skip(prompt: Prompt, settings: PromptSettings, has_toxicity_filter: bool) -> str | None:
    if not prompt.text.strip():
        return "n_empty_text"
    if has_toxicity_filter:
        if prompt.toxicity is None:
            return "n_null_toxicity"
        lowest, highest = settings.min_prompt_toxicity, settings.max_prompt_toxicity
        if (lowest is not None and prompt.toxicity < lowest) or (highest is not None and prompt.toxicity > highest):
            return "n_outside_toxicity"
    if settings.max_prompt_chars is not None and len(prompt.text) > settings.max_prompt_chars:
        return "n_over_max_chars"
    if settings.min_prompt_chars is not None and len(prompt.text) < settings.min_prompt_chars:
        return "n_under_min_chars"
    return None


def _build(
    settings: PromptSettings,
    tokenizer: TextTokenizer,
    context_tokens: int,
    pool: Sequence[Prompt],
    heldout_pool: Sequence[Prompt],
    source_counts: Mapping[str, Counter[str]],
    key: str,
) -> PreparedData:
    counts = {name: counter.copy() for name, counter in source_counts.items()}
    cutter = PromptCutter(tokenizer, context_tokens, settings.prompt_tokens, settings.split_seed, settings.template)
    splits: dict[Split, list[Prompt]] = {"train": [], "validation": [], "heldout": []}
    # The second source goes first: where cutting makes two texts equal, training loses its prompt, held-out keeps it.
    for _, prompt in cutter.cut(heldout_pool, None, counts.get("heldout/", Counter())):
        splits["heldout"].append(prompt)
    for uncut, prompt in cutter.cut(pool, settings.max_prompts, counts[""]):
        split = split_of(
            uncut.group or uncut.text,
            settings.split_seed,
            settings.validation_fraction,
            _own_heldout_fraction(settings),
        )
        splits[split].append(prompt)
    _check_splits(settings, splits, counts)
    statistics: dict[str, int | float] = {
        f"{source}{name}": counter[name]
        for source, counter in counts.items()
        for name in ("n_rows", "n_unpacked", *_STAGES)
    }
    statistics |= {f"n_{split}": len(prompts) for split, prompts in splits.items()}
    return PreparedData(
        train=tuple(splits["train"]),
        validation=tuple(splits["validation"]),
        heldout=tuple(splits["heldout"]),
        fingerprint=key,
        statistics=statistics,
    )


def _fit_training(data: PreparedData, tokenizer: TextTokenizer, longest: int) -> PreparedData:
    """Takes out of the training split what leaves no room for training's completions; DataError if that is all."""
    train = tuple(prompt for prompt in data.train if prompt_length(tokenizer, prompt) <= longest)
    if data.train and not train:
        raise DataError(
            f"data.prompts: all {len(data.train)} prompts of the training split are longer than {max(0, longest)} "
            "tokens, which is what the longest completion in training leaves of the policy's context. Cut them with "
            "data.prompt_tokens, or lower method.completion_tokens (pairs.completion_tokens where the method learns "
            "from pairs)."
        )
    n_lost = len(data.train) - len(train)
    counts = {"n_train": len(train), "n_too_long_for_training": n_lost}
    return replace(data, train=train, statistics={**data.statistics, **counts})


def prompt_rows(statistics: Mapping[str, int | float], context_tokens: int, *, of_heldout: bool = False) -> PromptRows:
    """Returns what became of the rows of a source, in words.

    Args:
        statistics: Those of prepared data.
        context_tokens: What they were prepared with.
        of_heldout: Of the second source (`data.heldout`) rather than of `data.prompts`.
    """
    source = "heldout/" if of_heldout else ""
    # Prompts that are held out elsewhere are left out of training alone.
    stages = {name: words for name, (words, _) in _STAGES.items() if name != "n_leaked"}
    counts = {words: int(statistics[f"{source}{name}"]) for name, words in stages.items()}
    left_out = {words: n for words, n in counts.items() if n}
    longest = context_tokens if context_tokens < _NO_LIMIT else None
    return PromptRows(int(statistics[f"{source}n_rows"]), left_out, longest)


def _check_splits(
    settings: PromptSettings, splits: Mapping[Split, Sequence[Prompt]], counts: Mapping[str, Counter[str]]
) -> None:
    """Raises DataError if a split that should have prompts has none."""
    if settings.heldout is not None and not splits["heldout"]:
        raise DataError(_nothing_left(f"data.heldout: {settings.heldout}: no prompt is left", counts["heldout/"]))
    own: tuple[Split, ...] = ("train", "validation", "heldout") if settings.heldout is None else ("train", "validation")
    n_own = sum(len(splits[split]) for split in own)
    if n_own == 0:
        raise DataError(_nothing_left(f"data.prompts: {settings.prompts}: no prompt is left", counts[""]))
    heldout_share = _own_heldout_fraction(settings)
    shares: dict[Split, float] = {
        "train": 1.0 - settings.validation_fraction - heldout_share,
        "validation": settings.validation_fraction,
        "heldout": heldout_share,
    }
    for split, share in shares.items():
        if share > 1e-9 and not splits[split]:
            raise DataError(
                f"data.prompts: {settings.prompts}: {n_own} prompts are left and none of them falls into the {split} "
                f"split, which should have {share:.0%}. Give more prompts, or change {_share_keys(split)}."
            )


def _own_heldout_fraction(settings: PromptSettings) -> float:
    """Share of `data.prompts` that is held out: none of it where `data.heldout` gives the held-out split."""
    return settings.heldout_fraction if settings.heldout is None else 0.0


def _share_keys(split: Split) -> str:
    return "the other fractions in data" if split == "train" else f"data.{split}_fraction"


def _nothing_left(start: str, counts: Counter[str]) -> str:
    """Returns a message that counts the rows at each stage and names the key that cost most."""
    lost = {name: counts[name] for name in _STAGES if counts[name]}
    stages = ", ".join(f"{n} {_STAGES[name][0]}" for name, n in lost.items())
    worst = max(lost, key=lambda name: lost[name])
    return f"{start}. Of {counts['n_rows']} rows: {stages}. Look first at data.{_STAGES[worst][1]}."


def _identity(prompt: Prompt) -> tuple[str, str, float]:
    return prompt.id, prompt.text, -1.0 if prompt.toxicity is None else prompt.toxicity


def _content(prompts: Sequence[Prompt]) -> str:
    return fingerprint([[*prompt.identity, prompt.toxicity, prompt.group] for prompt in prompts])


def _tokenizer_fingerprint(tokenizer: TextTokenizer, pool: Sequence[Prompt]) -> str:
    """Hash of how a sample of the prompts is encoded and decoded: the protocol gives a tokenizer no name."""
    probes = pool[:_N_TOKENIZER_PROBES]
    encodings = [tokenizer.encode(prompt.text) for prompt in probes]
    lengths = [prompt_length(tokenizer, prompt) for prompt in probes if prompt.messages is not None]
    return fingerprint([[[list(ids), tokenizer.decode(ids[: len(ids) // 2])] for ids in encodings], lengths])
