"""PPO on any policy against any reward, without recipes.

python examples/ppo_from_python.py EleutherAI/gpt-neo-125m --steps 20 --save my_policy     (or a local path)
"""

import argparse

from alignbench import Lora, PPOConfig, PPOTrainer, Prompt, load_policy

STARTS = ("The weather today is", "My neighbour said that", "In the city there was", "Nobody knew why the")


def reward(prompts, completions):
    """Your reward: a number for each completion, None where there is none. This one likes texts of five words."""
    return [-abs(len(text.split()) - 5) / 5 for text in completions]


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("policy", help="hub id or path of a language model")
    arguments.add_argument("--steps", type=int, default=20)
    arguments.add_argument("--save", default="my_policy")
    given = arguments.parse_args()

    policy = load_policy(given.policy)
    policy.add_adapter(Lora(r=16))  # leave it out to train every weight
    prompts = [Prompt(id=str(i), text=text) for i, text in enumerate(STARTS)]
    config = PPOConfig(batch_size=16, mini_batch_size=4, completion_tokens=(10, 20), learning_rate=1e-3)
    trainer = PPOTrainer(policy, reward, prompts, config, seed=0)
    trainer.train(
        given.steps, log=lambda step, m: print(f"{step} reward {m['objective/reward']:.3f} KL {m['objective/kl']:.2f}")
    )
    policy.save(given.save)
