"""All tensors of a checkpoint of any known origin, by published names."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from . import names
from .errors import CheckpointError, CheckpointMismatch
from .files import find_weights, reaching
from .formats import Content, read_tensors

Origin = Literal["hf", "unilm", "dvae"]
# Derived from sizes, or used in training only.
DERIVED = re.compile(r"relative_position_index$|num_batches_tracked$")
NUMBER = r"(?<=\.)\d+(?=\.)"  # of a layer, a block, a stage
PRETRAINING = "cls_pt_layers."  # BEiT v2's two extra layers
KEY_BIAS = ".k_bias"  # timm keeps it, as zeros
# Every BEiT has these, and sizes are inferred from them.
ESSENTIAL = (
    r"beit\.embeddings\.cls_token",
    r"beit\.embeddings\.patch_embeddings\.projection\.weight",
    r"beit\.encoder\.layer\.\d+\.intermediate\.dense\.weight",
)


@dataclass(frozen=True)
class Weights:
    """Tensors by published names, their names in the file, and remarks for the user."""

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


class Row(NamedTuple):
    """One tensor on its way from a file: its name there, its name at this stage of renaming, and itself."""

    written: str
    name: str
    tensor: Tensor


def read_weights(source: Path) -> Weights:
    """Every tensor of a weights file or model folder. Raises CheckpointError.

    Refused are files that are not weights, hold more than tensors, are damaged, or are of no known origin.
    """
    with reaching(source):
        contents = {path.name: read_tensors(path) for path in find_weights(source)}
    averaged = [file for file, content in contents.items() if content.wrapper == "model_ema"]
    remarks = [f"{file} holds averaged weights alone (model_ema): they are used" for file in averaged]
    rows = [row for content in contents.values() for row in _unwrapped(content)]
    origin = _origin(rows, source)
    if origin == "unilm":
        rows, said = _without_extras(rows, source)
        remarks += said
    renamed = list(_renamed(rows, origin))
    weights = Weights(
        tensors={row.name: row.tensor for row in renamed},
        written={row.name: row.written for row in renamed},
        origin=origin,
        remarks=tuple(remarks),
    )
    if source.is_file() and origin != "dvae":
        check_essential(weights, source)
    return weights


def _unwrapped(content: Content) -> Iterator[Row]:
    """A file's tensors without the prefixes of wrappers; those of DALL-E's two files get distinct names."""
    half = _half(content.tensors)
    for written, tensor in content.tensors.items():
        bare = names.WRAPPERS.sub("", written)
        yield Row(written, names.of_tokenizer(bare, half) if half else bare, tensor)


def check_numbers(weights: Weights, source: str | Path) -> None:
    """Raise CheckpointError naming a tensor that holds no floats, or one that is not finite."""
    for name, tensor in weights.tensors.items():
        if DERIVED.search(name):
            continue
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{source}: {weights.in_file(name)} holds {kind} numbers, not floats")
        if not bool(torch.isfinite(tensor.float()).all()):
            raise CheckpointError(f"{source}: {weights.in_file(name)} is damaged, not all of its numbers are finite")


def _origin(rows: list[Row], source: Path) -> Origin:
    bare_names = [row.name for row in rows]
    if any("quantize.embedding" in name for name in bare_names):
        raise CheckpointError(f"{source} is BEiT v2's VQ-KD tokenizer; of tokenizers only DALL-E's dVAE is supported")
    if any(names.IS_DVAE.match(name) for name in bare_names):
        return "dvae"
    return "unilm" if any(names.IS_UNILM.match(name) for name in bare_names) else "hf"


def _half(tensors: Mapping[str, Tensor]) -> str:
    """Which of DALL-E's two files this is, if either; the encoder's input convolution is the one that is not 1 x 1."""
    first = tensors.get("blocks.input.w", tensors.get("blocks.input.weight"))
    if first is None or first.ndim != 4:
        return ""
    return "decoder" if first.shape[-1] == 1 else "encoder"


def _without_extras(rows: list[Row], source: Path) -> tuple[list[Row], list[str]]:
    """The rows without what belongs to no encoder and no head, and remarks about what was left out."""
    kept: list[Row] = []
    remarks: list[str] = []
    for row in rows:
        if row.name.endswith(KEY_BIAS) and bool(row.tensor.any()):
            raise CheckpointError(f"{source}: {row.written} is not zero, but a BEiT's keys have no bias")
        if row.name.startswith(PRETRAINING):
            remarks = [f"left out: {PRETRAINING}*, two layers that only BEiT v2's pretraining uses"]
        elif not row.name.endswith((KEY_BIAS, "relative_position_index")):
            kept.append(row)
    return kept, remarks


def _renamed(rows: list[Row], origin: Origin) -> Iterator[Row]:
    """The rows under published names; a fused projection becomes three rows."""
    bare_names = [row.name for row in rows]
    masked = "lm_head.weight" in bare_names
    for written, bare, tensor in rows:
        if origin == "hf":
            yield Row(written, names.from_hugging_face(bare, masked=masked), tensor)
            continue
        published = names.from_unilm(bare, masked=masked) if origin == "unilm" else bare
        if "{}" not in published:
            yield Row(written, published, tensor)
            continue
        for part, third in zip(names.PARTS, tensor.chunk(3), strict=False):
            yield Row(f"{written}[{part}]", published.format(part), third)


def check_essential(weights: Weights, source: Path) -> None:
    """Raise CheckpointError unless these are tensors of a BEiT, with those that its sizes are inferred from."""
    for name, tensor in weights.tensors.items():
        if tensor.ndim == 0 and not DERIVED.search(name):
            raise CheckpointMismatch(f"{source}: {weights.in_file(name)} is a single number, where a tensor should be")
    found = {pattern: any(re.fullmatch(pattern, name) for name in weights.tensors) for pattern in ESSENTIAL}
    if not any(found.values()):
        first = ", ".join(list(weights.written.values())[:3])
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
