from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from datasets_prep.settings import PairSettings, PromptSettings


def test_a_yaml_list_is_taken_as_token_range() -> None:
    assert PromptSettings.model_validate({"prompts": "a.csv", "prompt_tokens": [10, 15]}).prompt_tokens == (10, 15)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt_tokens", [15, 10]),
        ("prompt_tokens", [0, 10]),
        ("prompt_tokens", [10]),
        ("prompt_tokens", [10.5, 12]),
        ("min_prompt_toxicity", 1.5),
        ("min_prompt_toxicity", float("nan")),
        ("validation_fraction", -0.1),
        ("heldout_fraction", 0.95),  # beside 0.1 for validation
        ("max_prompts", 0),
        ("max_prompt_chars", "100"),
    ],
)
def test_a_wrong_value_is_refused_under_its_own_key(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        PromptSettings.model_validate({"prompts": "a.csv", field: value})
    assert {error["loc"][0] for error in caught.value.errors()} == {field}


def test_toxicity_range_must_not_be_empty() -> None:
    with pytest.raises(ValidationError, match=r"at least min_prompt_toxicity \(0\.5\)"):
        PromptSettings(prompts="a.csv", min_prompt_toxicity=0.5, max_prompt_toxicity=0.4)


def test_lengths_in_characters_must_not_be_empty() -> None:
    with pytest.raises(ValidationError, match=r"at most max_prompt_chars \(3\)"):
        PromptSettings(prompts="a.csv", min_prompt_chars=9, max_prompt_chars=3)


def test_a_pair_has_two_columns() -> None:
    for columns in ({"chosen_column": "a", "rejected_column": "a"}, {"rejected_column": "chosen"}):
        with pytest.raises(ValidationError, match="another column than that of the chosen text"):
            PairSettings(source="a.csv", **columns)


def test_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="min_toxicity"):
        PromptSettings.model_validate({"prompts": "a.csv", "min_toxicity": 0.3})


@pytest.mark.parametrize(
    ("field", "value"), [("completions_per_prompt", 1), ("min_margin", -1.0), ("max_length_ratio", 0.5)]
)
def test_pair_settings_refuse_what_cannot_make_pairs(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        PairSettings.model_validate({field: value})


def test_no_heavy_library_is_loaded() -> None:
    code = (
        "import sys, datasets_prep.prepare, datasets_prep.preference_pairs\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'pandas', 'pyarrow', 'scipy'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
