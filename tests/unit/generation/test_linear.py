"""Every way to multiply by weights, beside float64."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from glm_engine import linear as ways
from glm_engine.cpu import multiplies_bfloat16
from glm_engine.linear import PackedLinear, TorchLinear, WidenedLinear

# On both sides of where a few rows end, and of where one thread ends.
ROWS = [1, 3, WidenedLinear.MOST_ROWS_AS_READ, WidenedLinear.MOST_ROWS_AS_READ + 1, 70]
WAYS = [
    (TorchLinear, torch.float32),
    (TorchLinear, torch.bfloat16),
    (PackedLinear, torch.float32),
    *([(PackedLinear, torch.bfloat16)] if multiplies_bfloat16() else []),
    (WidenedLinear, torch.bfloat16),
]


def noise(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("way", "dtype"), WAYS)
def test_a_product_is_that_of_float64(
    way: type[TorchLinear | PackedLinear | WidenedLinear],
    dtype: torch.dtype,
    has_bias: bool,
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(WidenedLinear, "_SLICE", 37 * 10)  # several, the last one smaller
    x, weight = noise(rows, 37, dtype=dtype), noise(101, 37, dtype=dtype)
    bias = noise(101, dtype=dtype) if has_bias else None
    expected = x.double() @ weight.double().t()
    if bias is not None:
        expected += bias.double()
    product = way(weight, bias)(x)
    assert product.dtype == dtype
    limit = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(product.double(), expected, rtol=limit, atol=limit)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_the_outputs_of_a_large_product(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WidenedLinear, "_LEAST_FOR_A_THREAD", 1000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    asked: list[int] = []
    pool = ways._pool

    def count(number: int) -> ThreadPoolExecutor:
        asked.append(number)
        return pool(number)

    monkeypatch.setattr(ways, "_pool", count)
    x, weight = noise(5, 64, dtype=torch.bfloat16), noise(100, 64, dtype=torch.bfloat16)
    product = WidenedLinear(weight)(x)
    torch.testing.assert_close(product.float(), x.float() @ weight.float().t(), rtol=2e-2, atol=0.1)
    assert asked == [threads] * (threads - 1)
