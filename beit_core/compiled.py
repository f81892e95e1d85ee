"""Models behind torch.compile."""

import os

import torch
from torch import nn

from .attention import PerGrid


def compile_model(module: nn.Module) -> None:
    """Compile a model in place, for inputs of one size; calls from its own methods are compiled as well.

    What is made once for a grid stays out of the graphs, which would make it on every call. A decorator would say so
    too, but imports the compiler: two thirds of a second in every process that computes.
    """
    for part in module.modules():
        if isinstance(part, PerGrid):
            part.for_grid = torch.compiler.disable(part.for_grid)  # type: ignore[method-assign]
    # Before the compiler is imported. Else it measures which kernels are fastest and takes those: on GPUs the order of
    # sums, and so the last bits of answers, would be another in every process.
    os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")
    # Not with weights frozen into the graph: torch 2.13 then gives a segmenter wrong logits (2.4 of 16 off).
    module.compile(dynamic=False)
