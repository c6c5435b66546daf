import pytest
import torch


@pytest.fixture
def prompts():
    from alignbench.records import Prompt

    texts = ["the dog runs", "a cat", "one red bird sings now", "the old man", "two dogs", "a bird sings"]
    return [Prompt(f"p{i}", text) for i, text in enumerate(texts)]


@pytest.fixture
def reward():
    """A reward that anybody can compute: the share of words that are `good`."""

    def share_of_good(prompts, completions):
        return [sum(word == "good" for word in text.split()) / 4 for text in completions]

    return share_of_good


@pytest.fixture
def sure_policy(tiny_policy):
    """Makes a small random policy with two layers that prefers some words clearly: a GPT-Neo or a Llama.

    The GPT-Neo likes to end; its output layer is tied to the embedding, the Llama's is not. With `adapter` a LoRA
    adapter is attached, `fresh` or with an effect (`trained`).
    """

    def make(family="gpt_neo", adapter=None):
        from alignbench.models.adapters import Lora
        from alignbench.models.language_model import LanguageModel

        policy = tiny_policy()
        torch.manual_seed(0)
        if family == "llama":
            policy = LanguageModel(_llama(policy.tokenizer), policy.tokenizer, "llama")
        else:
            words = policy.model.get_input_embeddings().weight.data.mul_(5)
            end = words[policy.eos_id]  # more likely than other words by a factor of e^2
            policy.model.transformer.ln_f.bias.data.add_(2.0 * end / end.dot(end))
        if adapter is not None:
            policy.add_adapter(Lora(r=4, target_modules=("q_proj", "v_proj")))
        if adapter == "trained":
            for name, parameter in policy.model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.1)
        return policy

    return make


def _llama(tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.15, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()
