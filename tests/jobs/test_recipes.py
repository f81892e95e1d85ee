"""The recipes of docs/recipes.md: other tools open the output as it is."""

from pathlib import Path

import duckdb
import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from pipeline.compact import compact
from pipeline.errors import ConfigError
from pipeline.evaluate import Accuracy, evaluate
from tests.flow import DIGITS, run_here


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes") / "out"
    assert run_here(DIGITS / "shards", folder, keep=("cls",), with_embedding=True) == 0
    return folder


def test_one_query_gives_the_accuracy(output: Path) -> None:
    query = f"SELECT avg((labels[1] = cls)::int) FROM '{output}/data/*.parquet' WHERE status = 'ok'"
    assert duckdb.sql(query).fetchall()[0][0] == pytest.approx(357 / 360)
    assert evaluate(str(output), "cls") == Accuracy(360, 357, 360)


def test_embeddings_go_into_an_index_without_a_copy_of_ours(output: Path) -> None:
    column = pq.read_table(output / "data", columns=["embedding"])["embedding"].combine_chunks()
    vectors = column.flatten().to_numpy().reshape(-1, column.type.list_size).copy()
    faiss.normalize_L2(vectors)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    _, nearest = index.search(vectors[:20], 5)
    assert np.array_equal(nearest[:, 0], np.arange(20))
    labels = pq.read_table(output / "data", columns=["cls"])["cls"].to_pylist()
    same = np.mean([labels[i] == labels[j] for i, row in enumerate(nearest) for j in row[1:]])
    assert same > 0.9


def test_hugging_face_datasets_loads_it(output: Path, tmp_path: Path) -> None:
    files = str(output / "data/*.parquet")
    loaded = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert len(loaded) == 360
    assert set(loaded[0]) >= {"uri", "labels", "embedding"}


def test_compacting_makes_few_files_of_all_rows(output: Path, tmp_path: Path) -> None:
    assert compact(str(output), str(tmp_path / "big"), 200) == (360, 2)
    big = pq.read_table(tmp_path / "big")
    assert [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "big").iterdir())] == [200, 160]
    assert big.sort_by("uri").equals(pq.read_table(output / "data").replace_schema_metadata(None).sort_by("uri"))
    with pytest.raises(ConfigError, match="not empty"):
        compact(str(output), str(tmp_path / "big"), 200)
    with pytest.raises(ConfigError, match="lies inside"):
        compact(str(output), str(output / "big"), 200)


def test_a_missing_truth_names_the_columns_there_are(output: Path) -> None:
    with pytest.raises(ConfigError, match=r"--keep txt; it has uri, key, .*labels, scores, embedding, cls"):
        evaluate(str(output), "txt")
