"""What the values of a model folder's JSON files may be: types and ranges, checked before anything else reads them.

Fields that this package does not use may hold anything.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import CheckpointError


@dataclass(frozen=True)
class Kind:
    """A set of JSON values, and its name in messages ("..., not NAME")."""

    name: str
    holds: Callable[[object], bool]


def whole(low: int, high: int) -> Kind:
    """Whole numbers of this range, both ends included; true and false do not count."""
    return Kind(
        f"a whole number from {low} to {high}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
    )


def number(low: float, high: float, *, above: bool = False) -> Kind:
    """Finite numbers of this range; `above` excludes its lower end."""

    def holds(value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        return (low < value if above else low <= value) and value <= high

    return Kind(f"a number {'above' if above else 'from'} {low:g} {'and' if above else 'to'} {high:g}", holds)


def several(kind: Kind, least: int, most: int) -> Kind:
    """Lists of this many values of one kind."""
    count = str(least) if least == most else f"{least} to {most}"
    return Kind(
        f"a list of {count} times {kind.name}",
        lambda value: isinstance(value, list) and least <= len(value) <= most and all(map(kind.holds, value)),
    )


def either(*kinds: Kind) -> Kind:
    """Values of any of these kinds."""
    return Kind(" or ".join(kind.name for kind in kinds), lambda value: any(kind.holds(value) for kind in kinds))


NULL = Kind("null", lambda value: value is None)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("text", lambda value: isinstance(value, str))
SIDE = whole(1, 16384)  # pixels
MEAN, STD = number(-10_000, 10_000), number(0, 10_000, above=True)
CHANNELS = 3


def _is_size(value: object) -> bool:
    if not isinstance(value, dict):
        return SIDE.holds(value) or several(SIDE, 2, 2).holds(value)
    given = {name: side for name, side in value.items() if side is not None}
    return given.keys() in ({"shortest_edge"}, {"height", "width"}) and all(map(SIDE.holds, given.values()))


def _is_names(value: object) -> bool:
    if not isinstance(value, dict) or not 0 < len(value) <= 1_000_000:
        return False
    if not all(str(key).isdecimal() and len(str(key)) <= 7 and TEXT.holds(name) for key, name in value.items()):
        return False
    return len(set(map(int, value))) == len(value)  # "8" and "08" are one


SIZE = Kind('pixels, [height, width], {"height", "width"} or {"shortest_edge"}, each from 1 to 16384', _is_size)
NAMES = Kind('an object of class ids, each once, and names, such as {"0": "cat"}', _is_names)
DEPTH = whole(1, 1024)

CONFIG: Mapping[str, Kind] = {
    "model_type": TEXT,
    "architectures": either(NULL, several(TEXT, 0, 16)),
    "hidden_size": whole(1, 65536),
    "num_hidden_layers": DEPTH,
    "num_attention_heads": whole(1, 1024),
    "intermediate_size": whole(1, 1 << 20),
    "image_size": either(SIDE, several(SIDE, 2, 2)),
    "patch_size": either(whole(1, 1024), several(whole(1, 1024), 2, 2)),
    "num_channels": Kind(
        f"{CHANNELS}, the channels of RGB", lambda value: value == CHANNELS and whole(3, 3).holds(value)
    ),
    "hidden_act": TEXT,
    "layer_norm_eps": number(0, 0.1, above=True),
    "id2label": either(NULL, NAMES),
    "problem_type": either(NULL, TEXT),
    "num_labels": whole(1, 1_000_000),
    "vocab_size": whole(1, 1 << 24),
    "use_mask_token": FLAG,
    "use_absolute_position_embeddings": FLAG,
    "use_relative_position_bias": FLAG,
    "use_shared_relative_position_bias": FLAG,
    "use_mean_pooling": FLAG,
    "layer_scale_init_value": number(0, 1000),
    "out_features": either(NULL, several(Kind("stem or stage1, stage2, ...", lambda value: _is_stage(value)), 0, 1025)),
    "out_indices": either(NULL, several(whole(-1025, 1024), 0, 1025)),
    "segmentation_indices": either(NULL, several(whole(-1025, 1024), 0, 1025)),
    "pool_scales": several(whole(1, 1024), 1, 16),
    "use_auxiliary_head": FLAG,
    "auxiliary_channels": whole(1, 65536),
    "auxiliary_num_convs": whole(1, 16),
    "auxiliary_concat_input": FLAG,
}
DVAE_CONFIG: Mapping[str, Kind] = {
    "hidden_size": whole(4, 4096),
    "num_hidden_layers": whole(1, 64),
    "intermediate_size": whole(0, 65536),
    "vocab_size": whole(1, 1 << 24),
    "image_size": CONFIG["image_size"],
    "patch_size": Kind("8, a tokenizer's stride", lambda value: value == 8 and whole(8, 8).holds(value)),
}
PROCESSOR: Mapping[str, Kind] = {
    "image_processor_type": either(NULL, TEXT),
    "feature_extractor_type": either(NULL, TEXT),
    "do_resize": FLAG,
    "size": SIZE,
    "longest_edge": either(NULL, whole(1, 1 << 17)),
    "do_center_crop": either(NULL, FLAG),  # transformers writes null for what a class leaves out by default
    "crop_size": either(NULL, SIZE),
    "resample": whole(0, 5),  # Pillow's filters
    "do_rescale": FLAG,
    "rescale_factor": number(0, 255, above=True),
    "do_normalize": FLAG,
    "image_mean": either(MEAN, several(MEAN, CHANNELS, CHANNELS)),
    "image_std": either(STD, several(STD, CHANNELS, CHANNELS)),
}
CARD: Mapping[str, Kind] = {
    "name": TEXT,
    "semantics": Kind("original or hf", lambda value: value in ("original", "hf")),
    "palette": either(NULL, several(several(whole(0, 255), 3, 3), 1, 1_000_000)),
    "stride": whole(0, 16384),
    "pool_of": either(NULL, Kind("mean or cls", lambda value: value in ("mean", "cls"))),
    "resampling": either(NULL, Kind("geometric or linear", lambda value: value in ("geometric", "linear"))),
}
NEEDED_OF_CARD = ("name", "semantics", "palette", "stride")
INDEX: Mapping[str, Kind] = {
    "weight_map": Kind(
        "an object of tensors and the files they are in",
        lambda value: isinstance(value, dict) and all(map(TEXT.holds, value.values())),
    )
}


def _is_stage(value: object) -> bool:
    return isinstance(value, str) and (value == "stem" or (value.removeprefix("stage").isdecimal() and len(value) < 10))


def check(raw: Mapping[str, object], kinds: Mapping[str, Kind], where: str | Path) -> None:
    """Raise CheckpointError for the first value that is not of its field's kind; `where` names the file."""
    for field, kind in kinds.items():
        if field in raw and not kind.holds(raw[field]):
            raise CheckpointError(f"{where}: {field} is {shown(raw[field])}, not {kind.name}")


def shown(value: object) -> str:
    """A value as JSON spells it, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
