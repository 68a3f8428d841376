"""Deformable attention: the forms agree with `grid_sample`, and our own loops are exact, repeatable and safe.

The Triton loops run on a GPU where there is one, else in Triton's interpreter.
"""

import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec, module_from_spec
from itertools import chain, pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oddetr.models.kernels import compiled, cpu, deformable, deformable_attention
from oddetr.models.kernels.choice import are_plain, compiled_kernel
from oddetr.models.kernels.cpu import numba_attention
from oddetr.models.kernels.inputs import common_precision
from oddetr.models.kernels.operators import gather_attention, grid_sample_attention

Form = Callable[..., Tensor]
Shapes = tuple[tuple[int, int], ...]


def triton_form(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The Triton form of CPU tensors."""
    from oddetr.models.kernels.gpu import triton_attention

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return triton_attention(value.to(device), shapes, locations.to(device), weights.to(device)).to(value.device)


needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
TRITON = pytest.param(triton_form, marks=needs_triton)
OURS = [numba_attention, gather_attention, TRITON]
FORMS = [*OURS, grid_sample_attention]


class OnGPU(Tensor):
    """Says that it is on a GPU."""

    device = torch.device("cuda")


class Inputs(NamedTuple):
    value: Tensor
    shapes: Shapes
    locations: Tensor
    weights: Tensor

    def to(self, dtype: torch.dtype) -> "Inputs":
        return Inputs(self.value.to(dtype), self.shapes, self.locations.to(dtype), self.weights.to(dtype))

    def with_gradients(self) -> "Inputs":
        value, locations, weights = (tensor.detach().requires_grad_() for tensor in (self[0], *self[2:]))
        return Inputs(value, self.shapes, locations, weights)


def random_inputs(
    shapes: Shapes = ((6, 8), (3, 4)),
    batch: int = 2,
    queries: int = 4,
    heads: int = 2,
    width: int = 5,
    points: int = 3,
    seed: int = 0,
) -> Inputs:
    """Float64 inputs whose points lie inside and outside, each at least 1/20 of a pixel from where a slope jumps."""
    random = torch.Generator().manual_seed(seed)
    extent = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float64)[:, None]
    sizes = (batch, queries, heads, len(shapes), points)
    pixel = (torch.rand(*sizes, 2, generator=random, dtype=torch.float64) * (extent + 3) - 2).floor()
    within = torch.rand(*sizes, 2, generator=random, dtype=torch.float64) * 0.9 + 0.05
    tokens = sum(h * w for h, w in shapes)
    return Inputs(
        torch.randn(batch, tokens, heads, width, generator=random, dtype=torch.float64),
        shapes,
        (pixel + within + 0.5) / extent,
        torch.rand(*sizes, generator=random, dtype=torch.float64),
    )


def results_of(form: Form, inputs: Inputs) -> list[Tensor]:
    """The output and the gradients of a sum of it with fixed random coefficients."""
    inputs = inputs.with_gradients()
    output = form(*inputs)
    coefficients = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad((output * coefficients).sum(), (inputs.value, inputs.locations, inputs.weights))
    return [output.detach(), *gradients]


def assert_agree(form: Form, inputs: Inputs, **tolerance: float) -> None:
    for found, expected in zip(results_of(form, inputs), results_of(grid_sample_attention, inputs), strict=True):
        torch.testing.assert_close(found, expected, **tolerance)


@pytest.mark.parametrize("form", OURS)
def test_forms_agree_with_grid_sample(form: Form) -> None:
    """In float64 for sizes that fill no block, in float32, and on pixel centres and borders."""
    assert_agree(form, random_inputs(shapes=((5, 3), (1, 1)), queries=33, heads=1, width=12, points=1))
    inputs = random_inputs(shapes=((4, 8), (2, 4))).to(torch.float32)
    assert_agree(form, inputs, rtol=1e-4, atol=1e-4)
    halves = torch.arange(-2, inputs.locations.numel() - 2, dtype=torch.float32) % 21 / 16
    assert_agree(form, inputs._replace(locations=halves.view_as(inputs.locations)), rtol=1e-4, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4).map(tuple),
    sizes=st.tuples(*[st.integers(1, 4)] * 3),
    width=st.integers(1, 40),
    points=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_forms_agree_for_arbitrary_sizes(
    shapes: Shapes, sizes: tuple[int, int, int], width: int, points: int, seed: int
) -> None:
    inputs = random_inputs(shapes, *sizes, width, points, seed)
    for form in (numba_attention, gather_attention):
        assert_agree(form, inputs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_is_rounded_at_the_ends_only(form: Form) -> None:
    half = random_inputs().to(torch.float16)
    expected = grid_sample_attention(*half.to(torch.float32))
    torch.testing.assert_close(form(*half).float(), expected, rtol=1e-2, atol=1e-5)

    precise = random_inputs().to(torch.float32)
    inputs = precise._replace(value=precise.value.bfloat16())
    output, to_value, to_locations, _ = results_of(form, inputs)
    assert (output.dtype, to_value.dtype, to_locations.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    expected = results_of(grid_sample_attention, inputs._replace(value=inputs.value.float()))
    torch.testing.assert_close(output.float(), expected[0], rtol=1e-2, atol=1e-5)
    torch.testing.assert_close(to_value.float(), expected[1], rtol=1e-2, atol=1e-2)


def test_numba_attention_is_bitwise_repeatable_with_any_threads(threads: Callable[[int], None]) -> None:
    """Also of two Python threads at once."""
    inputs = random_inputs(shapes=((9, 11), (4, 5)), queries=300, heads=3, width=24, points=4).to(torch.float32)
    threads(1)
    expected = results_of(numba_attention, inputs)

    def attend(_: int) -> list[list[Tensor]]:
        torch.set_num_threads(2)
        return [results_of(numba_attention, inputs) for _ in range(3)]

    threads(2)
    with ThreadPoolExecutor(2) as pool:
        for found in chain.from_iterable(pool.map(attend, range(2))):
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_loops_are_bitwise_equal_however_tasks_are_cut() -> None:
    inputs = random_inputs(batch=2, queries=3, heads=3)
    output, to_value, to_locations, to_weights = (tensor.numpy() for tensor in results_of(numba_attention, inputs))
    value = inputs.value.flatten(0, 2)
    arrays = cpu._arrays(inputs.shapes, value, inputs.locations, inputs.weights)
    random = torch.Generator().manual_seed(1)
    gradient = torch.randn(output.shape, generator=random, dtype=torch.float64).view(2, 3, 3, -1).numpy()
    found_output = np.empty_like(gradient)
    found = np.zeros(value.shape), np.empty_like(to_locations), np.empty_like(to_weights)
    for first, last in pairwise((0, 0, 2, 5, 6)):
        cpu.forward(*arrays, found_output, first, last)
        cpu.backward(*arrays, gradient, *found, first, last)
    assert np.array_equal(found_output.reshape(output.shape), output)
    assert np.array_equal(found[0].reshape(to_value.shape), to_value)
    assert np.array_equal(found[1], to_locations)
    assert np.array_equal(found[2], to_weights)


@pytest.mark.filterwarnings("ignore:(invalid|overflow).* encountered:RuntimeWarning")  # of Triton's interpreter
@pytest.mark.parametrize("form", FORMS)
def test_a_location_that_is_not_finite_makes_its_head_nan_and_a_far_one_gives_zero(form: Form) -> None:
    inputs = random_inputs().to(torch.float32)
    expected = torch.zeros(2, 4, 2, 5, dtype=torch.bool)
    for place, bad in (((1, 3, 1), float("nan")), ((0, 2, 0), float("-inf"))):
        inputs.locations[*place, 0, 2, 1] = bad
        expected[place] = True
    output, _, to_locations, to_weights = results_of(form, inputs)
    assert torch.equal(output.isnan(), expected.flatten(2))
    for place in ((1, 3, 1), (0, 2, 0)):
        assert to_locations[*place, 0, 2].isnan().any()
        assert to_weights[*place, 0, 2].isnan()
    # Each point of each level at another place, so that none hides another.
    far = torch.tensor([1e30, -1e30, 1e9, -1e9, 2.0**31, -(2.0**63)]).view(2, 3, 1).expand_as(inputs.locations)
    assert not any(found.any() for found in results_of(form, inputs._replace(locations=far)))


@pytest.mark.parametrize("form", OURS)
def test_forms_accept_strided_inputs_and_give_only_wanted_gradients(form: Form) -> None:
    inputs = random_inputs()
    strided = inputs._replace(
        value=inputs.value.transpose(1, 3).contiguous().transpose(1, 3),
        locations=inputs.locations.flip(-1).contiguous().flip(-1).transpose(0, 1).contiguous().transpose(0, 1),
        weights=torch.stack([inputs.weights, inputs.weights], dim=-1)[..., 0],
    )
    expected = results_of(grid_sample_attention, inputs)
    for found, wanted in zip(results_of(form, strided), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    strided.locations.requires_grad_()
    output = form(*strided)
    coefficients = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (output * coefficients).sum().backward()
    torch.testing.assert_close(strided.locations.grad, expected[2])
    assert strided.value.grad is strided.weights.grad is None


@pytest.mark.parametrize(("batch", "queries"), [(0, 3), (2, 0)])
def test_empty_inputs_give_empty_output_and_zero_gradients(batch: int, queries: int) -> None:
    inputs = random_inputs(batch=batch, queries=queries).with_gradients()
    output = deformable_attention(*inputs)
    assert output.shape == (batch, queries, 10)
    output.sum().backward()
    assert inputs.value.grad is not None
    assert not inputs.value.grad.any()


def test_deformable_attention_works_under_functorch() -> None:
    inputs = random_inputs().with_gradients()

    def loss(value: Tensor) -> Tensor:
        return deformable_attention(value, inputs.shapes, inputs.locations, inputs.weights).square().sum()

    values = torch.stack([inputs.value, 2 * inputs.value]).detach()
    found = torch.func.vmap(torch.func.grad(loss))(values)
    for value, gradient in zip(values, found, strict=True):
        value.requires_grad_()
        torch.testing.assert_close(gradient, torch.autograd.grad(loss(value), value)[0])


def fails(device: str) -> None:
    raise OSError("gcc")


@pytest.mark.parametrize("module", [None, SimpleNamespace(trial=fails)], ids=["missing", "does not compile"])
def test_without_a_compiler_grid_sample_runs_after_one_warning(
    monkeypatch: pytest.MonkeyPatch, module: SimpleNamespace | None
) -> None:
    monkeypatch.setitem(sys.modules, "oddetr.models.kernels.cpu", module)
    compiled_kernel.cache_clear()
    inputs = random_inputs()
    try:
        with pytest.warns(UserWarning, match="numba_attention cannot be compiled here"):
            output = deformable_attention(*inputs)
        assert torch.equal(output, grid_sample_attention(*inputs))
        assert torch.equal(deformable_attention(*inputs), output)
    finally:
        compiled_kernel.cache_clear()


@needs_triton
def test_without_a_c_compiler_a_gpu_runs_grid_sample_after_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton looks for one when it first runs on a GPU."""
    from triton.runtime import build

    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("oddetr.models.kernels.gpu.trial", lambda device: build._find_compiler.__wrapped__("c"))
    monkeypatch.setattr(deformable, "are_plain", lambda *_: True)
    inputs = random_inputs()
    on_gpu = inputs._replace(value=inputs.value.as_subclass(OnGPU))
    compiled_kernel.cache_clear()
    try:
        with pytest.warns(UserWarning, match="Triton needs a C compiler .* Failed to find C compiler") as warned:
            outputs = [deformable_attention(*on_gpu) for _ in range(2)]
    finally:
        compiled_kernel.cache_clear()
    assert len(warned) == 1
    assert all(torch.equal(output, grid_sample_attention(*inputs)) for output in outputs)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("cpu", "numba_attention"),
        ("depthwise_cpu", "numba_depthwise"),
        pytest.param("gpu", "triton_attention", marks=needs_triton),
    ],
)
def test_kernels_compile_when_first_used_in_inference(module: str, name: str) -> None:
    compiled_kernel.cache_clear()
    device = "cuda" if module == "gpu" and torch.cuda.is_available() else "cpu"
    with torch.inference_mode():
        assert compiled_kernel(module, name, device) is not None


@pytest.mark.parametrize("form", [deformable_attention, *FORMS])
def test_inputs_that_contradict_each_other_are_refused(form: Form) -> None:
    inputs = random_inputs()
    for shapes in (((6, 8), (3, 5)), ((6, 8), (-3, -4)), ((10, 6), (0, 5))):
        with pytest.raises(ValueError, match=re.escape(f"{shapes} do not hold the 60 tokens")):
            form(*inputs._replace(shapes=shapes))
    with pytest.raises(ValueError, match=r"weights \(2, 4, 2, 2, 3\); found .* \(2, 4, 2, 2, 2\)"):
        common_precision(*inputs._replace(weights=inputs.weights[..., :2]))


@pytest.mark.parametrize("deterministic", [False, True])
def test_each_device_has_its_form(monkeypatch: pytest.MonkeyPatch, deterministic: bool) -> None:
    used: list[str] = []

    def named(name: str) -> Form:
        return lambda value, *_: used.append(name) or torch.zeros(2, 4, 10)

    monkeypatch.setattr(deformable, "compiled_kernel", lambda module, *_: named(module))
    monkeypatch.setattr(deformable, "gather_attention", named("gather"))
    monkeypatch.setattr(deformable, "are_plain", lambda *_: True)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    inputs = random_inputs()
    for value in (inputs.value, inputs.value.as_subclass(OnGPU)):
        deformable_attention(*inputs._replace(value=value))
    assert used == ["cpu", "gather" if deterministic else "gpu"]


def test_plain_tensors_are_of_no_subclass_and_on_one_device() -> None:
    here = torch.zeros(1)
    assert are_plain(here, torch.nn.Parameter(here))
    assert not are_plain(here, torch.zeros(1, device="meta"))
    assert not are_plain(here.as_subclass(type("Other", (Tensor,), {})))


def test_loops_compile_where_nothing_can_be_cached() -> None:
    namespace: dict[str, Callable[[int], int]] = {}
    exec("def double(number): return 2 * number", namespace)
    assert compiled.compiled(namespace["double"])(4) == 8


@needs_triton
def test_values_that_32_bits_cannot_address_are_refused() -> None:
    from oddetr.models.kernels.gpu import triton_attention

    points = torch.empty(1, 3, 8, 1, 4, 2, device="meta")
    with pytest.raises(ValueError, match="An image of 8,388,608 tokens x 8 heads x 32 is too large"):
        triton_attention(torch.empty(1, 1 << 23, 8, 32, device="meta"), ((1 << 12, 1 << 11),), points, points[..., 0])


@pytest.fixture
def gpu_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The Triton loops as a GPU has them, not interpreted."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    spec = find_spec("oddetr.models.kernels.gpu")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_triton
def test_gpu_loops_are_compiled_once_for_all_numbers_of_images_queries_and_tokens(gpu_module: ModuleType) -> None:
    """Triton compiles anew for each key of its cache, which may tell 1 and multiples of 16 from other numbers."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    keys: dict[str, set[str]] = {"forward": set(), "backward": set()}

    def recorded(name: str) -> dict[Any, Callable[..., None]]:
        loop = getattr(gpu_module, name)
        bind = create_function_from_signature(loop.signature, loop.params, make_backend(GPUTarget("cuda", 90, 32)))
        return defaultdict(lambda: lambda *args, **constants: keys[name].add(str(bind(*args, **constants)[1:])))

    for name in keys:
        setattr(gpu_module, name, recorded(name))
    for batch, queries, shapes in ((1, 1, ((1, 1),)), (2, 16, ((4, 4),)), (3, 300, ((6, 8),)), (16, 17, ((5, 3),))):
        value, _, locations, weights = random_inputs(shapes, batch, queries)
        output = gpu_module._forward(shapes, value, locations, weights)
        gpu_module._backward(shapes, value, locations, weights, output)
    assert [len(found) for found in keys.values()] == [1, 1]


@pytest.mark.slow
@needs_triton
def test_gpu_loops_compile_without_a_gpu(tmp_path: Path) -> None:
    """On 9.0 they need no barrier, at which all warps of a program wait."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    script = Path(__file__).parents[2] / "benchmarks" / "gpu_code.py"
    process = subprocess.run(
        [sys.executable, script, "--capabilities", "75,90"], capture_output=True, text=True, check=True, env=environment
    )
    rows = re.findall(r"^\| (?:forward|backward) \| \S+ \| (\S+) \| \d+ \| (\d+)", process.stdout, re.MULTILINE)
    assert len(rows) == 8
    assert [int(barriers) for capability, barriers in rows if capability == "9.0"] == [0] * 4
