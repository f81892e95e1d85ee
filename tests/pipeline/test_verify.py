"""What reading every row proves: whole files, those of the plan and no others, of runs that have come to their end."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.errors import PipelineError, StorageError
from pipeline.forget import Forget, forget
from pipeline.output.place import Place
from pipeline.output.span_file import read_facts
from pipeline.plan import part_file
from pipeline.plan.verify import verify
from tests.flow import make_tar, png, run_here
from tests.helpers import run_job


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Of two tars and some loose images; every file may be damaged."""
    for name in "ab":
        make_tar(tmp_path / f"in/{name}.tar", [(f"{n}.png", png(n)) for n in range(6)])
    for n in range(6):
        (tmp_path / f"in/{n}.png").write_bytes(png(n))
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness", span_size=4) == 0
    return tmp_path / "out"


def span(output: Path, beginning: str) -> Path:
    return min((output / "data").glob(f"{beginning}-*"))


def renamed(path: Path, uri: str) -> None:
    """The first row of a file under another URI."""
    table = pq.read_table(path)
    uris = [uri, *table["uri"].to_pylist()[1:]]
    pq.write_table(table.set_column(0, table.schema.field("uri"), [uris]), path)


def lost_part(output: Path) -> None:
    (output / "plan/part-000000.parquet").unlink()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "copy": (lambda to: shutil.copy(span(to, "a"), to / "data/copy.parquet"), ": remove it and run again"),
    "another": (lambda to: shutil.copy(span(to, "a"), span(to, "b")), "is a copy of a-"),
    "lost part": (lost_part, "is in no part of the plan: restore that part, or remove it"),
    "loose uri": (
        lambda to: renamed(span(to, "images"), "/x.png"),
        "holds other images than it was planned with: remove it",
    ),
    "uri": (lambda to: renamed(span(to, "a"), "/x.tar#0.png"), "holds other images than it was planned with"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_files_are_what_the_plan_says(name: str, output: Path) -> None:
    damage, said = DAMAGES[name]
    assert verify(Place.of(str(output))).green
    damage(output)
    found = verify(Place.of(str(output)))
    assert any(said in why for why in found.damaged)


def test_what_a_killed_run_has_not_done_is_not_proved(output: Path) -> None:
    """As a kill leaves it: of one tar nothing is there yet, not even in the plan; of the other nothing is missing."""
    (output / "_SUCCESS").unlink()
    shutil.rmtree(output / "runs")
    for path in [*(output / "data").glob("b-*"), *(output / "plan").glob("shard-b-*")]:
        path.unlink()
    said = run_job("report.py", output, "--verify", code=1).stdout
    assert "every URI once, none missing; the last run has not ended: the same command continues it" in said


def test_a_run_with_too_many_failures_has_ended(tmp_path: Path) -> None:
    make_tar(tmp_path / "in/a.tar", [("a.png", png(1)), ("b.png", b"none")])
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness") == 3
    assert not (tmp_path / "out/_SUCCESS").exists()
    assert verify(Place.of(str(tmp_path / "out"))).has_ended
    (tmp_path / "list.txt").write_text(f"{tmp_path}/in/a.tar#b.png")
    assert forget(Forget(str(tmp_path / "out"), str(tmp_path / "list.txt"))) == 0
    assert verify(Place.of(str(tmp_path / "out"))).has_ended


@pytest.mark.parametrize(
    ("file", "advice"),
    [
        ("plan/part-000000.parquet", "restore this part of the plan"),
        ("data/a-*0.parquet", "remove it and run again"),
    ],
)
@pytest.mark.parametrize("how", ["cut", "footer"])
def test_damaged_files_are_named_with_the_next_step(file: str, advice: str, how: str, output: Path) -> None:
    path = next(output.glob(file))
    data = path.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little") + 8
    path.write_bytes(data[:-20] if how == "cut" else data[:-footer] + bytes([255] * (footer - 8)) + data[-8:])
    shutil.rmtree(output / "runs")  # else nobody looks
    with pytest.raises(StorageError, match=f"{path} is .*damaged: {advice}"):
        run_here(output.parent / "in", output, "brightness", span_size=4)


def test_a_copy_among_the_files_ends_a_run_in_one_sentence(output: Path) -> None:
    shutil.copy(span(output, "a"), output / "data/copy.parquet")
    with pytest.raises(PipelineError, match=r"copy\.parquet is a copy of a-.*: remove it and run again"):
        run_here(output.parent / "in", output, "brightness", span_size=4)


@pytest.mark.parametrize("error", [FileNotFoundError("not found"), PermissionError("access denied")])
def test_what_storage_says_is_no_damage(error: OSError, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    entry = storage.stat(str(span(output, "a")))
    assert entry
    monkeypatch.setattr(storage, "open_stream", refuse)
    with pytest.raises(type(error), match=str(error)):
        read_facts(entry)
    with pytest.raises(type(error), match=str(error)):
        part_file.read_part(entry)


def test_what_is_only_remembered_may_be_damaged(output: Path) -> None:
    (seen,) = (output / "runs").glob("*.spans.parquet")
    seen.write_bytes(seen.read_bytes()[:40])
    assert run_here(output.parent / "in", output, "brightness", span_size=4) == 0
    (output / "_SUCCESS").unlink()
    for report in (output / "runs").glob("*.json"):
        report.write_text("")
    assert not verify(Place.of(str(output))).has_ended


def test_of_a_shard_whose_files_are_all_damaged_nobody_knows_where_it_lies(output: Path) -> None:
    next((output / "plan").glob("shard-a-*")).unlink()
    for path in (output / "data").glob("a-*"):
        path.write_bytes(b"garbage")
    found = verify(Place.of(str(output)))
    assert (len(found.damaged), found.missing > 0, found.green) == (2, True, False)
    run_job("report.py", output, "--verify", code=1)


def test_what_a_disk_says_is_one_sentence(output: Path) -> None:
    path = span(output, "a")
    data = path.read_bytes()
    path.unlink()
    path.symlink_to(path)  # a file that nobody can open, not even root
    output.joinpath("list.txt").write_text(f"{output.parent}/in/b.tar#0.png\n")
    for job in (["report.py", output, "--verify"], ["forget.py", output, "--uris", output / "list.txt"]):
        done = run_job(str(job[0]), *job[1:])
        assert done.returncode == 1
        assert f"Too many levels of symbolic links ({path})" in done.stderr
        assert "Traceback" not in done.stderr
    path.unlink()
    path.write_bytes(data)
