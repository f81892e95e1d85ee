"""Small outputs written by hand, in the contract's format, about the bundled digits: something to report on."""

import functools
import io
import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.output import span_file
from pipeline.output.bound import Bound
from pipeline.output.columns import schema_of
from pipeline.output.place import Place
from pipeline.output.span_file import SpanFacts
from tests.helpers import DATA

SPAN = 64
COLOURS = [(38, 40, 46), (228, 87, 86), (76, 120, 168), (84, 162, 75), (238, 202, 59), (178, 121, 162), (255, 157, 166)]
COLOURS += [(157, 117, 93), (114, 183, 178), (245, 133, 24), (186, 176, 172)]


@dataclass(frozen=True)
class Picture:
    """An image of a tar with its neighbours in the sample."""

    uri: str
    key: str
    data: bytes
    beside: dict[str, bytes]

    @property
    def pixels(self) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.data)).convert("L"), dtype=np.float64)

    def row(self) -> dict[str, Any]:
        height, width = self.pixels.shape
        return {"uri": self.uri, "key": self.key, "status": "ok", "error": None, "width": width, "height": height}


def pictures(shards: Path) -> Iterator[Picture]:
    """The images of a folder of tars, in order."""
    for shard in sorted(shards.glob("*.tar")):
        found: dict[str, dict[str, bytes]] = {}
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                file = tar.extractfile(member)
                found.setdefault(key, {})[ending] = file.read() if file else b""
        for key, parts in found.items():
            yield Picture(f"{shard}#{key}.png", key, parts.pop("png"), parts)


@functools.cache
def label_rows(shards: Path) -> list[dict[str, Any]]:
    """Nearest class mean on raw pixels, the true digits known: right most of the time."""
    items = list(pictures(shards))
    flat = np.array([item.pixels.ravel() for item in items])
    truth = np.array([int(item.beside["cls"]) for item in items])
    means = np.array([flat[truth == digit].mean(axis=0) for digit in range(10)])
    logits = -np.linalg.norm(flat[:, None] - means, axis=2) / 40
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    order = np.argsort(-scores, axis=1)[:, :3]
    return [
        item.row() | {"label_ids": ids.tolist(), "labels": [f"digit {i}" for i in ids], "scores": row[ids].tolist()}
        for item, ids, row in zip(items, order, scores, strict=True)
    ]


@functools.cache
def embed_rows(shards: Path) -> list[dict[str, Any]]:
    """The pixels themselves as vectors."""
    return [item.row() | {"embedding": (item.pixels.ravel() / 255 - 0.3).tolist()} for item in pictures(shards)]


@functools.cache
def segment_rows(shards: Path) -> list[dict[str, Any]]:
    """The true masks as palette PNGs."""
    return [item.row() | _mask(item.beside["mask.png"]) for item in pictures(shards)]


def _mask(data: bytes) -> dict[str, Any]:
    ids = np.asarray(Image.open(io.BytesIO(data)))
    image = Image.fromarray(ids)
    image.putpalette([part for colour in COLOURS for part in colour])
    into = io.BytesIO()
    image.save(into, "PNG")
    found = sorted(((float((ids == i).mean()), int(i)) for i in np.unique(ids)), reverse=True)
    names = ["background", *(f"digit {digit}" for digit in range(10))]
    return {"mask": into.getvalue(), "classes": [{"id": i, "label": names[i], "fraction": part} for part, i in found]}


@functools.cache
def token_rows(shards: Path) -> list[dict[str, Any]]:
    """Patches rounded to few values as tokens, a block of them hidden, some of it guessed right."""
    rows, random = [], np.random.default_rng(0)
    for item in pictures(shards):
        patches = item.pixels.reshape(16, 4, 16, 4).transpose(0, 2, 1, 3).reshape(256, 16)
        tokens = (patches.mean(axis=1) // 32 * 64 + patches.std(axis=1) // 16).astype(int)
        masked = np.zeros((16, 16), dtype=bool)
        top, left = random.integers(0, 8, 2)
        masked[top : top + 8, left : left + 9] = True
        guess = np.where(random.random(256) < 0.6, tokens, random.permutation(tokens))
        loss = float((guess != tokens)[masked.ravel()].mean() * 8)
        answer = {
            "tokens": tokens.tolist(),
            "masked": masked.ravel().tolist(),
            "predicted": guess.tolist(),
            "loss": loss,
        }
        rows.append(item.row() | answer)
    return rows


def token_columns(length: int) -> dict[str, pa.DataType]:
    kinds = {"tokens": pa.int16(), "masked": pa.bool_(), "predicted": pa.int16()}
    return {name: pa.list_(kind, length) for name, kind in kinds.items()} | {"loss": pa.float32()}


CLASS = pa.struct([("id", pa.int32()), ("label", pa.string()), ("fraction", pa.float32())])
LABELS = {"label_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.string()), "scores": pa.list_(pa.float32())}
TASKS: dict[str, tuple[Callable[[Path], list[dict[str, Any]]], Path, dict[str, pa.DataType]]] = {
    "label": (label_rows, DATA / "digits/shards", LABELS),
    "embed": (embed_rows, DATA / "digits/shards", {"embedding": pa.list_(pa.float32(), 64)}),
    "segment": (segment_rows, DATA / "digits-seg/shards", {"mask": pa.binary(), "classes": pa.list_(CLASS)}),
    "tokens": (token_rows, DATA / "digits-seg/shards", token_columns(256)),
}


def write_output(folder: Path, task: str, rows: list[dict[str, Any]], columns: dict[str, pa.DataType]) -> Path:
    """An output of two runs in the contract's format, its rows in spans of 64."""
    schema = schema_of(columns, {})
    first = 0
    for _, of_shard in itertools.groupby(rows, shard_of):
        while piece := list(itertools.islice(of_shard, SPAN)):
            write_span(folder, f"span-{first:09d}", piece, schema, first)
            first += len(piece)
    failed = [row for row in rows if row["status"] != "ok"]
    total, good = len(rows), len(rows) - len(failed)
    put(folder / "_run.json", setup(task))
    first_half = run_report("20261121-221500-1a2b", "2026-11-21T22:15:00+00:00", total // 2, exit_code=1)
    last = run_report("20261122-060210-3c4d", "2026-11-22T06:02:10+00:00", total - total // 2)
    last["images"] |= {"planned": total, "ok": good, "failed": len(failed)}
    last["errors"] = {
        status: sum(row["status"] == status for row in failed) for status in {r["status"] for r in failed}
    }
    last["examples"] = [{name: row[name] for name in ("uri", "status", "error")} for row in failed[:5]]
    last["skipped"] = {".txt": 2}
    said = f"{total} planned = {good} ok + {len(failed)} failed; nothing missing, nothing twice"
    last["audit"] = {"planned": total, "ok": good, "failed": len(failed), "missing": 0, "duplicates": 0, "line": said}
    for report in (first_half, last):
        put(folder / f"runs/{report['run']}.json", report)
    put(folder / "_SUCCESS", {"run": last["run"]})
    return folder


def shard_of(row: dict[str, Any]) -> str:
    """The shard that a row's image lies in; empty for a loose image."""
    shard, mark, _ = row["uri"].rpartition("#")
    return shard if mark else ""


def write_span(output: Path, name: str, rows: list[dict[str, Any]], schema: pa.Schema, start: int = 0) -> None:
    statuses = Counter(row["status"] for row in rows)
    facts = SpanFacts(name, shard_of(rows[0]), "1", start, len(rows), statuses["ok"], dict(statuses))
    (output / "data").mkdir(parents=True, exist_ok=True)
    bound = Bound.from_json(setup("label"))
    span_file.write_span(Place(str(output)), pa.Table.from_pylist(rows, schema), facts, bound)


def setup(task: str) -> dict[str, Any]:
    model = {"name": "digits", "head": "classifier", "fingerprint": "sha256:5a1f0c83d1"}
    settings = {"top_k": 3, "threshold": None, "with_embedding": False} if task == "label" else {"seed": 0}
    bound = {
        "dtype": "float32",
        "compile": False,
        "exact": False,
        "keep": [],
        "image_column": None,
        "limit": None,
        "span_size": SPAN,
    }
    versions = {"torch": "2.13.0", "ray": "2.60.0", "pyarrow": "26.0.1"}
    return {"schema": 1, "task": task, "settings": settings, "model": model, **bound, "versions": versions}


def run_report(name: str, started: str, done: int, exit_code: int = 0) -> dict[str, Any]:
    """A run that did `done` images at a speed that wavers."""
    beats = np.cumsum(1 + 0.35 * np.sin(np.arange(40) / 3))
    progress = [[round(0.4 * i, 1), round(done * float(beat / beats[-1]))] for i, beat in enumerate(beats, 1)]
    steps = {"read_s": 1.31, "decode_s": 4.72, "predict_s": 17.4, "write_s": 2.2}
    ended = {"finished": started, "seconds": 16.0, "exit": exit_code, "images": {"done": done}, "throughput": progress}
    return {
        "run": name,
        "task": "",
        "started": started,
        "mode": "ray",
        "workers": 2,
        "device": "cpu",
        "steps": steps,
        **ended,
    }


def put(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def example(folder: Path, task: str) -> Path:
    """An output of the task about the bundled images, with one failed row."""
    make, shards, columns = TASKS[task]
    rows = make(shards)
    broken = {"uri": f"{shards}/{'digits-00009.tar'}#9999.png", "key": "9999", "status": "decode_error"}
    return write_output(folder, task, [*rows, broken | {"error": "OSError: image file is truncated"}], columns)
