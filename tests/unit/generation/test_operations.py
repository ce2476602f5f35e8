"""The compiled operations of a CPU beside PyTorch's, which a GPU uses."""

from collections.abc import Callable

import pytest
import torch

from glm_engine.operations import CPUOperations, Operations, TorchOperations, to_cos_sin

EPS = 1e-5
DTYPES = [torch.float32, torch.bfloat16]


def both(dtype: torch.dtype) -> tuple[Operations, Operations]:
    return CPUOperations(dtype, EPS), TorchOperations(dtype, torch.device("cpu"), EPS)


def noise(*shape: int, dtype: torch.dtype, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


def assert_close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    half = {torch.bfloat16, torch.float16} & {ours.dtype, expected.dtype}
    limit = 2e-2 if half else 1e-5
    torch.testing.assert_close(ours.float(), expected.float(), rtol=limit, atol=limit)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_norms(dtype: torch.dtype, rows: int) -> None:
    cpu, by_torch = both(dtype)
    x, weight, after = noise(rows, 70, dtype=dtype), noise(70, dtype=dtype), noise(70, dtype=dtype)
    assert_close(cpu.norm(x, cpu.weight(weight)), by_torch.norm(x, weight))

    hidden = noise(rows, 70, dtype=torch.float32)
    for ours, expected in zip(
        cpu.add_norm(hidden.clone(), x, cpu.weight(weight)),
        by_torch.add_norm(hidden.to(dtype), x, weight),
        strict=True,
    ):
        assert_close(ours, expected)
    for ours, expected in zip(
        cpu.norm_add_norm(hidden.clone(), x, cpu.weight(after), cpu.weight(weight)),
        by_torch.norm_add_norm(hidden.to(dtype), x, after, weight),
        strict=True,
    ):
        torch.testing.assert_close(ours.float(), expected.float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gate(dtype: torch.dtype) -> None:
    cpu, by_torch = both(dtype)
    # Far out, where e ** x would overflow or vanish, too.
    x = noise(5, 66, dtype=dtype, scale=60.0)
    assert_close(cpu.gate(x), by_torch.gate(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotate(dtype: torch.dtype) -> None:
    cpu, by_torch = both(dtype)
    cos_sin = to_cos_sin(noise(9, 6, dtype=torch.float32), 1.5)
    ours, expected = (noise(9, 5, 16, dtype=dtype) for _ in range(2))
    cpu.rotate(ours, 3, cos_sin)
    by_torch.rotate(expected, 3, cos_sin)
    assert_close(ours, expected)
    assert torch.equal(ours[:, 3:], noise(9, 5, 16, dtype=dtype)[:, 3:])
    assert torch.equal(ours[:, :, 12:], noise(9, 5, 16, dtype=dtype)[:, :, 12:])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_values_are_propagated(bad: float) -> None:
    """Or a broken checkpoint would answer as if nothing were wrong."""
    cpu, _ = both(torch.float32)
    x = torch.ones(1, 32)
    x[0, 7] = bad
    operations: list[Callable[[], torch.Tensor]] = [
        lambda: cpu.norm(x, cpu.weight(torch.ones(32))),
        lambda: cpu.gate(x),
    ]
    for operation in operations:
        assert not operation().isfinite().all()
