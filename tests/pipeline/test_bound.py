"""`_run.json`: whose it is, and what of it can be read."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.output.bound import bound_of, is_ours
from pipeline.output.place import Place
from pipeline.storage import s3
from tests.flow import DIGITS, run_here
from tests.helpers import tree_bytes
from tests.outputs import edit
from tests.weed import Weed

SHARDS = DIGITS / "shards"
MODEL = {"name": "digits", "head": "classifier", "fingerprint": "0123abcd", "semantics": "hf"}
# As the first layout wrote it, with `limit`, sizes in one number, and neither batches nor columns of images.
FIRST = {
    **{"schema": 1, "task": "label", "settings": {"top_k": 5}, "model": MODEL, "dtype": "float32", "compile": False},
    **{"exact": False, "keep": [], "limit": None, "span_size": 32, "versions": {}},
}


def span_metadata(path: Path) -> bytes:
    return bytes(pq.read_metadata(path).metadata[b"beit"])


@pytest.mark.parametrize("content", [{"task": "train"}, {"task": "train", "schema": 3, "model": "resnet"}])
def test_a_run_file_of_another_tool_is_nobodys_to_delete(content: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "_run.json").write_text(json.dumps(content))
    (tmp_path / "checkpoint.pt").write_text("x")
    for flags in ({}, {"overwrite": True}):
        with pytest.raises(ConfigError, match=f"{tmp_path} is no output of these jobs: its _run.json lacks"):
            run_here(SHARDS, tmp_path, **flags)
    assert (tmp_path / "checkpoint.pt").exists()


def test_an_output_of_the_first_layout_may_be_started_over(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/old.parquet").write_text("x")
    (tmp_path / "_run.json").write_text(json.dumps(FIRST))
    assert is_ours(Place.of(str(tmp_path)))
    with pytest.raises(ConfigError, match="has layout 1, this version writes layout 4"):
        run_here(SHARDS, tmp_path, limit=3)
    assert run_here(SHARDS, tmp_path, limit=3, overwrite=True) == 0
    assert not (tmp_path / "data/old.parquet").exists()


def test_a_damaged_run_file_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    assert run_here(SHARDS, tmp_path, limit=3) == 0
    whole = (tmp_path / "_run.json").read_text()
    odd_sizes = ({"shards": 3}, {"shard": "x", "least": 1, "most": 2}, 32)
    odd = [
        ("model", 3),
        ("settings", []),
        ("keep", None),
        ("image_endings", "png"),
        ("labels", {"0": "cat"}),
        *(("span_size", size) for size in odd_sizes),
    ]
    for name, value in odd:
        edit(tmp_path / "_run.json", **{name: value})
        with pytest.raises(ConfigError, match=f"is no output of these jobs: its _run.json is damaged, in {name}"):
            bound_of(Place.of(str(tmp_path)))
        (tmp_path / "_run.json").write_text(whole)


def test_names_of_classes_are_kept_for_readers_and_bind_nothing(tmp_path: Path) -> None:
    assert run_here(SHARDS, tmp_path / "vectors", "embed", limit=3) == 0
    assert bound_of(Place(str(tmp_path / "vectors"))).labels == ()
    output, before = tmp_path / "labels", tmp_path / "before"
    for folder in (output, before):
        assert run_here(SHARDS, folder, limit=3, top_k=1) == 0
    assert bound_of(Place(str(output))).labels == tuple("0123456789")
    run_file = before / "_run.json"  # as of an output that was begun before they were kept
    run_file.write_text(json.dumps({k: v for k, v in json.loads(run_file.read_text()).items() if k != "labels"}))
    for folder in (output, before):
        assert run_here(SHARDS, folder, limit=40, top_k=1) == 0
    assert bound_of(Place(str(before))).labels == ()
    assert tree_bytes(output / "data") == tree_bytes(before / "data")
    assert all(b"labels" not in span_metadata(path) for path in (output / "data").iterdir())


def test_storage_that_overwrites_what_it_should_create_is_refused(
    weed: Weed, s3_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs at once would take each other's plan parts away."""
    assert s3_env
    call = s3._call
    monkeypatch.setattr(s3, "_call", lambda uri, name, **more: call(uri, name, **{**more, "IfNoneMatch": ""}))
    with pytest.raises(ConfigError, match="--output s3://outb/careless: its storage ignores `If-None-Match"):
        run_here(SHARDS, "s3://outb/careless", limit=3)
    assert not weed.fs().exists("outb/careless/_run.json")
