"""Models behind torch.compile."""

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
    # Deterministic, else it measures which kernels are fastest and takes those: on GPUs the order of sums, and so the
    # last bits of answers, would be another in every process. Said with each compilation, as what is set for all of
    # them holds in one thread, and torch 2.13 takes it back after a graph.
    # Not with weights frozen into the graph: torch 2.13 then gives a segmenter wrong logits (2.4 of 16 off).
    module.compile(dynamic=False, options={"deterministic": True})
