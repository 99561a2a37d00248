"""Each loss compared with its formula, computed pair by pair in plain Python."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.training.losses import (
    Margins,
    distillation_loss,
    hadsell_loss,
    info_nce,
    magnitude_loss,
    margin_loss,
    margins_around,
)

DTYPES = [torch.float32, torch.float64]


def unit(rows: list[list[float]], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=dtype), dim=1)


def batch(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four faces; 0 and 1 are one person, 0-2 and 1-3 labelled different, 1-3 counting half."""
    embeddings = unit([[1, 0, 0.2], [0.6, 0.8, 0], [0.9, 0.1, -0.4], [-0.3, 1, 0.5]], dtype)
    genuine, impostor = torch.zeros(2, 4, 4, dtype=dtype)
    genuine[0, 1] = genuine[1, 0] = 1
    impostor[0, 2] = impostor[2, 0] = 1
    impostor[1, 3] = impostor[3, 1] = 0.5
    return embeddings, genuine, impostor


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return math.dist(a.tolist(), b.tolist())


@pytest.mark.parametrize("dtype", DTYPES)
def test_hadsell_is_the_seeds_formula(dtype: torch.dtype) -> None:
    e, genuine, impostor = batch(dtype)
    pairs = [(0, 1, 1, 1.0), (0, 2, 0, 1.0), (1, 3, 0, 0.5)]
    want = sum(
        weight * (label * distance(e[i], e[j]) ** 2)
        + weight * (1 - label) * max(0.0, 1.0 - distance(e[i], e[j])) ** 2
        for i, j, label, weight in pairs
    ) / sum(weight for *_, weight in pairs)
    assert hadsell_loss(e @ e.T, genuine, impostor).item() == pytest.approx(want, rel=1e-5)


def test_hadsell_has_finite_gradients_for_identical_faces() -> None:
    e = unit([[1, 0], [1, 0]]).requires_grad_()
    couple = 1 - torch.eye(2, dtype=torch.float64)
    hadsell_loss(e @ e.T, couple, couple).backward()
    assert e.grad is not None
    assert torch.isfinite(e.grad).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_margin_loss_averages_each_class_over_its_own_pairs(dtype: torch.dtype) -> None:
    e, genuine, impostor = batch(dtype)
    s = e @ e.T
    margins = Margins(genuine=0.7, impostor=0.05)
    shortfall = max(0.0, 0.7 - s[0, 1].item()) ** 2
    excess = [max(0.0, s[0, 2].item() - 0.05) ** 2, max(0.0, s[1, 3].item() - 0.05) ** 2]
    want = shortfall + (excess[0] + 0.5 * excess[1]) / 1.5
    assert margin_loss(s, genuine, impostor, margins).item() == pytest.approx(want, rel=1e-5)


def test_pairs_beyond_their_margin_cost_nothing() -> None:
    s = torch.tensor([[0.75, 0.0], [0.0, 0.05]])
    genuine, impostor = torch.eye(2)[:1].repeat(2, 1) * torch.eye(2), torch.zeros(2, 2)
    impostor[1, 1] = 1
    assert margin_loss(s, genuine, impostor, Margins(0.75, 0.05)).item() == 0


@given(st.floats(-1, 1))
def test_every_wrongly_decided_pair_has_a_gradient(threshold: float) -> None:
    margins = margins_around(threshold)
    assert -1 <= margins.impostor <= threshold <= margins.genuine <= 1
    assert margins.impostor < margins.genuine
    just_below = torch.tensor([[threshold - 1e-3]], dtype=torch.float64, requires_grad=True)
    one, none = torch.ones(1, 1), torch.zeros(1, 1)
    margin_loss(just_below, one, none, margins).backward()
    assert just_below.grad is not None
    assert just_below.grad.item() < 0
    just_above = torch.tensor([[threshold + 1e-3]], dtype=torch.float64, requires_grad=True)
    margin_loss(just_above, none, one, margins).backward()
    assert just_above.grad is not None
    assert just_above.grad.item() > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_info_nce_is_the_cross_entropy_of_the_partner_among_the_impostors(
    dtype: torch.dtype,
) -> None:
    e, genuine, impostor = batch(dtype)
    s = (e @ e.T).tolist()
    first = -math.log(math.exp(s[0][1] / 0.2) / (math.exp(s[0][1] / 0.2) + math.exp(s[0][2] / 0.2)))
    second = -math.log(
        math.exp(s[1][0] / 0.2) / (math.exp(s[1][0] / 0.2) + 0.5 * math.exp(s[1][3] / 0.2))
    )
    got = info_nce(e @ e.T, genuine, impostor, 0.2).item()
    assert got == pytest.approx((first + second) / 2, rel=1e-5)


def test_a_batch_without_pairs_costs_nothing_and_has_no_nan_gradient() -> None:
    e = unit([[1, 0.5], [0.3, 1]]).requires_grad_()
    none = torch.zeros(2, 2, dtype=torch.float64)
    s = e @ e.T
    total = (
        hadsell_loss(s, none, none)
        + margin_loss(s, none, none, Margins(0.7, 0.0))
        + info_nce(s, none, none, 0.1)
    )
    total.backward()
    assert total.item() == 0
    assert e.grad is not None
    assert (e.grad == 0).all()


def test_genuine_pairs_without_impostors_cost_nothing_to_rank() -> None:
    e = unit([[1, 0.5], [0.3, 1]]).requires_grad_()
    couple = 1 - torch.eye(2, dtype=torch.float64)
    loss = info_nce(e @ e.T, couple, torch.zeros_like(couple), 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert e.grad is not None
    assert torch.isfinite(e.grad).all()


def test_distillation_is_the_mean_squared_distance_from_the_parent() -> None:
    child, parent = unit([[1, 0], [0, 1]]), unit([[1, 0], [1, 0]])
    assert distillation_loss(child, parent).item() == pytest.approx((0 + 2) / 2)


def test_magnitude_loss_is_relative_and_the_same_both_ways() -> None:
    parent = torch.tensor([10.0, 30.0])
    assert magnitude_loss(parent, parent).item() == 0
    doubled, halved = magnitude_loss(2 * parent, parent), magnitude_loss(parent / 2, parent)
    assert doubled.item() == pytest.approx(math.log(2) ** 2)
    assert halved.item() == pytest.approx(math.log(2) ** 2)
