"""What a method says of itself, and what is asked of what it gives."""

import pytest

from alignbench.errors import TrainingError
from alignbench.methods.base import OwnStart, require_policy
from alignbench.methods.dpo import DPO
from alignbench.methods.ppo import PPO
from alignbench.methods.reward_model import RewardModel
from alignbench.methods.untrained import Untrained


@pytest.mark.parametrize(
    ("method", "learns_from", "calls_reward", "architectures", "gives", "several_processes"),
    [
        (Untrained, set(), False, {"causal", "seq2seq"}, "language_model", True),
        (PPO, {"prompts"}, True, {"causal", "seq2seq"}, "language_model", True),
        (DPO, {"preference_pairs"}, False, {"causal"}, "language_model", False),
        (RewardModel, {"preference_pairs"}, False, {"causal", "classifier"}, "reward_model", False),
    ],
)
def test_facts_of_the_built_in_methods(method, learns_from, calls_reward, architectures, gives, several_processes):
    facts = method.facts
    assert facts.learns_from == learns_from
    assert facts.calls_reward == calls_reward
    assert facts.architectures == architectures
    assert facts.gives == gives
    assert facts.gives_policy == (gives != "reward_model")
    assert facts.several_processes == several_processes
    assert facts.roles == {"policy", "reward"}
    assert facts.load_policy is None


def test_facts_that_depend_on_the_settings():
    ppo = PPO(batch_size=8, mini_batch_size=4, micro_batch_size=2, completion_tokens=(3, 7), kl_coef=0, kl_target=None)
    assert PPO.facts.longest_completion(ppo) == 7
    assert PPO.facts.texts_in_a_pass(ppo) == 2
    assert PPO.facts.texts_in_a_pass(PPO(gradient_checkpointing=True)) == 1
    assert "nothing holds the policy near the reference" in PPO.facts.cautions(ppo)[0]
    assert DPO.facts.longest_completion(DPO()) is None
    assert [DPO.facts.texts_in_a_pass(DPO(batch_size=8, micro_batch_size=n)) for n in (None, 2)] == [16, 4]
    assert DPO.facts.own_start(DPO()) is None
    start = RewardModel(model="some/classifier", text="chat", trust_remote_code=True)
    assert RewardModel.facts.own_start(start) == OwnStart("some/classifier", "chat", True)


def test_what_is_no_policy_is_refused_by_what_it_lacks(tiny_policy):
    class Half:
        spent = None

        def generate(self): ...

    policy = tiny_policy()
    assert require_policy(policy, "ppo") is policy
    with pytest.raises(TrainingError, match="half gave a Half without token_logprobs, save, expected a policy"):
        require_policy(Half(), "half")
