"""Dropout: right on average, repeatable by torch's seed, and its gradient is that of what it did."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from oddetr.models.kernels import dropout
from oddetr.models.kernels.dropout import dropout_
from oddetr.models.kernels.dropout_cpu import numba_dropout
from tests.models.helpers import small_batch, small_detector


def dropped(x: Tensor, p: float, relu: bool = False, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The output, and the gradient of its sum with 1, 2, 3 ... as coefficients."""
    torch.manual_seed(seed)
    x = x.clone().requires_grad_()
    output = dropout_(x * 1, p, True, relu)
    (gradient,) = torch.autograd.grad(output, x, torch.arange(1.0, x.numel() + 1).view(x.shape).to(x.dtype))
    return output.detach(), gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("relu", [False, True])
def test_dropout_when_training_then_kept_numbers_are_scaled_and_the_others_are_zero(
    relu: bool, dtype: torch.dtype
) -> None:
    """2 x 3 x 5000 numbers at p = 0.25: kept ones are 4/3 of what they were, and so are their gradients."""
    x = torch.randn(2, 3, 5000, dtype=dtype, generator=torch.Generator().manual_seed(1))
    output, gradient = dropped(x, 0.25, relu)
    kept = output != 0
    expected = x.relu() if relu else x
    torch.testing.assert_close(output, torch.where(kept, expected / 0.75, 0))
    coefficients = torch.arange(1.0, x.numel() + 1).view(x.shape).to(dtype)
    torch.testing.assert_close(gradient, torch.where(kept, coefficients / 0.75, 0))
    assert kept[expected != 0].float().mean() == pytest.approx(0.75, abs=0.01)


def test_dropout_when_looked_at_place_by_place_then_no_place_is_favoured() -> None:
    """200 draws of 500 places at p = 1/2: by place and by neighbours as independent coins would fall."""
    draws = torch.stack([dropped(torch.ones(500), 0.5, seed=seed)[0] != 0 for seed in range(200)]).double()
    assert (draws.mean(dim=0) - 0.5).abs().max() < 5 * 0.5 / 200**0.5
    assert (draws.mean(dim=1) - 0.5).abs().max() < 5 * 0.5 / 500**0.5
    for distance in (1, 2, 4, 16, 64):
        together = ((draws[:, distance:] - 0.5) * (draws[:, :-distance] - 0.5)).mean()
        assert abs(together) < 5 * 0.25 / (200 * (500 - distance)) ** 0.5
    between = ((draws[1:] - 0.5) * (draws[:-1] - 0.5)).mean()
    assert abs(between) < 5 * 0.25 / (199 * 500) ** 0.5


def test_dropout_when_seeded_then_is_the_same_and_else_another() -> None:
    x = torch.ones(1000)
    first, again, other = (dropped(x, 0.5, seed=seed)[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(3)
    assert not torch.equal(dropout_(x.clone(), 0.5, True), dropout_(x.clone(), 0.5, True))


@pytest.mark.parametrize("relu", [False, True])
def test_dropout_when_threaded_then_every_bit_is_the_same(threads: Callable[[int], None], relu: bool) -> None:
    x = torch.randn(700_001, generator=torch.Generator().manual_seed(1))
    threads(1)
    alone = dropped(x, 0.1, relu)
    threads(2)
    assert all(torch.equal(one, other) for one, other in zip(alone, dropped(x, 0.1, relu), strict=True))


@pytest.mark.parametrize("relu", [False, True])
def test_dropout_when_differentiated_numerically_then_first_and_second_derivatives_agree(relu: bool) -> None:
    x = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def drop(x: Tensor) -> Tensor:
        torch.manual_seed(5)
        return dropout_(x * 1, 0.3, True, relu)

    assert torch.autograd.gradcheck(drop, (x,))
    assert torch.autograd.gradgradcheck(drop, (x,))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.5, False)])
def test_dropout_when_off_then_does_nothing_and_draws_nothing(p: float, training: bool, relu: bool) -> None:
    x = torch.randn(100)
    torch.manual_seed(0)
    output = dropout_(x.clone(), p, training, relu)
    assert torch.equal(output, x.relu() if relu else x)
    drawn = torch.rand(())
    torch.manual_seed(0)
    assert drawn == torch.rand(())


@pytest.mark.parametrize("relu", [False, True])
def test_dropout_when_a_number_is_nan_then_stays_nan(relu: bool) -> None:
    output, _ = dropped(torch.full((64,), torch.nan), 0.5, relu)
    assert output.isnan().all()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("graded", [False, True])
def test_dropout_when_on_the_cpu_then_loops_work_in_the_inputs_memory(relu: bool, graded: bool) -> None:
    """With and without gradient alike: a checkpoint's second forward pass drops what its first one dropped."""
    leaf = torch.randn(3, 40, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with torch.set_grad_enabled(graded):
        x = leaf * 1
        output = dropout_(x, 0.5, True, relu)
    assert output.data_ptr() == x.data_ptr()
    assert type(output.grad_fn).__name__ == ("NumbaDropoutBackward" if graded else "NoneType")
    torch.manual_seed(0)
    graded_output = dropout_(leaf * 1, 0.5, True, relu)
    torch.manual_seed(0)
    with torch.no_grad():
        assert torch.equal(dropout_(leaf * 1, 0.5, True, relu), graded_output)


@pytest.mark.parametrize("why", ["half precision", "not contiguous", "a leaf", "no numba"])
def test_dropout_when_loops_do_not_suit_then_torch_drops(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "no numba":
        monkeypatch.setattr(dropout, "own_form", lambda *_: None)
    x = torch.ones(50, 40, dtype=torch.bfloat16 if why == "half precision" else torch.float32)
    x = x.t() if why == "not contiguous" else x
    x.requires_grad_(why == "a leaf")
    torch.manual_seed(0)
    found = dropout_(x, 0.5, True, relu=True)
    torch.manual_seed(0)
    assert torch.equal(found, F.dropout(x.relu(), 0.5))
    assert (x == 1).all()


def aside(x: Tensor, p: float, relu: bool) -> Tensor:
    """What the loops do, but in memory of its own: x times what they make of ones."""
    return (x.relu() if relu else x) * numba_dropout(torch.ones_like(x), p, False)


@pytest.mark.parametrize("variant", ["plain", "dino"])
def test_detector_when_dropping_in_place_then_gradients_are_as_if_aside(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that backward reads is overwritten."""
    batch, found = small_batch(), []
    for form in (numba_dropout, aside):
        monkeypatch.setattr(dropout, "own_form", lambda *_, form=form: form)
        detector = small_detector(variant, dropout=0.3).train()
        torch.manual_seed(1)
        predictions = detector(batch.images, batch.padding_mask)
        (predictions.logits.square().sum() + predictions.boxes.sum()).backward()
        found.append({name: each.grad for name, each in detector.named_parameters() if each.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-4, atol=1e-5, msg=name)
