"""The modules have exactly as many parameters as the published checkpoints of these names."""

import pytest
import torch

from beit_core import load_card, presets
from beit_core.checkpoint import BUILDERS, ModelCard
from beit_core.config import BeitConfig
from tests.helpers import DATA

PARAMETERS = {
    "beit-base-patch16-224-pt22k": 91_965_776,
    "beit-base-patch16-224-pt22k-ft22k": 102_557_713,
    "beit-base-patch16-224": 86_530_984,
    "beit-base-patch16-384": 86_744_104,
    "beit-base-finetuned-ade-640-640": 163_407_980,
    "beit-large-patch16-224-pt22k": 311_534_016,
    "beit-large-patch16-224-pt22k-ft22k": 325_792_593,
    "beit-large-patch16-224": 304_430_568,
    "beit-large-patch16-384": 304_998_888,
    "beit-large-patch16-512": 305_674_728,
    "beit-large-finetuned-ade-640-640": 441_271_084,
    "dit-base": 92_108_288,
    "dit-base-finetuned-rvlcdip": 85_820_176,
}


def described(name: str) -> ModelCard:
    preset = presets()[name]
    sizes = {} if preset.size == "base" else {"width": 1024, "depth": 24, "heads": 16, "mlp_width": 4096}
    dit, masked = name.startswith("dit"), preset.head == "masked"
    config = BeitConfig(
        **sizes,
        image_size=(preset.image, preset.image),
        mask_token=masked,
        absolute_positions=dit,
        relative_bias=not dit and not masked,
        shared_bias=not dit and masked,
        classes=len(preset.labels),
        out_indices=(3, 5, 7, 11),
        auxiliary_channels=256,
    )
    card = load_card(DATA / "digits/model")
    return ModelCard(card.path, name, preset.head, config, preset.pixels, preset.labels, None, "original", "")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    card = described(name)
    with torch.device("meta"):
        module = BUILDERS[card.head](card)
    unpublished = module.get_parameter("trunk.blocks.0.attention.qkv.bias").numel() // 3  # zeros for the key
    count = sum(weight.numel() for weight in module.parameters()) - card.config.depth * unpublished
    assert count == PARAMETERS[name]
