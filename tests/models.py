"""Tiny seeded models: BEiTs saved by the reference implementation in the Hugging Face layout, and a narrow dVAE."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from beit_core.config import DvaeConfig
from beit_core.dvae import Dvae
from tests.helpers import DATA

# The class that saves each kind, and what that kind needs on top of TINY.
KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "encoder": ("BeitModel", {}),
    "classifier": ("BeitForImageClassification", {"num_labels": 7}),
    "masked": ("BeitForMaskedImageModeling", {"use_mask_token": True, "use_mean_pooling": False, "vocab_size": 128}),
    # UPerNet's head takes the features of four layers.
    "segmenter": (
        "BeitForSemanticSegmentation",
        {"image_size": 64, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "num_labels": 5},
    ),
}
TINY: dict[str, object] = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "use_relative_position_bias": True,
    "use_mean_pooling": True,
    "layer_scale_init_value": 0.1,
    "auxiliary_channels": 32,
    "vocab_size": 128,
}


def scramble(model: torch.nn.Module, seed: int) -> None:
    """Give every weight a say: fresh models have zero biases, zero position tables and equal layer scales."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "lambda_" in name:
                weight.copy_(0.5 + 0.2 * noise)
            elif "relative_position_bias_table" in name or "token" in name or "position_embeddings" in name:
                weight.copy_(0.5 * noise)
            elif weight.dim() == 1:
                weight.add_(0.1 * noise)
            else:
                weight.copy_(noise * weight[0].numel() ** -0.5)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.2 * torch.rand(buffer.shape, generator=generator))


def preprocessor(image_size: int) -> dict[str, object]:
    return {
        "image_processor_type": "BeitImageProcessor",
        "do_resize": True,
        "size": {"height": image_size, "width": image_size},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_reduce_labels": False,
    }


def save_tiny_model(folder: Path, kind: str, *, seed: int = 0, **overrides: object) -> Path:
    """Save a model of this kind into the folder; `overrides` are fields of BeitConfig."""
    import transformers  # here: seconds of imports that most tests do without

    class_name, needs = KINDS[kind]
    config = transformers.BeitConfig(**{**TINY, **needs, **overrides})
    torch.manual_seed(seed)
    model = getattr(transformers, class_name)(config).eval()
    scramble(model, seed)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor(config.image_size), indent=2))
    return folder


def save_masked(folder: Path, vocabulary: int = 128) -> Path:
    """The bundled digits' encoder under a seeded head that predicts tokens: 8 x 8 patches, as a dVAE of side 64 has."""
    bundled = load_file(DATA / "digits/model/model.safetensors")
    weights = {name: weight for name, weight in bundled.items() if not name.startswith(("beit.pooler", "classifier"))}
    width = weights["beit.embeddings.cls_token"].shape[-1]
    torch.manual_seed(0)
    weights["beit.embeddings.mask_token"] = torch.randn(1, 1, width)
    weights |= {"layernorm.weight": torch.ones(width), "layernorm.bias": torch.zeros(width)}
    weights |= {"lm_head.weight": torch.randn(vocabulary, width), "lm_head.bias": torch.zeros(vocabulary)}
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors")
    config = json.loads((DATA / "digits/model/config.json").read_text())
    config |= {"architectures": [KINDS["masked"][0]], "use_mask_token": True, "vocab_size": vocabulary}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor(config["image_size"])))
    return folder


def save_dvae(folder: Path, side: int = 112, vocabulary: int = 128, *, decoder: bool = False) -> Path:
    """A narrow tokenizer with seeded weights, in the layout of a converted one."""
    config = DvaeConfig(width=16, decoder_width=8 * decoder, vocab_size=vocabulary, image_size=(side, side))
    torch.manual_seed(0)
    weights = Dvae(config).state_dict()
    for name, weight in weights.items():
        scale = 0.02 if weight.ndim == 1 else (2 / weight[0].numel()) ** 0.5
        weights[name] = torch.randn(weight.shape) * scale
    head = weights["encoder.blocks.output.conv.weight"]
    head -= head.mean(1, keepdim=True)  # else the channel that is large everywhere decides, and most tokens are equal
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors")
    sizes = {"hidden_size": 16, "intermediate_size": config.decoder_width, "num_hidden_layers": 2,
             "vocab_size": vocabulary, "image_size": side, "patch_size": 8, "num_attention_heads": 1}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"model_type": "dall-e-dvae", **sizes}))
    return folder
