"""The matrix products of a model, and nothing between them: what no program computes faster on this machine."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Product(NamedTuple):
    """`batch` products of an (m, k) and a (k, n) matrix."""

    batch: int
    m: int
    k: int
    n: int


class _Seen(TorchDispatchMode):
    """Notes the products of everything that is computed in it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        shapes = [tuple(arg.shape) for arg in args if isinstance(arg, Tensor)]
        self.products.update(_products(func._schema.name, shapes, args, answer))
        return answer


def _products(name: str, shapes: list[tuple[int, ...]], args: Any, answer: Any) -> list[Product]:
    if name in ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"):
        left, right = shapes[-2:]
        return [Product(math.prod(left[:-2]), left[-2], left[-1], right[-1])]
    if "scaled_dot_product" in name:
        *outer, queries, width = shapes[0]
        keys, heads = shapes[1][-2], math.prod(outer)
        return [Product(heads, queries, width, keys), Product(heads, queries, keys, width)]
    if name == "aten::convolution":
        weight, transposed = shapes[1], args[6]
        pixels = shapes[0] if transposed else tuple(answer.shape)
        rows = pixels[0] * math.prod(pixels[2:])
        first, others = weight[0], math.prod(weight[1:])
        return [Product(1, rows, first, others) if transposed else Product(1, rows, others, first)]
    return []


def products_of(compute: Callable[[], object]) -> Counter[Product]:
    """How often which product is computed in a call of that."""
    with torch.no_grad(), _Seen() as seen:
        compute()
    found: Counter[Product] = seen.products
    return found


def multiply(products: Counter[Product], like: Tensor) -> Callable[[], None]:
    """A function that computes these products on matrices of the device and dtype of a tensor."""
    made: list[tuple[int, Tensor, Tensor, Tensor]] = []
    for product, count in products.items():
        outer = () if product.batch == 1 else (product.batch,)
        left, right = like.new_empty(*outer, product.m, product.k), like.new_empty(*outer, product.k, product.n)
        made.append((count, left.normal_(), right.normal_(), left @ right))

    def run() -> None:
        with torch.inference_mode():
            for count, left, right, result in made:
                for _ in range(count):
                    torch.matmul(left, right, out=result)

    return run
