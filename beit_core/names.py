"""Tensors by other programs' names -> the names of Hugging Face's published files ("published names").

Tables of patterns are applied in order, from the start of a name; `{}` stands for query, key and value, which unilm
and timm keep in one tensor.
"""

import re
from collections.abc import Iterable

from .config import PREFIXES

TABLE = "relative_position_bias.relative_position_bias_table"
WRAPPERS = re.compile(r"^(module\.)?(backbone\.)?")  # of distributed training and of mmsegmentation
TRUNK = re.compile(r"(embeddings|encoder|layers|shared_position_bias|pooler|layernorm)\.")
IS_UNILM = re.compile(r"patch_embed\.proj\.|blocks\.\d+\.attn\.qkv\.")
IS_DVAE = re.compile(r"(encoder|decoder)\.blocks\.(input|output|group_\d+)\.")
PARTS = ("query", "key", "value")
UNILM = (  # unilm and timm
    (r"(cls_token|mask_token)$", r"beit.embeddings.\1"),
    (r"pos_embed$", "beit.embeddings.position_embeddings"),
    (r"patch_embed\.proj\.", "beit.embeddings.patch_embeddings.projection."),
    (r"rel_pos_bias\.", "beit.encoder.relative_position_bias."),
    (r"blocks\.(\d+)\.", r"beit.encoder.layer.\1."),
    (r"(beit.*\.)norm1\.", r"\1layernorm_before."),
    (r"(beit.*\.)norm2\.", r"\1layernorm_after."),
    (r"(beit.*\.)gamma_([12])$", r"\1lambda_\2"),
    (r"(beit.*\.)attn\.qkv\.weight$", r"\1attention.attention.{}.weight"),
    (r"(beit.*\.)attn\.q_bias$", r"\1attention.attention.query.bias"),
    (r"(beit.*\.)attn\.v_bias$", r"\1attention.attention.value.bias"),
    (r"(beit.*\.)attn\.relative_position_bias_table$", rf"\1attention.attention.{TABLE}"),
    (r"(beit.*\.)attn\.proj\.", r"\1attention.output.dense."),
    (r"(beit.*\.)mlp\.fc1\.", r"\1intermediate.dense."),
    (r"(beit.*\.)mlp\.fc2\.", r"\1output.dense."),
    (r"fc_norm\.", "beit.pooler.layernorm."),
    (r"head\.", "classifier."),
    (r"(decode_head|auxiliary_head)\.conv_seg\.", r"\1.classifier."),
)
# transformers 5 in memory, and in the files of Data2VecVisionForSemanticSegmentation.
TRANSFORMERS_5 = (
    (r"beit\.shared_position_bias\.", "beit.encoder.relative_position_bias."),
    (r"beit\.layers\.(\d+)\.", r"beit.encoder.layer.\1."),
    (r"(beit\.encoder\.layer\.\d+\.)relative_position_bias\.", r"\1attention.attention.relative_position_bias."),
    (r"(beit\.encoder.*\.attention\.)q_proj\.", r"\1attention.query."),
    (r"(beit\.encoder.*\.attention\.)k_proj\.", r"\1attention.key."),
    (r"(beit\.encoder.*\.attention\.)v_proj\.", r"\1attention.value."),
    (r"(beit\.encoder.*\.attention\.)o_proj\.", r"\1output.dense."),
    (r"(beit\.encoder.*\.)mlp\.fc1\.", r"\1intermediate.dense."),
    (r"(beit\.encoder.*\.)mlp\.fc2\.", r"\1output.dense."),
    (r"fpn\.fpn1\.conv_transpose1\.", "fpn1.0."),
    (r"fpn\.fpn1\.normalization\.", "fpn1.1."),
    (r"fpn\.fpn1\.conv_transpose2\.", "fpn1.3."),
    (r"fpn\.fpn2\.", "fpn2.0."),
    (r"decode_head\.psp_bottleneck\.", "decode_head.bottleneck."),
    (r"decode_head\.psp_modules\.blocks\.(\d+)\.conv\.", r"decode_head.psp_modules.\1.1."),
    (r"((?:decode|auxiliary)_head\..*\.)convolution\.", r"\1conv."),
    (r"((?:decode|auxiliary)_head\..*\.)normalization\.", r"\1bn."),
)
# The inverse, for the head whose older names transformers 5 does not read.
DATA2VEC_HEAD = (
    (r"decode_head\.bottleneck\.", "decode_head.psp_bottleneck."),
    (r"decode_head\.psp_modules\.(\d+)\.1\.", r"decode_head.psp_modules.blocks.\1.conv."),
    (r"((?:decode|auxiliary)_head\..*\.)conv\.(?!.*\.)", r"\1convolution."),
    (r"((?:decode|auxiliary)_head\..*\.)bn\.", r"\1normalization."),
)


def renamed(name: str, table: Iterable[tuple[str, str]]) -> str:
    """A name with all patterns of a table applied."""
    for pattern, replacement in table:
        name = re.sub(f"^{pattern}", replacement, name)
    return name


def from_unilm(name: str, *, masked: bool) -> str:
    """unilm's or timm's name -> published name. The last norm is the head's in a `masked` model, else the trunk's."""
    return re.sub(r"^norm\.", "layernorm." if masked else "beit.layernorm.", renamed(name, UNILM))


def from_hugging_face(name: str, *, masked: bool) -> str:
    """Any name transformers writes or has written -> published name.

    An encoder saved without a head has no prefix, a backbone has one on some of its tensors. Without a prefix the last
    norm is the head's in a `masked` model, else the trunk's.
    """
    bare = next((name.removeprefix(prefix) for prefix in PREFIXES.values() if name.startswith(prefix)), None)
    if bare is None and TRUNK.match(name) and not (masked and name.startswith("layernorm.")):
        bare = name
    return renamed(name if bare is None else f"beit.{bare}", TRANSFORMERS_5)


def for_transformers(name: str, model_type: str) -> str:
    """Published name -> the name under which transformers reads a model of this type."""
    if model_type == "data2vec-vision":
        name = renamed(name, DATA2VEC_HEAD)
    return name.replace("beit.", PREFIXES.get(model_type, "beit."), 1) if name.startswith("beit.") else name


def of_tokenizer(name: str, half: str) -> str:
    """A name in one of DALL-E's two files -> ours; `half` is encoder or decoder."""
    for short, long in ((r"\.w$", ".weight"), (r"\.b$", ".bias")):
        name = re.sub(short, long, name)
    return f"{half}.{name}"
