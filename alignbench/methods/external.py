"""A model that was trained elsewhere: measured as it is, beside the recipe's own model, which is its reference.

Objective: none here. `policy.model` is the base that KL and perplexity refer to, the same as in the other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.records import Completion, Cost, Decoding, GivesDistributions, Policy, Prompt, ReadsTexts

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.models.language_model import LanguageModel


NAMES = ("model", "adapter", "reference")
"""What `policy.json` names."""


class ExternalPolicy:
    """A policy of another origin, its completions told in the tokens of the reference. Implements `records.Policy`."""

    def __init__(self, policy: Policy, reference: LanguageModel, saved: Mapping[str, object]) -> None:
        from alignbench.models.foreign_tokens import fitted
        from alignbench.models.language_model import LanguageModel

        self.policy, self.reference, self.saved = policy, reference, saved
        self.tokens = fitted(policy, reference) if isinstance(policy, LanguageModel) else "same"

    @property
    def spent(self) -> Cost:
        """What the policy within has spent, in its own tokens."""
        return self.policy.spent

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
    ) -> list[Completion]:
        """Samples completions; of other tokens each has the ids that the reference reads its text as."""
        from alignbench.models.foreign_tokens import retold

        drawn = self.policy.generate(prompts, decoding, n_samples, key)
        if self.tokens != "other":
            return drawn
        owners = (prompt for prompt in prompts for _ in range(n_samples))
        return [retold(self.reference, prompt, one) for prompt, one in zip(owners, drawn, strict=True)]

    def token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Tensor] | None:
        """Log-probabilities in nats, one float32 CPU tensor per completion; None of a policy with other tokens."""
        return None if self.tokens == "other" else self.policy.token_logprobs(prompts, completions)

    def next_token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Tensor] | None:
        """Log-probabilities in nats of every word before each token; None where the reference has other words."""
        if self.tokens != "same" or not isinstance(self.policy, GivesDistributions):
            return None
        return self.policy.next_token_logprobs(prompts, completions)

    def text_logprobs(self, texts: Sequence[str], max_tokens: int) -> list[Tensor] | None:
        """Log-probabilities in nats of texts; None of a policy with other tokens, whose perplexity is another one."""
        if self.tokens == "other" or not isinstance(self.policy, ReadsTexts):
            return None
        return self.policy.text_logprobs(texts, max_tokens)

    def save(self, directory: Path) -> None:
        """Writes which model it is: the model itself stays where it lies."""
        from alignbench.models.policy_file import write_policy_file

        write_policy_file(directory, "external", **self.saved)


def load_external(directory: Path, load_part: Callable[[Path], Policy]) -> ExternalPolicy:
    """Reads what `ExternalPolicy.save` wrote."""
    from alignbench.embedded import resolve
    from alignbench.models.language_model import LanguageModel
    from alignbench.models.policy_file import read_policy_file

    saved = {key: value for key, value in read_policy_file(directory).items() if key != "kind"}
    reference = load_part(Path(resolve(saved["reference"])))
    assert isinstance(reference, LanguageModel)
    policy = load_part(Path(resolve(saved["model"])))
    return ExternalPolicy(_adapted(policy, saved["adapter"]), reference, saved)


def _adapted(policy: Policy, adapter: str | None) -> Policy:
    """A policy with an adapter merged into it."""
    from alignbench.errors import UsageError
    from alignbench.models.adapters import merged
    from alignbench.models.language_model import LanguageModel

    if adapter is None:
        return policy
    if not isinstance(policy, LanguageModel):
        raise UsageError(f"method.adapter: got {adapter!r} for a policy that is no single model")
    policy.model = merged(policy.model, adapter, None, "method.adapter")
    return policy


@dataclass(frozen=True)
class External:
    """A model trained elsewhere."""

    model: str
    """Hub id or local path of a model, of an adapter, or of what a run has saved or exported."""
    adapter: str | None = None
    """Hub id or local path of an adapter that is merged into the model; null: none."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; null: the newest."""
    trust_remote_code: bool = False
    """Run Python code that the model brings with it; false: a model that needs its own is refused."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal", "seq2seq"}),
        gives="policy",
        load_policy=load_external,
        moved=lambda record, move: record | {key: move(record[key]) for key in NAMES if record[key] is not None},
        is_made_elsewhere=True,
        reads=lambda method: {"model": method.model} | ({"adapter": method.adapter} if method.adapter else {}),
        beside_its_models="It was trained elsewhere, and is the model that policy.json names.",
    )

    def train(self, data: TrainData, run: RunContext) -> ExternalPolicy:
        """Loads the model, in the precision of the recipe; nothing is trained."""
        from alignbench.embedded import resolve
        from alignbench.models.loading import load_policy

        reference = run.policy
        policy = load_policy(
            resolve(self.model),
            resolve,
            self.revision,
            where="method.model",
            dtype=str(next(reference.model.parameters()).dtype).removeprefix("torch."),
            device=reference.device,
            chat=reference.chat,
            trust_remote_code=self.trust_remote_code,
        )
        saved = {"model": self.model, "adapter": self.adapter, "reference": reference.name}
        return ExternalPolicy(_adapted(policy, self.adapter), reference, saved)


plugin = External
