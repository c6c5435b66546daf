"""ProFS: what is projected out, what stays, and that text as such is left alone."""

import pytest
import torch

from alignbench.errors import ModelError, TrainingError
from alignbench.methods.base import TrainData
from alignbench.methods.projected import Projected, toxic_directions
from alignbench.models.hidden_states import blocks_of
from alignbench.models.language_model import LanguageModel
from alignbench.models.loading import weights_fingerprint
from alignbench.models.weight_projection import output_weight, project_out


@pytest.fixture
def states():
    """Texts that point along the first axis; toxic ones along the second and, half as much, the third besides."""
    torch.manual_seed(0)
    preferred = 10.0 * torch.eye(6, dtype=torch.float64)[0] + 0.01 * torch.randn(50, 6, dtype=torch.float64)
    amount = torch.randn(50, 2, dtype=torch.float64)
    rejected = preferred + 0.5  # longer along everything, the common direction too
    rejected[:, 1] += 4 * amount[:, 0]
    rejected[:, 2] += 2 * amount[:, 1]
    return rejected, preferred


def test_the_directions_are_those_of_the_difference(states):
    v = toxic_directions(*states, 2)
    p = v @ v.T
    assert torch.allclose(p, p.T)
    assert torch.allclose(p @ p, p, atol=1e-12)
    assert torch.trace(p).item() == pytest.approx(2)
    assert abs(v[1, 0]) > 0.95  # the stronger first
    assert abs(v[2, 1]) > 0.9


def test_the_way_of_all_text_is_no_direction(states):
    """By eigenvectors, as an oracle: the first of H^T H of preferred text, then those of the difference without it."""
    rejected, preferred = states
    first = torch.linalg.eigh(preferred.T @ preferred)[1][:, -1]
    mean = preferred.mean(dim=0)
    assert abs(first @ (mean / mean.norm())) > 0.999
    v = toxic_directions(rejected, preferred, 4)  # there are three
    assert v.shape == (6, 3)
    assert (v.T @ first).abs().max() < 1e-10
    rest = torch.eye(6, dtype=torch.float64) - torch.outer(first, first)
    difference = (rejected - preferred) @ rest
    oracle = torch.linalg.eigh(difference.T @ difference)[1].flip(1)[:, :3]
    assert torch.allclose(v @ v.T, oracle @ oracle.T, atol=1e-8)
    # Where the two sides differ along the mean alone, there is nothing to take out.
    along = preferred[:1].repeat(50, 1)
    assert toxic_directions(3 * along, along, 2).shape == (6, 0)
    assert toxic_directions(preferred, preferred, 2).shape == (6, 0)


FAMILIES = ["gpt2", "gpt_neo", "gptj", "opt", "bloom", "llama", "mistral", "qwen3", "pythia"]


@pytest.mark.parametrize("name", FAMILIES)
def test_no_layer_writes_along_the_directions_any_more(family, name):
    """The feed-forward part of each family, by what its last matrix writes for any input."""
    policy = LanguageModel(*family(name), name)
    block = blocks_of(policy.model)[1]
    v = torch.linalg.qr(torch.randn(16, 3, dtype=torch.float64))[0]
    weight, rows_are_outputs = output_weight(block, 16)
    before = weight.detach().double().clone()
    owner = next(label for label, one in block.named_parameters() if one is weight)
    assert owner in ("mlp.c_proj.weight", "mlp.fc_out.weight", "fc2.weight", "mlp.dense_4h_to_h.weight",
                     "mlp.down_proj.weight")  # fmt: skip
    project_out(block, v)
    outputs = weight.detach().double() if rows_are_outputs else weight.detach().double().T
    assert (v.T @ outputs).abs().max() < 1e-5
    rest = torch.eye(16, dtype=torch.float64) - v @ v.T
    expected = rest @ (before if rows_are_outputs else before.T)
    assert torch.allclose(outputs, expected, atol=1e-6)
    with pytest.raises(ModelError, match="expected one that writes 15 numbers"):
        output_weight(block, 15)


def test_no_direction_is_the_policy_bit_for_bit_and_below_the_first_layer_nothing_moves(
    pairs, tiny_policy, run_context
):
    data = TrainData([], [], pairs=pairs)
    run, _ = run_context(tiny_policy())
    same = Projected(directions=0, first_layer=0).train(data, run)
    assert weights_fingerprint(same.model) == weights_fingerprint(tiny_policy().model)
    run, _ = run_context(tiny_policy())
    edited = Projected(directions=3).train(data, run)
    moved = {
        name
        for (name, mine), other in zip(edited.model.named_parameters(), tiny_policy().model.parameters(), strict=True)
        if not torch.equal(mine, other)
    }
    assert moved == {"transformer.h.1.mlp.c_proj.weight"}
    assert run.cost.forward_flops > 0
    assert (run.cost.optimizer_steps, run.cost.backward_flops) == (0, 0)
    with pytest.raises(TrainingError, match=r"method.first_layer: got 2, expected 0 to 1"):
        Projected(first_layer=2).train(data, run)
