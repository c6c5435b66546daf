"""From a recipe to the models and scorers it names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.embedded import resolve
from alignbench.errors import ModelError, UsageError
from alignbench.pipeline import scorers
from alignbench.records import Scorer

if TYPE_CHECKING:
    import torch

    from alignbench.models.chat import Chat
    from alignbench.models.language_model import LanguageModel
    from alignbench.recipe.recipe import Recipe


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
