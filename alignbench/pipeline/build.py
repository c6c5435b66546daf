"""From a recipe to the things it names: policy, reward, scorers, prompts, preference pairs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.embedded import resolve
from alignbench.errors import DataError, ModelError, UsageError
from alignbench.evaluation.protocols import get_protocol
from alignbench.pipeline import scorers
from alignbench.pipeline.prompt_limits import longest_measured, longest_trained_on
from alignbench.records import HeldOut, PreparedData, Prompt, Scorer
from alignbench.runtime.device import cache_directory
from datasets_prep.prepare import evaluation_settings
from datasets_prep.settings import PromptSettings

if TYPE_CHECKING:
    import torch

    from alignbench.models.chat import Chat
    from alignbench.models.language_model import LanguageModel
    from alignbench.recipe.recipe import Recipe
    from datasets_prep.cache import BuiltPairs

logger = logging.getLogger(__name__)


class Components:
    """Loads what one recipe names, onto one device."""

    def __init__(self, recipe: Recipe, artifacts: Mapping[str, Path], device: torch.device) -> None:
        self.recipe = recipe
        self.artifacts = artifacts
        """Artifact directories of upstream runs, by role (`policy`, `reward`)."""
        self.device = device
        self.joint = ""
        """What stands between a prompt and its completion where a scorer reads both; known with the policy."""

    # Models

    def start_policy(self) -> LanguageModel:
        """The policy that training starts from: the model of the recipe, or the policy of an upstream run."""
        from alignbench.models.loading import load_policy
        from alignbench.models.padding_check import check_padding
        from alignbench.scorers.reading import joint_of

        settings = self.recipe.policy
        if "policy" not in self.artifacts:
            policy = self.base_policy()
        else:
            policy = load_policy(
                self.artifacts["policy"],
                resolve,
                settings.revision,
                dtype=settings.dtype,
                device=self.device,
                chat=self._chat(),
                trust_remote_code=settings.trust_remote_code,
            )
        self._check_architecture(policy)
        self.joint = joint_of(policy)
        check_padding(policy)
        return policy

    def _check_architecture(self, policy: LanguageModel) -> None:
        """UsageError where the method cannot train this kind of policy."""
        from alignbench.methods.registry import known_methods, method_class

        method, kind = self.recipe.method, "seq2seq" if policy.is_encoder_decoder else "causal"
        trains_another = getattr(method, "model", None) is not None  # a reward model's own start
        if kind in method.architectures or trains_another:
            return
        able = [name for name in known_methods() if kind in method_class(name).architectures]
        what = "an encoder-decoder (seq2seq)" if policy.is_encoder_decoder else "a causal"
        raise UsageError(
            f"policy.model: got {self.recipe.policy.model!r}, {what} model, which {self.recipe.method_name} does not "
            f"train; expected a {' or '.join(sorted(method.architectures))} one, or a method that trains this one: "
            f"{', '.join(able)}"
        )

    def base_policy(self) -> LanguageModel:
        """The model of the recipe, untouched: what perplexity and KL refer to."""
        from alignbench.models.loading import load_language_model

        settings = self.recipe.policy
        return load_language_model(
            resolve(settings.model),
            revision=settings.revision,
            dtype=settings.dtype,
            quantization=settings.quantization,
            device=self.device,
            chat=self._chat(),
            shown_as=settings.model,
            trust_remote_code=settings.trust_remote_code,
        )

    def _chat(self) -> Chat | None:
        from alignbench.models.chat import Chat

        return Chat(self.recipe.chat.system, self.recipe.chat.template) if self.recipe.chat else None

    def reward_model_start(self, model: str | None) -> tuple[Any, Any]:
        """A checkpoint (None: the policy's) with one fresh output, and its tokenizer."""
        from alignbench.models.loading import load_classifier
        from alignbench.runtime.randomness import seed_everything
        from alignbench.scorers.reward_model import REWARD_LABEL

        seed_everything(self.recipe.seed)  # the fresh head is drawn from the global generator
        where, name, revision = "method.model", model, None
        trusts = self.recipe.policy.trust_remote_code if model is None else self.recipe.method.trust_remote_code
        if model is None and "policy" in self.artifacts:
            where, name = "policy.run", str(self.artifacts["policy"])
            if (self.artifacts["policy"] / "adapter_config.json").exists():
                raise ModelError("policy.run: a reward model cannot start from an adapter; set method.model")
        elif model is None:
            where, name, revision = "policy.model", resolve(self.recipe.policy.model), self.recipe.policy.revision
        assert name is not None
        classifier, tokenizer = load_classifier(
            resolve(name),
            where=where,
            revision=revision,
            device=self.device,
            labels=[REWARD_LABEL],
            trust_remote_code=trusts,
        )
        if classifier.config.is_encoder_decoder:
            raise UsageError(
                f"{where}: got {name!r}, an encoder-decoder model; a reward model starts from a causal model or a "
                "classifier, named by method.model"
            )
        return classifier, tokenizer

    # Scorers

    def training_reward(self) -> Scorer | None:
        """What training maximises: the score of the reward block, and what it adds to it."""
        return scorers.training_reward(self.recipe, self.artifacts, self.joint, self.device)

    def labeller(self) -> Scorer:
        """What labels preference pairs."""
        return scorers.labeller(self.recipe, self.artifacts, self.joint, self.device)

    def toxicity_scorers(self) -> dict[str, Scorer]:
        """The scorers of the evaluation by name, each giving a number between 0 and 1, larger for more harm."""
        return scorers.judges(self.recipe, self.joint, self.device)

    def scorers_that_see_prompts(self) -> list[str]:
        """Names of the scorers that read prompt and completion together, as one text or as turns of a chat."""
        return scorers.judges_that_see_prompts(self.recipe)

    # Data

    def prepared_prompts(self, policy: LanguageModel) -> PreparedData:
        """The prompts of the `data:` block in three splits, without what `data.on_leak` has left out."""
        from datasets_prep.leaks import without_leaks

        data = self._prepare(self.recipe.data, policy, longest_trained_on(self.recipe, policy))
        if self.recipe.data.on_leak == "drop":
            other = self._evaluation_prompts(policy)
            data = without_leaks(data, other.heldout if other else (), self._neutral_texts())
        logger.info("prompts: %s", ", ".join(f"{name} {value}" for name, value in data.statistics.items() if value))
        return data

    def heldout_prompts(self, policy: LanguageModel, data: PreparedData) -> HeldOut:
        """The prompts of the evaluation; never one that training may learn from. They do not depend on the method.

        Where the recipe evaluates on its validation split, these, and no held-out prompt is looked at.
        """
        from datasets_prep.prepare import prompt_rows
        from datasets_prep.splits import check_no_leak

        evaluation, source, prompts = self.recipe.evaluation, data, data.heldout
        of_own_file = self.recipe.data.heldout is not None
        wanted = evaluation.n_prompts or get_protocol(evaluation.protocol).n_prompts
        if evaluation.split == "validation":
            if not data.validation:
                raise DataError("evaluation.split: got validation, and that split is empty; raise validation_fraction")
            prompts, of_own_file = data.validation, False
        elif (other := self._evaluation_prompts(policy)) is not None:
            source, prompts, of_own_file = other, other.heldout, False
            check_no_leak({"data.prompts": (*data.train, *data.validation), "evaluation.prompts": prompts})
        if evaluation.split != "validation" and evaluation.n_prompts is not None and len(prompts) < wanted:
            raise DataError(
                f"evaluation.n_prompts: got {wanted}, expected at most {len(prompts)}, the held-out prompts"
            )
        rows = prompt_rows(source.statistics, longest_measured(self.recipe, policy), of_heldout=of_own_file)
        return HeldOut(prompts[:wanted], rows)

    def _evaluation_prompts(self, policy: LanguageModel) -> PreparedData | None:
        """What `evaluation.prompts` names, all of it held out; None where it names nothing."""
        source = self.recipe.evaluation.prompts
        if source is None:
            return None
        try:
            return self._prepare(evaluation_settings(source), policy)
        except DataError as error:
            raise DataError(f"evaluation.prompts: {error}") from error

    def neutral_texts(self, data: PreparedData) -> tuple[str, ...]:
        """The texts of `evaluation.neutral`; none is among the prompts that training may see."""
        from datasets_prep.neutral_texts import check_unseen

        texts = self._neutral_texts()
        check_unseen(texts, (*data.train, *data.validation))
        return texts

    def _neutral_texts(self) -> tuple[str, ...]:
        from datasets_prep.neutral_texts import read_texts

        source = self.recipe.evaluation.neutral
        if source is None:
            return ()
        return read_texts(resolve("embedded/neutral") if source == "embedded" else source)

    def known_texts(self, data: PreparedData, heldout: Sequence[Prompt]) -> tuple[set[str], dict[str, str]]:
        """Hashes of the texts that training could see, and of the held-out ones with their ids."""
        from datasets_prep.splits import known_texts

        trains = self.recipe.method_name != "untrained" or bool(self.recipe.upstream())
        return known_texts(data, heldout, trains=trains)

    def prompts_source(self) -> str | None:
        """The name of the protocol's own prompts, where the evaluation takes these; None for any other choice."""
        evaluation = self.recipe.evaluation
        if evaluation.split == "validation":
            return None
        if evaluation.prompts is None:
            # Their held-out split, unless the recipe filters or cuts them.
            return "embedded" if self.recipe.data == PromptSettings(prompts="embedded") else None
        return evaluation.prompts if isinstance(evaluation.prompts, str) else None

    def _prepare(
        self, settings: PromptSettings, policy: LanguageModel, training_tokens: int | None = None
    ) -> PreparedData:
        from datasets_prep.prepare import prepare_prompts

        if settings.prompts == "embedded":
            settings = settings.model_copy(update={"prompts": resolve("embedded/prompts")})
        return prepare_prompts(
            settings,
            policy.text_tokenizer,
            context_tokens=longest_measured(self.recipe, policy),
            training_tokens=training_tokens,
            cache_directory=cache_directory() / "data",
        )

    def training_pairs(self, policy: LanguageModel, prompts: Sequence[Prompt]) -> BuiltPairs:
        """Preference pairs of as many prompts as are wanted, or as the budget pays for."""
        recipe, settings = self.recipe, self.recipe.pairs
        most = recipe.budget.completions // settings.completions_per_prompt
        if not 1 <= (settings.n_prompts or most) <= most:
            raise UsageError(
                f"budget.completions: got {recipe.budget.completions}, expected at least "
                f"{(settings.n_prompts or 1) * settings.completions_per_prompt}: pairs.completions_per_prompt times "
                "pairs.n_prompts, or times one prompt"
            )
        return self._pairs(policy, prompts[: settings.n_prompts or most], "training")

    def heldout_pairs(self, policy: LanguageModel, heldout: HeldOut) -> tuple[BuiltPairs, HeldOut]:
        """Pairs of all held-out prompts, whatever the budget, and the prompts that they were drawn for.

        A prompt that leaves no room for completions of pairs is left out, and counted.
        """
        from datasets_prep.prompt_lengths import prompt_length

        longest, tokenizer = longest_trained_on(self.recipe, policy), policy.text_tokenizer
        prompts = tuple(prompt for prompt in heldout.prompts if prompt_length(tokenizer, prompt) <= longest)
        n_lost = len(heldout.prompts) - len(prompts)
        rows = heldout.rows
        if n_lost:
            reason = {f"longer than {longest} tokens, what completions of pairs leave of the context": n_lost}
            rows = replace(rows, left_out={**rows.left_out, **reason})
        return self._pairs(policy, prompts, "held-out"), HeldOut(prompts, rows)

    def _pairs(self, policy: LanguageModel, prompts: Sequence[Prompt], purpose: str) -> BuiltPairs:
        """Preference pairs of some prompts, drawn once and kept for every method that wants the same ones."""
        from alignbench.pipeline.pairs import kept_pairs
        from alignbench.scorers.room import without_room

        recipe, key, labeller = self.recipe, (self.recipe.seed, "pairs", purpose), self.labeller()
        for lacking in without_room(labeller, policy, prompts, recipe.pairs.completion_tokens[1]):
            logger.warning("pairs.completion_tokens: %s and take no part", lacking)
        directory = cache_directory() / "data"
        built = kept_pairs(policy, labeller, prompts, recipe.pairs, key, recipe.chat, directory)
        counts = ", ".join(f"{name} {value:.4g}" for name, value in built.statistics.items() if value)
        logger.info("%s pairs: %s", purpose, counts)
        return built
