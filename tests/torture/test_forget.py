"""Forgetting killed at every write: the same command continues it, and so does the next run of the job."""

import shutil
from pathlib import Path

import pytest

from pipeline.forget import Forget, forget
from pipeline.output.place import Place
from pipeline.plan.verify import verify
from tests.flow import make_tar, run_here
from tests.helpers import rows, tree_bytes
from tests.proxied import named
from tests.torture.conftest import Tally
from tests.torture.proof import SPAN, die_at, files

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]
POINTS = [
    "link:before:1:/plan/forgotten-", "link:after:1:/plan/forgotten-", "unlink:before:1:/plan/.forgotten-",
    "replace:before:1:/data/", "replace:after:1:/data/", "replace:before:3:/data/", "replace:after:4:/data/",
    "replace:before:1:.spans.parquet", "replace:after:1:.spans.parquet",
    "replace:before:1:/runs/", "replace:after:2:/runs/", "unlink:before:1:_lease.json",
]  # fmt: skip


@pytest.mark.parametrize("by", ["the same command", "a run", "a run that does failed rows again"])
def test_kills_while_images_are_forgotten(by: str, tmp_path: Path, tally: Tally) -> None:
    source, whole, calm = tmp_path / "in", tmp_path / "whole", tmp_path / "calm"
    for letter in "ab":
        make_tar(source / f"{letter}.tar", named(11))
    for name, data in named(9):
        (source / name).write_bytes(data)
    assert run_here(source, whole, **SPAN) == 0
    uris = sorted(rows(whole)["uri"].to_pylist())
    gone = [*uris[1:9:3], *(uri for uri in uris if uri.endswith(("#0002.png", "#0009.png", "#0010.png")))]
    (tmp_path / "named.txt").write_text("\n".join([uris[0], *gone]))
    shutil.copytree(whole, calm)
    command = Forget(str(calm), str(tmp_path / "named.txt"), if_running="join")
    assert forget(command) == 0
    left = set(uris) - {uris[0], *gone}
    for point in POINTS:
        output = tmp_path / "out"
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(whole, output)
        die_at(point, output, "--uris", tmp_path / "named.txt", script="forget.py")
        if by == "the same command" or not list((output / "plan").glob("forgotten-*")):
            assert forget(Forget(str(output), command.uris_file, if_running="join")) == 0, point
        else:
            assert run_here(source, output, **SPAN, retry_failed=by != "a run") == 0, point
        assert set(rows(output)["uri"].to_pylist()) == left, point
        assert tree_bytes(output / "data") == tree_bytes(calm / "data"), point
        assert verify(Place.of(str(output))).green, point
        before = files(output)
        assert run_here(source, output, **SPAN) == 0, point
        assert files(output) == before, point
    tally(f"forgetting killed, continued by {by}", injected=len(POINTS), lost=0, duplicated=0)
