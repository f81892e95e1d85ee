"""Shards that somebody replaces while they are read: never a mixture of two contents."""

import io
import itertools
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.errors import ObjectUnreadable, StorageError
from pipeline.forget import Forget, forget
from pipeline.output.ledger import Ledger
from pipeline.output.place import Place
from pipeline.output.span_file import read_table
from pipeline.source.format import FORMATS
from pipeline.source.item import Position, Wanted
from pipeline.storage import ranged
from tests.faults import FaultProxy, Rule
from tests.flow import make_tar, run_here
from tests.helpers import rows, tree_bytes
from tests.proxied import noise
from tests.weed import Weed

REPLACED = "it was replaced while it was read; the next run reads the new one"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged, "BLOCK", 16 << 10)


def tar_of(tmp_path: Path, first: int) -> bytes:
    """20 images, 3 KB each; the same size whatever they show."""
    return make_tar(tmp_path / "a.tar", [(f"{n:02d}.png", noise(first + n)) for n in range(20)]).read_bytes()


def test_a_tar_replaced_in_the_middle_ends_there(proxied: FaultProxy, weed: Weed, tmp_path: Path) -> None:
    proxied.reset()
    weed.fs().pipe_file("inb/replaced/a.tar", tar_of(tmp_path, 0))
    entry = storage.stat("s3://inb/replaced/a.tar")
    assert entry
    items = FORMATS["tar"].items(entry, Wanted(frozenset({"png"})), Position())
    before = list(itertools.islice(items, 3))
    weed.fs().pipe_file("inb/replaced/a.tar", tar_of(tmp_path, 100))
    *after, end = items
    assert [item.data for item in (*before, *after)] == [noise(n) for n in range(len(before) + len(after))]
    assert len(after) < 12
    assert (end.uri, str(end.data)) == (entry.uri, f"the tar cannot be read on: {REPLACED}")
    assert isinstance(end.data, ObjectUnreadable)


def test_a_table_replaced_in_the_middle_ends_there(proxied: FaultProxy, weed: Weed) -> None:
    proxied.reset()

    def table(first: int) -> bytes:
        sink = io.BytesIO()
        pq.write_table(pa.table({"image": [noise(first + n) for n in range(20)]}), sink, row_group_size=2)
        return sink.getvalue()

    weed.fs().pipe_file("inb/replaced/a.parquet", table(0))
    entry = storage.stat("s3://inb/replaced/a.parquet")
    assert entry
    items = FORMATS["parquet"].items(entry, Wanted(frozenset()), Position())
    before = list(itertools.islice(items, 2))
    weed.fs().pipe_file("inb/replaced/a.parquet", table(100))
    *after, end = items
    assert [item.data for item in (*before, *after)] == [noise(n) for n in range(len(before) + len(after))]
    assert (end.uri, str(end.data)) == (entry.uri, REPLACED)


def test_the_next_run_heals_what_was_replaced(proxied: FaultProxy, weed: Weed, tmp_path: Path) -> None:
    weed.fs().pipe_file("inb/healed/a.tar", tar_of(tmp_path, 0))
    replacement = tar_of(tmp_path, 100)
    # The fourth range waits in the proxy while the tar is replaced.
    proxied.fail(
        Rule("latency", "/healed/a.tar", "GET", secs=0, times=3), Rule("latency", "/healed/a.tar", "GET", secs=1)
    )

    def replace() -> None:
        while proxied.hits()[1] == 0:
            time.sleep(0.01)
        weed.fs().pipe_file("inb/healed/a.tar", replacement)

    other = threading.Thread(target=replace)
    other.start()
    code = run_here("s3://inb/healed/", tmp_path / "out", span_size=4)
    other.join()
    assert code == 3
    status = rows(tmp_path / "out")["status"].to_pylist()
    assert status.count("fetch_error") == 1
    proxied.reset()
    assert run_here("s3://inb/healed/", tmp_path / "out", span_size=4) == 0
    assert run_here("s3://inb/healed/", tmp_path / "whole", span_size=4) == 0
    assert tree_bytes(tmp_path / "out/data") == tree_bytes(tmp_path / "whole/data")


@pytest.mark.usefixtures("s3_env")
def test_a_finished_file_that_another_run_replaces_is_read_as_it_is_now(weed: Weed, tmp_path: Path) -> None:
    source, output = make_tar(tmp_path / "a.tar", [(f"{n:02d}.png", noise(n)) for n in range(20)]), "s3://outb/replaced"
    assert run_here(source, output, "brightness") == 0
    before = Ledger.load(Place.of(output))
    before.seen.clear()
    (tmp_path / "named.txt").write_text("".join(f"{source}#{n:02d}.png\n" for n in range(1, 20)))
    assert forget(Forget(output, str(tmp_path / "named.txt"))) == 0
    (name,) = before.files
    assert read_table(before.entry(name))["uri"].to_pylist() == [f"{source}#00.png"]
    seen = before.seen_of([name])[name]
    assert (seen.images, seen.forgotten) == (20, 19)
    now = Ledger.load(Place.of(output))
    assert (seen.file, before.files) == (now.files[name], now.files)  # recorded of the file that has these counts
    weed.fs().pipe_file(f"outb/replaced/data/{name}.parquet", b"PAR1 and no more")
    with pytest.raises(StorageError, match="is no file of ours or damaged"):
        read_table(before.entry(name))
