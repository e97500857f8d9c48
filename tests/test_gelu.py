"""The head with batch norm: trained with it, saved as linear layers and GELU."""

import dataclasses

import pytest
import torch
from torch import nn

from heads.batched.fit import TrainingData, head_group
from heads.batched.layers import stack
from heads.batched.trainer import chunks, train_together
from heads.config import HeadConfig
from heads.modules import build_head, folded
from tests import test_trainer

WIDTHS = (512, 256, 128)
data, one_thread = test_trainer.data, test_trainer.one_thread


def trained(dim: int, classes: int) -> nn.Sequential:
    """A module as training leaves it: moments and scales of its own."""
    torch.manual_seed(0)
    module = build_head("mlp-gelu", dim, classes, training=True)
    assert isinstance(module, nn.Sequential)
    for layer in module:
        if isinstance(layer, nn.BatchNorm1d):
            for tensor in (layer.weight.data, layer.bias.data, layer.running_var):
                assert tensor is not None
                tensor.uniform_(0.5, 2)
            assert layer.running_mean is not None
            layer.running_mean.normal_()
    return module.eval()


def test_it_is_four_layers_of_the_studys_widths() -> None:
    linear = [m for m in trained(40, 3).modules() if isinstance(m, nn.Linear)]
    assert [layer.out_features for layer in linear] == [*WIDTHS, 3]


@torch.inference_mode()
def test_what_is_saved_has_no_batch_norm_and_answers_alike() -> None:
    module, saved = trained(40, 3), build_head("mlp-gelu", 40, 3).eval()
    saved.load_state_dict(folded(module.state_dict()))
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in saved.modules())
    x = torch.randn(64, 40)
    torch.testing.assert_close(saved(x), module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["single", "multi"])
def test_folding_leaves_other_heads_alone(name: str) -> None:
    state = build_head(name, 8, 2, training=True).state_dict()
    assert all(folded(state)[key] is tensor for key, tensor in state.items())


def test_its_gelu_is_exact() -> None:
    (layer, *_) = [m for m in trained(4, 2).modules() if isinstance(m, nn.GELU)]
    assert layer.approximate == "none"


@torch.no_grad()
@pytest.mark.parametrize("own", [0, 1, 2, 9])
def test_moments_are_of_a_heads_own_rows(own: int) -> None:
    """Of fewer than two, nothing is learnt. What torch's own layer learns of them, else."""
    x = torch.randn(9, 40, generator=torch.Generator().manual_seed(0))
    heads = stack("mlp-gelu", 40, 3, 2, 5, torch.zeros(1))
    counted = torch.ones(9, 2, dtype=torch.bool)
    counted[own:, 1] = False
    heads.forward(x, [torch.ones(9, width) for width in WIDTHS], counted)
    torch.manual_seed(5)
    module = build_head("mlp-gelu", 40, 3, training=True)
    assert isinstance(module, nn.Sequential)
    if own > 1:
        module[1](module[0](x[:own]))
    norm = module[1]
    assert isinstance(norm, nn.BatchNorm1d)
    torch.testing.assert_close(heads.running["1.running_mean"][1], norm.running_mean)
    torch.testing.assert_close(heads.running["1.running_var"][1], norm.running_var)


def test_a_batch_without_two_rows_of_a_head_trains_it_as_torch_does(data: TrainingData) -> None:
    """A few steps only: normalised by two rows, rounding grows threefold in each."""
    plain = HeadConfig("mlp-gelu", "adam", batch_size=1, epochs=1)
    both = [dataclasses.replace(plain, fold=fold) for fold in ("1/2", "2/2")]
    these = head_group(both, data)
    these = dataclasses.replace(these, pool=these.pool[:16])
    order = torch.Generator().manual_seed(0)
    torch.randint(1, (len(data.labels),), generator=order)
    batches = torch.split(these.pool[torch.randperm(16, generator=order)], these.batch_size)
    assert {int(n) for rows in batches for n in these.training[:, rows].sum(1)} == {0, 1, 2}
    for number, result in enumerate(train_together(these, data.rows, keep=True)):
        expected = test_trainer.alone(both[number], these, number, data.rows).state
        assert result.state
        assert expected
        for name, tensor in expected.items():
            assert (result.state[name] - tensor).abs().max() < 1e-5 * tensor.abs().max(), name


def test_company_changes_nothing_in_float32(data: TrainingData) -> None:
    """A bias before batch norm would walk at random: Adam makes whole steps of rounding."""
    rows = dataclasses.replace(data.rows, embeddings=data.rows.embeddings.float())
    single = TrainingData(data.labels, rows)
    wanted = [HeadConfig("mlp-gelu", "adam", lr, epochs=8) for lr in (1e-3, 1e-2, 1e-4)]
    first = test_trainer.all_of(wanted, single)[wanted[0]]
    alone = test_trainer.all_of(wanted[:1], single)[wanted[0]]
    assert first.state
    assert alone.state
    for name, tensor in alone.state.items():
        assert (first.state[name] - tensor).abs().max() < 1e-3 * tensor.abs().max(), name


def test_all_its_numbers_are_counted(data: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a pass is divided into what is worked on at once."""
    wanted = [HeadConfig("mlp-gelu", "adam", learning_rate=i / 100) for i in range(1, 8)]
    heads = stack("mlp-gelu", 96, 2, 1, 0, data.rows.embeddings)
    numbers = sum(tensor.numel() for tensor in heads.tensors)
    for room, size in ((3 * 4 * 8 * numbers, 3), (3 * 4 * 8 * numbers - 1, 2)):
        monkeypatch.setattr("heads.batched.trainer.WORKING_SET", room)
        parts = chunks(head_group(wanted, data), data.rows, "cpu", 1)
        assert len(parts[0].configurations) == size
