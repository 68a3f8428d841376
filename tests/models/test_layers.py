"""Layers in the place of timm's: equal in results, gradients and names."""

import copy
import pickle
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from oddetr.models.kernels import depthwise_cpu
from oddetr.models.kernels.choice import compiled_kernel
from oddetr.models.kernels.depthwise import depthwise_conv2d
from oddetr.models.layers import DepthwiseConv2d, FrozenNorm, replace_layers
from tests.operations import Operations


def random_case(
    channels: int = 5,
    sides: tuple[int, int] = (7, 9),
    size: int = 5,
    bias: bool = True,
    dtype: torch.dtype = torch.double,
) -> list[Tensor]:
    """Input, weight and, if wished, bias of a depthwise convolution; all with gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, channels, *sides), (channels, 1, size, size), (channels,)][: 2 + bias]
    return [torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True) for shape in shapes]


def ours(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 2) -> Tensor:
    return depthwise_conv2d(input, weight, bias, stride, padding)


def gradients(convolve: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Output, and gradients of a sum of it with fixed random coefficients."""
    output = convolve(*inputs)
    coefficients = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    return [output, *torch.autograd.grad((output * coefficients).sum(), inputs)]


@pytest.mark.parametrize(
    ("inputs", "stride", "padding"),
    [
        (random_case(), 1, 2),
        (random_case(), 2, 2),
        (random_case(bias=False), 1, 2),
        (random_case(size=7, sides=(3, 2)), 1, 3),
        (random_case(channels=131, sides=(6, 5)), 2, 1),
        (random_case(channels=1, size=1, sides=(1, 1)), 1, 0),
        (random_case(channels=64, sides=(16, 16), dtype=torch.float32), 1, 2),
    ],
    ids=["usual", "stride 2", "no bias", "larger than the map", "blocks", "all ones", "float32"],
)
def test_depthwise_agrees_with_torch(inputs: list[Tensor], stride: int, padding: int) -> None:
    geometry = {"stride": stride, "padding": padding}
    found = gradients(partial(ours, **geometry), inputs)
    expected = gradients(partial(F.conv2d, **geometry, groups=len(inputs[1])), inputs)
    assert found[0].grad_fn is not None
    assert "NumbaDepthwise" in found[0].grad_fn.name()
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if found[0].dtype == torch.float32 else {}
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def test_depthwise_takes_any_memory_order_and_gives_only_wanted_gradients() -> None:
    input, weight, bias = random_case(dtype=torch.float32)
    expected = gradients(ours, [input, weight, bias])
    last = input.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    strided = torch.stack([input, input], dim=-1)[..., 0].detach().requires_grad_()
    for other in (last, strided):
        for found, wanted in zip(gradients(ours, [other, weight, bias]), expected, strict=True):
            torch.testing.assert_close(found, wanted)
    for wanted in ((1,), (0, 2)):
        inputs = [each.detach().requires_grad_(place in wanted) for place, each in enumerate((input, weight, bias))]
        ours(*inputs).sum().backward()
        assert [each.grad is not None for each in inputs] == [place in wanted for place in range(3)]


def test_depthwise_loops_are_bitwise_equal_with_any_threads() -> None:
    generator = np.random.default_rng(0)
    input, gradient = (generator.standard_normal((2, 6, 5, 400)).astype(np.float32) for _ in range(2))
    whole, shared = (np.zeros((5, 5, 400), np.float32) for _ in range(2))
    depthwise_cpu._serial(input, gradient, 1, 2, whole, 0, 7)
    depthwise_cpu._parallel(input, gradient, 1, 2, shared, 3)
    assert whole.any()
    assert np.array_equal(whole, shared)


def test_depthwise_works_under_functorch() -> None:
    input, weight, _ = random_case()

    def loss(weight: Tensor) -> Tensor:
        return depthwise_conv2d(input.detach(), weight, None, 1, 2).square().sum()

    weights = torch.stack([weight, 2 * weight]).detach()
    found = torch.func.vmap(torch.func.grad(loss))(weights)
    for each, gradient in zip(weights, found, strict=True):
        each.requires_grad_()
        torch.testing.assert_close(gradient, torch.autograd.grad(loss(each), each)[0])


def test_depthwise_falls_back_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_ours(inputs: list[Tensor]) -> bool:
        function = ours(*inputs).grad_fn
        return function is not None and "NumbaDepthwise" in function.name()

    inputs = random_case(dtype=torch.float32)
    assert is_ours(inputs)
    with torch.no_grad():
        assert not is_ours(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_ours(inputs)
    assert not is_ours([each.detach().bfloat16().requires_grad_() for each in inputs])
    monkeypatch.setitem(sys.modules, "oddetr.models.kernels.depthwise_cpu", None)
    compiled_kernel.cache_clear()
    try:
        with pytest.warns(UserWarning, match="numba_depthwise cannot be compiled here"):
            assert not is_ours(inputs)
    finally:
        compiled_kernel.cache_clear()


@pytest.mark.parametrize(
    ("convolution", "suits"),
    [
        (nn.Conv2d(4, 4, 5, padding=2, groups=4), True),
        (Conv2dSame(4, 4, 5, stride=2, groups=4), True),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), False),
        (nn.Conv2d(4, 8, 5, padding=2, groups=4), False),
        (nn.Conv2d(4, 4, 5, padding=2, groups=2), False),
        (nn.Conv2d(4, 4, 5, padding=4, dilation=2, groups=4), False),
        (nn.Conv2d(4, 4, (5, 7), padding=2, groups=4), False),
        (nn.Conv2d(4, 4, 5, padding="same", groups=4), False),
        (nn.Linear(4, 4), False),
    ],
    ids=str,
)
def test_depthwise_replaces_only_what_it_can(convolution: nn.Module, suits: bool) -> None:
    assert DepthwiseConv2d.suits(convolution) is suits
    if suits:
        images = torch.randn(2, 4, 9, 8)
        torch.testing.assert_close(DepthwiseConv2d(convolution)(images), convolution(images))


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_replaced_layers_equal_timms(name: str) -> None:
    torch.manual_seed(0)
    ours, theirs = (timm.create_model(name, features_only=True, out_indices=(-3, -2, -1)) for _ in range(2))
    with torch.no_grad():
        for key, value in theirs.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.ndim == 1:
                value.add_(torch.randn(value.shape) * 0.1)
    theirs = freeze_batch_norm_2d(theirs)
    replace_layers(ours, freeze_norms=True)
    assert any(isinstance(each, FrozenNorm) for each in ours.modules())
    assert [key for key, _ in ours.named_parameters()] == [key for key, _ in theirs.named_parameters()]
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64, dtype=torch.double).contiguous(memory_format=torch.channels_last)
    copied = copy.deepcopy(ours).double()
    for model in (ours, theirs):
        model.double()
        sum(each.square().mean() for each in model(images)).backward()
    for mine, other, copys in zip(ours(images), theirs(images), copied(images), strict=True):
        torch.testing.assert_close(mine, other)
        assert copys.equal(mine)
        assert mine.is_contiguous(memory_format=torch.channels_last)
    for (key, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, msg=key)


def test_frozen_norm_without_parameters_equals_evaluation_and_others_stay() -> None:
    norm = nn.BatchNorm2d(3, affine=False)
    norm(torch.randn(4, 3, 5, 5) * 3 + 1)
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(FrozenNorm(norm)(images), norm.eval()(images))
    model = timm.create_model("mobilenetv3_small_050", features_only=True)
    replace_layers(model, freeze_norms=False)
    assert not any(isinstance(each, FrozenNorm) for each in model.modules())
    assert any(isinstance(each, DepthwiseConv2d) for each in model.modules())


def frozen_norm(seed: int = 0) -> FrozenNorm:
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert value is not None
            value.uniform_(0.5, 1.5)
    return FrozenNorm(norm)


def normalised(norm: FrozenNorm, x: Tensor) -> Tensor:
    """The formula, from the buffers as they are."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    return torch.addcmul(shift.view(-1, 1, 1), x, scale.view(-1, 1, 1))


def changed_in_place(norm: FrozenNorm) -> FrozenNorm:
    with torch.no_grad():
        torch._foreach_lerp_([*norm.buffers()], [*frozen_norm(1).buffers()], 0.5)
    return norm


def loaded(norm: FrozenNorm, assign: bool = False) -> FrozenNorm:
    norm.load_state_dict(frozen_norm(1).state_dict(), assign=assign)
    return norm


@pytest.mark.parametrize(
    "changed",
    [
        loaded,
        partial(loaded, assign=True),
        changed_in_place,
        lambda norm: changed_in_place(copy.deepcopy(norm)),
        lambda norm: copy.deepcopy(changed_in_place(norm)),
        lambda norm: pickle.loads(pickle.dumps(changed_in_place(norm))),
        lambda norm: norm.double(),
    ],
    ids=["loaded", "assigned", "in place", "copied, changed", "changed, copied", "changed, pickled", "moved"],
)
def test_frozen_norm_after_a_change_then_is_that_of_its_buffers(changed: Callable[[FrozenNorm], FrozenNorm]) -> None:
    norm, images = frozen_norm(), torch.randn(2, 3, 4, 4)
    before = norm(images)
    assert before.equal(normalised(norm, images))
    after = changed(norm)
    found = after(images.to(after.weight.dtype))
    assert found.equal(normalised(after, images.to(after.weight.dtype)))
    assert not found.equal(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_frozen_norm_is_one_operation_in_the_type_of_the_maps(dtype: torch.dtype) -> None:
    """And prediction, whose tensors no training may use, does not hinder it."""
    norm, images = frozen_norm(), torch.randn(2, 3, 4, 4).to(dtype).requires_grad_()
    with torch.inference_mode():
        norm(images)
    with Operations() as forward:
        found = norm(images)
    gradient = torch.ones_like(found)
    with Operations() as backward:
        found.backward(gradient)
    assert forward.names == {"addcmul": 1}
    assert backward.names == {"mul": 2}  # one of them over the maps
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), normalised(norm, images.float()), rtol=2**-7, atol=2**-7)
    assert images.grad is not None
    expected = (norm.weight * (norm.running_var + norm.eps).rsqrt()).view(-1, 1, 1).expand_as(images)
    torch.testing.assert_close(images.grad.float(), expected, rtol=2**-8, atol=0)
