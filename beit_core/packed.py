"""Weights that lie in memory as a CPU's bfloat16 products read them."""

import torch
from torch import Tensor, nn

from .attention import attend_by_heads
from .model import Block

ROWS = 256  # what the layout is chosen for; from a few rows on all choices are as fast


class PackedLinear(nn.Module):
    """The answers of a linear layer, to the bit, with its weights reordered once and not on every call.

    The two operators are those that torch.compile uses for it; there is no public way to them.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self.bias = linear.bias.detach() if linear.bias is not None else None

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) -> (..., out), bfloat16."""
        outputs: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, "none", [], "")
        return outputs


def pack(module: nn.Module) -> None:
    """Prepare a bfloat16 model on a CPU for inference, in place; it cannot be moved, cast or compiled afterwards.

    Blocks attend by heads where the CPU has no AMX, with which torch's own attention takes half as long as that. Where
    it computes with bfloat16 their linear layers are packed; all convolutions put the channel last.
    """
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs want a tensor beside it
    for block in [part for part in module.modules() if isinstance(part, Block)]:
        if not torch.cpu.get_capabilities().get("amx_bf16"):
            block.attention.attend = attend_by_heads
        if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            _pack(block)


def _pack(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, PackedLinear(child))
        else:
            _pack(child)
