"""All tensors of a checkpoint of any known origin, by published names."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from . import names
from .errors import CheckpointError, CheckpointMismatch
from .files import find_weights
from .formats import read_tensors

Origin = Literal["hf", "unilm", "dvae"]
# Follow from the sizes, or are read by training alone.
DERIVED = re.compile(r"relative_position_index$|num_batches_tracked$")
NUMBER = r"(?<=\.)\d+(?=\.)"  # of a layer, a block, a stage
PRETRAINING = "cls_pt_layers."  # BEiT v2's two extra layers
KEY_BIAS = ".k_bias"  # timm keeps it, as zeros
# What every BEiT has, and its sizes are read off.
ESSENTIAL = (
    r"beit\.embeddings\.cls_token",
    r"beit\.embeddings\.patch_embeddings\.projection\.weight",
    r"beit\.encoder\.layer\.\d+\.intermediate\.dense\.weight",
)


@dataclass(frozen=True)
class Weights:
    """Tensors by published names, the names under which the file holds them, and what a user should hear about it."""

    tensors: Mapping[str, Tensor]
    written: Mapping[str, str]
    origin: Origin
    remarks: tuple[str, ...] = ()

    def in_file(self, name: str) -> str:
        """What the file calls this tensor, or would call it if it were there."""
        if name in self.written:
            return self.written[name]
        for published, written in self.written.items():
            if re.sub(NUMBER, "#", published) == re.sub(NUMBER, "#", name):
                return _numbered_as(written, name)
        return name


def read_weights(source: Path) -> Weights:
    """Every tensor of a weights file or model folder. Raises CheckpointError.

    Refused are files that are not weights, hold more than tensors, are damaged, or are of no known origin.
    """
    rows: list[tuple[str, str, Tensor]] = []  # name in the file, name without wrappers, tensor
    remarks: list[str] = []
    for path in find_weights(source):
        content = read_tensors(path)
        if content.wrapper == "model_ema":
            remarks.append(f"{path.name} holds averaged weights alone (model_ema): they are used")
        half = _half(content.tensors)
        for name, tensor in content.tensors.items():
            bare = names.WRAPPERS.sub("", name)
            rows.append((name, names.of_tokenizer(bare, half) if half else bare, tensor))
    bare_names = [bare for _, bare, _ in rows]
    origin = _origin(bare_names)
    if any("quantize.embedding" in name for name in bare_names):
        raise CheckpointError(f"{source} is BEiT v2's VQ-KD tokenizer; of tokenizers only DALL-E's dVAE is supported")
    if origin == "unilm":
        rows, said = _without_extras(rows, source)
        remarks += said
    renamed = list(_renamed(rows, origin))
    weights = Weights(
        tensors={published: tensor for _, published, tensor in renamed},
        written={published: written for written, published, _ in renamed},
        origin=origin,
        remarks=tuple(remarks),
    )
    if source.is_file() and origin != "dvae":
        _check_essential(weights, source, [name for name, _, _ in rows])
    return weights


def check_numbers(weights: Weights, source: object) -> None:
    """Raise CheckpointError naming a tensor that holds no floats, or one that is not finite."""
    for name, tensor in weights.tensors.items():
        if DERIVED.search(name):
            continue
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{source}: {weights.in_file(name)} holds {kind} numbers, not floats")
        if not bool(torch.isfinite(tensor.float()).all()):
            raise CheckpointError(f"{source}: {weights.in_file(name)} is damaged, not all of its numbers are finite")


def _origin(bare_names: list[str]) -> Origin:
    if any(names.IS_DVAE.match(name) for name in bare_names):
        return "dvae"
    return "unilm" if any(names.IS_UNILM.match(name) for name in bare_names) else "hf"


def _half(tensors: Mapping[str, Tensor]) -> str:
    """Which of DALL-E's two files this is, if either; the encoder's input convolution is the one that is not 1 x 1."""
    first = tensors.get("blocks.input.w", tensors.get("blocks.input.weight"))
    if first is None or first.ndim != 4:
        return ""
    return "decoder" if first.shape[-1] == 1 else "encoder"


def _without_extras(
    rows: list[tuple[str, str, Tensor]], source: Path
) -> tuple[list[tuple[str, str, Tensor]], list[str]]:
    """The rows without what belongs to no encoder and no head, and what to say of it."""
    kept, said = [], []
    for written, bare, tensor in rows:
        if bare.endswith(KEY_BIAS) and bool(tensor.any()):
            raise CheckpointError(f"{source}: {written} is not zero, but a BEiT's keys have no bias")
        if bare.startswith(PRETRAINING):
            said = [f"left out: {PRETRAINING}*, two layers that only BEiT v2's pretraining uses"]
        elif not bare.endswith((KEY_BIAS, "relative_position_index")):
            kept.append((written, bare, tensor))
    return kept, said


def _renamed(rows: list[tuple[str, str, Tensor]], origin: Origin) -> Iterator[tuple[str, str, Tensor]]:
    """(name in the file, published name, tensor); a fused projection becomes three rows."""
    bare_names = [bare for _, bare, _ in rows]
    masked, prefix = "lm_head.weight" in bare_names, names.prefix_of(bare_names)
    for written, bare, tensor in rows:
        if origin == "hf":
            yield written, names.from_hugging_face(bare, prefix), tensor
            continue
        published = names.from_unilm(bare, masked=masked) if origin == "unilm" else bare
        if "{}" not in published:
            yield written, published, tensor
            continue
        for part, third in zip(names.PARTS, tensor.chunk(3), strict=False):
            yield f"{written}[{part}]", published.format(part), third


def _check_essential(weights: Weights, source: Path, written: list[str]) -> None:
    for name, tensor in weights.tensors.items():
        if tensor.ndim == 0 and not DERIVED.search(name):
            raise CheckpointMismatch(f"{source}: {weights.in_file(name)} is a single number, where a tensor should be")
    found = {pattern: any(re.fullmatch(pattern, name) for name in weights.tensors) for pattern in ESSENTIAL}
    if not any(found.values()):
        first = ", ".join(written[:3])
        raise CheckpointError(f"{source} holds no BEiT that is known here; its first tensors are {first}")
    for pattern, is_there in found.items():
        if not is_there:
            name = pattern.replace("\\.", ".").replace("\\d+", "0")
            raise CheckpointMismatch(f"{source} has no {weights.in_file(name)}, without which it is no BEiT")


def _numbered_as(written: str, name: str) -> str:
    """`written` with the numbers of `name` in their order; `name` where their counts differ."""
    pieces, numbers = re.split(NUMBER, written), re.findall(NUMBER, name)
    if len(pieces) != len(numbers) + 1:
        return name
    return pieces[0] + "".join(number + piece for number, piece in zip(numbers, pieces[1:], strict=True))
