import torch

from alignbench.models.adapters import Lora
from alignbench.models.shared_weights import on_the_same_weights


def test_the_other_model_is_the_same_without_what_is_attached_later(tiny_policy):
    policy = tiny_policy()
    ids = torch.tensor([[3, 4, 5]])
    other = on_the_same_weights(policy)
    before = policy.model(ids).logits
    assert torch.equal(other.model(ids).logits, before)
    assert not other.model(ids).logits.requires_grad
    assert before.requires_grad
    places = {name: tensor.data_ptr() for name, tensor in policy.model.named_parameters()}
    assert {name: tensor.data_ptr() for name, tensor in other.model.named_parameters()} == places
    assert other.model.get_output_embeddings().weight is other.model.get_input_embeddings().weight

    policy.add_adapter(Lora(r=2, target_modules=("q_proj",)))
    with torch.no_grad():
        for name, tensor in policy.model.named_parameters():
            if "lora_B" in name:
                tensor.fill_(1.0)
    assert not torch.equal(policy.model(ids).logits, before)
    assert torch.equal(other.model(ids).logits, before)
