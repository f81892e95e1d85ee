"""The same weights as other programs would have saved them."""

import re
import sys
import types
from pathlib import Path

import msgpack
import numpy as np
import torch
from torch import Tensor, nn

from beit_core.dvae import Dvae

UNILM = (
    (r"^beit\.embeddings\.(cls_token|mask_token)", r"\1"),
    (r"^beit\.embeddings\.position_embeddings", "pos_embed"),
    (r"^beit\.embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^beit\.encoder\.relative_position_bias\.", "rel_pos_bias."),
    (r"^beit\.encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.relative_position_bias\.", ".attn."),
    (r"\.attention\.attention\.(query|value)\.bias", lambda found: f".attn.{found[1][0]}_bias"),
    (r"\.attention\.output\.dense", ".attn.proj"),
    (r"\.intermediate\.dense", ".mlp.fc1"),
    (r"\.output\.dense", ".mlp.fc2"),
    (r"\.layernorm_before", ".norm1"),
    (r"\.layernorm_after", ".norm2"),
    (r"\.lambda_", ".gamma_"),
    (r"^beit\.pooler\.layernorm", "fc_norm"),
    (r"^(beit\.)?layernorm", "norm"),
    (r"^(decode_head|auxiliary_head)\.classifier", r"\1.conv_seg"),
    (r"^classifier", "head"),
)


def as_unilm(tensors: dict[str, Tensor], index: bool = True) -> dict[str, Tensor]:
    """unilm's names: fused projections and, as in its files, the index buffers."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if found := re.fullmatch(r"beit\.encoder\.layer\.(\d+)\.attention\.attention\.query\.weight", name):
            parts = [tensors[name.replace("query", part)] for part in ("query", "key", "value")]
            renamed[f"blocks.{found[1]}.attn.qkv.weight"] = torch.cat(parts)
        elif not re.search(r"\.(key|value)\.weight", name):
            for pattern, replacement in UNILM:
                name = re.sub(pattern, replacement, name)
            renamed[name] = tensor
            if index and name.endswith("_table"):
                renamed[name.replace("bias_table", "index")] = torch.zeros(17, 17, dtype=torch.int64)
    return renamed


def as_mmseg(tensors: dict[str, Tensor]) -> dict[str, object]:
    heads = ("decode_head.", "auxiliary_head.")
    named = as_unilm(tensors).items()
    state = {name if name.startswith(heads) else f"backbone.{name}": tensor for name, tensor in named}
    return {"meta": {"epoch": 1, "CLASSES": ("a", "b")}, "state_dict": state}


def save_flax(tensors: dict[str, Tensor], path: Path) -> None:
    """A flax_model.msgpack: transposed kernels, scales, arrays as extension type 1."""
    tree: dict[str, object] = {}
    for name, tensor in tensors.items():
        *parents, leaf = name.split(".")
        array = tensor.numpy()
        if leaf == "weight":
            leaf = "scale" if "norm" in parents[-1] else "kernel"
            array = array if leaf == "scale" else array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})  # type: ignore[assignment]
        branch[leaf] = packed(array)
    path.write_bytes(msgpack.packb(tree))


def packed(array: np.ndarray) -> msgpack.ExtType:
    content = (array.shape, array.dtype.name, np.ascontiguousarray(array).tobytes())
    return msgpack.ExtType(1, msgpack.packb(content))


def published_pickles(folder: Path, model: Dvae) -> None:
    """encoder.pkl and decoder.pkl as whole modules of classes that the reader does not have."""
    fake = types.ModuleType("dall_e.encoder")
    fake.Encoder = type("Encoder", (nn.Module,), {"__module__": "dall_e.encoder"})  # type: ignore[attr-defined]
    sys.modules.update({"dall_e": types.ModuleType("dall_e"), "dall_e.encoder": fake})
    try:
        for half, legacy in ((model.encoder, True), (model.decoder, False)):
            top = fake.Encoder()
            for name, weight in half.state_dict().items():  # type: ignore[union-attr]
                owner = top
                *parents, leaf = name.split(".")
                for parent in parents:
                    if not hasattr(owner, parent):
                        owner.add_module(parent, nn.Sequential())
                    owner = getattr(owner, parent)
                setattr(owner, leaf[0], nn.Parameter(weight))
            name = "encoder.pkl" if legacy else "decoder.pkl"
            torch.save(top, folder / name, _use_new_zipfile_serialization=not legacy)
    finally:
        del sys.modules["dall_e"], sys.modules["dall_e.encoder"]
