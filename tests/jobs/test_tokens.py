"""Visual tokens through the job, against a tokenizer and a loss written a second time from what is published."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokens import Tokens
from torch import Tensor
from torch.nn import functional as F
from transformers import BeitForMaskedImageModeling, BeitImageProcessorPil

from beit_core import load_card
from beit_core.block_masks import wanted
from pipeline import tokenizer
from pipeline.config import RunConfig
from pipeline.decode.decode import decode
from pipeline.engine.loading import Device, load_predictor
from pipeline.engine.predictor import Predictor
from pipeline.errors import ConfigError, PipelineError
from pipeline.page import page
from pipeline.request import begin, checked
from pipeline.run import run
from tests.helpers import rows, run_job
from tests.models import save_dvae
from tests.photos import make_photos

Rows = list[dict[str, Any]]
PHOTOS = 12


@pytest.fixture(scope="module")
def some_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    make_photos(folder, PHOTOS)
    return folder


@pytest.fixture(scope="module")
def dvae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dvae(tmp_path_factory.mktemp("dvae") / "dall-e")


@pytest.fixture(scope="module")
def masked(tiny_model: Callable[..., Path]) -> Path:
    """Patches of 8 in pictures of 112: 14 x 14 of them, as many as the tokenizer has tokens.

    Mean pooling as all published ones; without it there are two norms, which transformers 5.23 swaps in its files.
    """
    return tiny_model("masked", image_size=112, use_mean_pooling=True)


def here(output: Path, images: Path, model: Path, task: Tokens | None = None, **flags: Any) -> Rows:
    """Run the job in this process."""
    config = RunConfig(input=(str(images),), output=str(output), model=str(model), local=True, **flags)
    assert run(config, task or Tokens()) == 0
    found: Rows = rows(output).to_pylist()
    return found


def reference_logits(folder: Path, photo: Image.Image) -> Tensor:
    """DALL-E's encoder as published: 7 x 7 convolution, four groups of two blocks, pooling between, 1 x 1 to logits."""
    weights = load_file(folder / "model.safetensors")

    def conv(name: str, x: Tensor) -> Tensor:
        kernel = weights[f"encoder.blocks.{name}.weight"]
        return F.conv2d(x, kernel, weights[f"encoder.blocks.{name}.bias"], padding=kernel.shape[-1] // 2)

    small = np.asarray(photo.convert("RGB").resize((112, 112), Image.Resampling.LANCZOS), np.float32)
    x = conv("input", torch.from_numpy(small / 255).permute(2, 0, 1)[None] * 0.8 + 0.1)
    for group in range(1, 5):
        for block in (1, 2):
            name, y = f"group_{group}.block_{block}", x
            for i in range(1, 5):
                y = conv(f"{name}.res_path.conv_{i}", F.relu(y))
            has_projection = f"encoder.blocks.{name}.id_path.weight" in weights
            x = (conv(f"{name}.id_path", x) if has_projection else x) + y / 64
        x = F.max_pool2d(x, 2) if group < 4 else x
    return conv("output.conv", F.relu(x))[0].flatten(1)  # (V, n)


def test_tokens_are_the_reference_tokenizers(dvae: Path, some_photos: Path, tmp_path: Path) -> None:
    run_job("tokens.py", "--local", "--exact", "--input", some_photos, "--output", tmp_path, "--model", dvae, code=0)
    table = rows(tmp_path)
    assert table.schema.names[6:] == ["tokens"]
    assert str(table.schema.field("tokens").type) == "fixed_size_list<element: int16>[196]"
    kinds = set()
    for row in table.to_pylist():
        logits = reference_logits(dvae, Image.open(row["uri"]))
        best, second = logits.topk(2, dim=0).values
        same = torch.tensor(row["tokens"]) == logits.argmax(0)
        assert (same | (best - second < 1e-5)).all()
        assert same.float().mean() > 0.99
        kinds |= set(row["tokens"])
    assert len(kinds) > 10
    assert json.loads((tmp_path / "_run.json").read_text())["settings"] == {}


def test_loss_is_transformers_cross_entropy(dvae: Path, masked: Path, some_photos: Path, tmp_path: Path) -> None:
    flags = ["--input", some_photos, "--output", tmp_path, "--model", masked, "--tokenizer", dvae]
    flags += ["--mask-ratio", 0.3, "--seed", 5, "--dtype", "float32"]
    run_job("tokens.py", "--local", "--exact", *flags, code=0)
    table = rows(tmp_path)
    assert table.schema.names[6:] == ["tokens", "masked", "predicted", "loss"]
    assert [str(field.type) for field in table.schema][7:] == [
        "fixed_size_list<element: bool>[196]",
        "fixed_size_list<element: int16>[196]",
        "float",
    ]
    model = BeitForMaskedImageModeling.from_pretrained(masked).eval()
    processor = BeitImageProcessorPil.from_pretrained(masked)
    for row in table.to_pylist():
        photo = Image.open(row["uri"]).convert("RGB")
        hidden = torch.tensor([row["masked"]])
        with torch.inference_mode():
            logits = model(**processor(images=[photo], return_tensors="pt"), bool_masked_pos=hidden).logits[0]
        expected = F.cross_entropy(logits[hidden[0]], torch.tensor(row["tokens"])[hidden[0]])
        assert row["loss"] == pytest.approx(expected.item(), abs=1e-4)
        best, second = logits.topk(2, dim=1).values.T
        assert ((torch.tensor(row["predicted"]) == logits.argmax(1)) | (best - second < 1e-4)).all()
        assert 16 <= hidden.sum() <= wanted((14, 14), 0.3)
    bound = json.loads((tmp_path / "_run.json").read_text())["settings"]
    assert bound == {"mask_ratio": 0.3, "seed": 5, "tokenizer": bound["tokenizer"]}
    assert len(bound["tokenizer"]) == 64


@pytest.mark.torture
def test_masks_are_the_same_for_any_batch_and_span(dvae: Path, masked: Path, some_photos: Path, tmp_path: Path) -> None:
    task = Tokens(tokenizer=str(dvae))
    first = here(tmp_path / "a", some_photos, masked, task, batch_size=5, span_size=7)
    second = here(tmp_path / "b", some_photos, masked, task, batch_size=3, span_size=4)
    assert [row["masked"] for row in first] == [row["masked"] for row in second]
    assert len({tuple(row["masked"]) for row in first}) == PHOTOS
    assert [row["loss"] for row in first] == pytest.approx([row["loss"] for row in second], abs=1e-4)
    other = here(tmp_path / "c", some_photos, masked, Tokens(tokenizer=str(dvae), seed=1))
    assert all(a["masked"] != b["masked"] for a, b in zip(first, other, strict=True))
    assert [row["tokens"] for row in first] == [row["tokens"] for row in other]


def answers(model: Path, task: Tokens, photos: Path, dtype: str) -> dict[str, Any]:
    """The columns of four photographs in this dtype, also where a job would refuse what a CPU only emulates."""
    card = load_card(model)
    predictor, paths = Predictor(task, card, dtype=dtype, batch_size=4), sorted(photos.iterdir())[:4]
    pictures = [decode(path.read_bytes(), predictor.specs) for path in paths]
    views = tuple(np.stack([picture.views[n] for picture in pictures]) for n in range(len(predictor.specs)))
    step = predictor.step(predictor.prepare(views, [path.name for path in paths], [(9, 9)] * 4))
    return dict(predictor.encode(step.answers(), step.reason).columns)


def test_tokens_stay_float32_whatever_the_dtype(dvae: Path, masked: Path, some_photos: Path) -> None:
    task = Tokens(tokenizer=str(dvae))
    full, half = (answers(masked, task, some_photos, dtype) for dtype in ("float32", "bfloat16"))
    alone = answers(dvae, Tokens(), some_photos, "bfloat16")
    assert full["tokens"].tolist() == half["tokens"].tolist() == alone["tokens"].tolist()
    assert (full["loss"] != half["loss"]).any()
    np.testing.assert_allclose(full["loss"], half["loss"], rtol=0.02)


def test_a_broken_image_is_a_row_and_its_neighbours_are_untouched(
    dvae: Path, masked: Path, some_photos: Path, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for i, photo in enumerate(sorted(some_photos.iterdir())[:3]):
            data = photo.read_bytes()[: 900 if i == 1 else None]
            member = tarfile.TarInfo(f"{i}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    table = here(tmp_path / "out", tmp_path / "shard.tar", masked, Tokens(tokenizer=str(dvae)), max_failed=0.5)
    assert [row["status"] for row in table] == ["ok", "decode_error", "ok"]
    assert [table[1][name] for name in ("tokens", "masked", "predicted", "loss")] == [None] * 4


def test_another_tokenizer_is_another_output(dvae: Path, masked: Path, some_photos: Path, tmp_path: Path) -> None:
    here(tmp_path / "out", some_photos, masked, Tokens(tokenizer=str(dvae)), limit=2)
    copy = save_dvae(tmp_path / "same weights")
    here(tmp_path / "out", some_photos, masked, Tokens(tokenizer=str(copy)), limit=2)
    weights = load_file(copy / "model.safetensors")
    save_file({name: weight * 1.01 for name, weight in weights.items()}, copy / "other.safetensors")
    (copy / "other.safetensors").rename(copy / "model.safetensors")
    other = tmp_path / "other weights"
    copy.rename(other)
    with pytest.raises(ConfigError, match="tokenizer"):
        here(tmp_path / "out", some_photos, masked, Tokens(tokenizer=str(other)), limit=2)


def test_a_node_with_another_tokenizer_of_that_name_is_refused(
    dvae: Path, masked: Path, some_photos: Path, tmp_path: Path
) -> None:
    task = Tokens(tokenizer=str(dvae))
    spec = begin(
        checked(RunConfig((str(some_photos),), str(tmp_path / "out"), str(masked)), task),
        lambda: Device("cpu", "cpu", "float32", 4),
    )
    load_predictor(spec)
    other = replace(task, tokenizer=str(save_dvae(tmp_path / "other", decoder=True)))
    with pytest.raises(PipelineError, match="--tokenizer means something else on this node"):
        load_predictor(replace(spec, task=other))


def refusal(task: Tokens, images: Path, model: Path, tmp_path: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        here(tmp_path / "out", images, model, task)
    assert not (tmp_path / "out").exists()
    return str(refused.value)


def test_a_masked_checkpoint_needs_a_tokenizer(dvae: Path, masked: Path, some_photos: Path, tmp_path: Path) -> None:
    assert "--tokenizer" in refusal(Tokens(), some_photos, masked, tmp_path)
    assert "no such folder" in (said := refusal(Tokens(tokenizer="nowhere"), some_photos, masked, tmp_path))
    assert said.startswith("--tokenizer nowhere: ")
    assert "--model" not in said
    assert "no dVAE but a masked" in refusal(Tokens(tokenizer=str(masked)), some_photos, masked, tmp_path)
    assert "is a tokenizer itself" in refusal(Tokens(tokenizer=str(dvae)), some_photos, dvae, tmp_path)


def test_what_cannot_fit_is_refused(masked: Path, some_photos: Path, tmp_path: Path) -> None:
    small = Tokens(tokenizer=str(save_dvae(tmp_path / "small", side=56)))
    assert "7 x 7 tokens out of 128" in refusal(small, some_photos, masked, tmp_path)
    rich = Tokens(tokenizer=str(save_dvae(tmp_path / "rich", vocabulary=200)))
    assert "14 x 14 tokens out of 200" in refusal(rich, some_photos, masked, tmp_path)
    huge = save_dvae(tmp_path / "huge", vocabulary=40_000)
    assert "int16" in refusal(Tokens(), some_photos, huge, tmp_path)
    for share in (0, -1, 1.1):
        assert "--mask-ratio" in refusal(Tokens(mask_ratio=share), some_photos, huge, tmp_path)


@pytest.mark.parametrize(("kind", "job"), [("classifier", "label"), ("segmenter", "segment"), ("encoder", "embed")])
def test_other_checkpoints_are_sent_to_their_job(
    kind: str, job: str, tiny_model: Callable[..., Path], some_photos: Path, tmp_path: Path
) -> None:
    assert f"use python jobs/{job}.py" in refusal(Tokens(), some_photos, tiny_model(kind), tmp_path)


def test_the_report_draws_what_tokens_stand_for(some_photos: Path, tmp_path: Path) -> None:
    both = save_dvae(tmp_path / "dall-e", decoder=True)
    here(tmp_path / "out", some_photos, both)
    plain = Path(page.write(str(tmp_path / "out"))).read_text()
    run_job("report.py", tmp_path / "out", "--tokenizer", both, code=0)
    assert (tmp_path / "out/report.html").read_text().count("<img") > plain.count("<img")


def test_only_the_tokenizer_of_the_run_draws(masked: Path, some_photos: Path, tmp_path: Path) -> None:
    """Of an output of the dVAE's own, and of one of a model that predicts its tokens."""
    right = save_dvae(tmp_path / "dall-e", decoder=True)
    fewer = save_dvae(tmp_path / "fewer", vocabulary=64, decoder=True)
    shifted = save_dvae(tmp_path / "shifted", decoder=True)
    weights = load_file(shifted / "model.safetensors")
    save_file({name: weight + 0.01 for name, weight in weights.items()}, shifted / "model.safetensors")
    here(tmp_path / "own", some_photos, right, limit=2)
    here(tmp_path / "predicted", some_photos, masked, Tokens(tokenizer=str(right)), limit=2)
    made_by = load_card(right).fingerprint[:12]
    for output in (tmp_path / "own", tmp_path / "predicted"):
        for other in (fewer, shifted):
            done = run_job("report.py", output, "--verify", "--tokenizer", other, code=2)
            its = load_card(other).fingerprint[:12]
            said = f"--tokenizer {other} is not the dVAE that made these tokens: its fingerprint is {its}..., theirs "
            assert done.stderr.endswith(f" report.py: {said}{made_by}...: give the one that the run had\n")
            assert done.stderr.count("\n") == 1
            assert (done.stdout, (output / "report.html").exists()) == ("", False)
        run_job("report.py", output, "--tokenizer", right, code=0)


def test_a_tokenizer_without_a_decoder_cannot_draw(dvae: Path) -> None:
    with pytest.raises(ConfigError, match="has no decoder"):
        tokenizer.decoder(str(dvae))
