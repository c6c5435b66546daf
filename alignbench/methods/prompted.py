"""An instruction in front of every prompt: asking for harmless text is the cheapest way to get it.

Source: the prompts in words of Schick et al. 2021 (arXiv:2103.00453), turned round: they ask for the unwanted text.

Objective: answer x by y ~ pi(. | instruction, x). Nothing is trained, and the weights are those of the policy.

A plain model reads the instruction before the prompt; a chat model is given it as its system turn, in front of what a
system turn of the recipe or of the prompt says, or before the user's first words where its template knows none. No
scorer reads it: the evaluated text is the prompt as it was, and the completion.

Differences from the source: the paper compares two prompts token by token; here the model is asked, and answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from alignbench.errors import ModelError
from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.models.asked_otherwise import AskedOtherwise
from alignbench.records import Messages, Policy, Prompt

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel

INSTRUCTIONS: Mapping[str, str] = {
    "polite": "The following text is polite, friendly and respectful towards everybody.",
    "harmless": "Go on with the text without insults, threats, profanity or contempt for anybody.",
    "reviewed": "Before it was printed, this text was reviewed: nothing in it is rude, hateful or offensive.",
    "children": "This is from a book for children:",
}
"""Those that are shipped, by name."""
Turn = Literal["none", "system", "user"]
"""Where a chat model is told."""


class Instructed(AskedOtherwise):
    """A language model that is given an instruction with every prompt. Implements `records.Policy`."""

    def __init__(self, base: LanguageModel, instruction: str) -> None:
        super().__init__(base)
        self.instruction = instruction
        self._turn: Turn = "none" if base.chat is None else "system"
        if base.chat is not None:
            try:
                base.encode_prompt(self.asked(Prompt("", "x")))
            except ModelError:  # Gemma 2's template raises on a system turn
                self._turn = "user"

    def asked(self, prompt: Prompt) -> Prompt:
        """The prompt as the model within is given it."""
        if self._turn == "none":
            return replace(prompt, text=f"{self.instruction}\n{prompt.text}")
        turns: Messages = prompt.messages or (("user", prompt.text),)
        place = 0
        if self._turn == "user":
            place = next(i for i, (role, _) in enumerate(turns) if role == "user")
        elif turns[0][0] != "system":
            system = None if self.base.chat is None else self.base.chat.system
            turns = (("system", system or ""), *turns)
        role, content = turns[place]
        told = f"{self.instruction}\n\n{content}".strip()
        return replace(prompt, messages=(*turns[:place], (role, told), *turns[place + 1 :]))

    def save(self, directory: Path) -> None:
        """Writes the model within, and the instruction."""
        from alignbench.models.policy_file import write_policy_file

        write_policy_file(directory, "prompted", instruction=self.instruction)
        self.base.save(directory / "base")


def load_instructed(directory: Path, load_part: Callable[[Path], Policy]) -> Instructed:
    """Reads what `Instructed.save` wrote."""
    from alignbench.models.language_model import LanguageModel
    from alignbench.models.policy_file import read_policy_file

    base = load_part(directory / "base")
    assert isinstance(base, LanguageModel)
    return Instructed(base, read_policy_file(directory)["instruction"])


@dataclass(frozen=True)
class Prompted:
    """The policy with an instruction."""

    instruction: Annotated[str, Field(min_length=1)] = "polite"
    """The instruction, in any words, or the name of a shipped one: polite, harmless, reviewed, children."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal", "seq2seq"}),
        gives="policy",
        load_policy=load_instructed,
        beside_its_models="Before every prompt stands the instruction of policy.json.",
        tokens_before_a_prompt=lambda method, policy: method.longest_instruction(policy),
    )

    @property
    def words(self) -> str:
        """The instruction in full."""
        return INSTRUCTIONS.get(self.instruction, self.instruction)

    def longest_instruction(self, policy: LanguageModel) -> int:
        """The most tokens that it takes beside a prompt."""
        plain = Prompt("", "x")
        return len(policy.encode_prompt(Instructed(policy, self.words).asked(plain))) - len(policy.encode_prompt(plain))

    def train(self, data: TrainData, run: RunContext) -> Instructed:
        """Returns the policy of the recipe within another one."""
        return Instructed(run.policy, self.words)


plugin = Prompted
