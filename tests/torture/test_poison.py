"""Images that end the process which decodes them, on Ray; and kills from outside, which prove nothing of an image."""

import signal
from pathlib import Path

import pytest

from tests.flow import make_tar, png
from tests.helpers import rows, run_job, tree_bytes
from tests.torture.conftest import Tally
from tests.torture.gate import WAIT, Gate
from tests.torture.proof import FLAGS, compare, kill_all, start, wait_until
from tests.torture.victims import Victim

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]
KILL, EAT, HANG = b"KILL-ME!", b"EAT-MEM!", b"HANG-ON!"


def test_poison_on_ray_costs_one_row_each(tmp_path: Path, tally: Tally) -> None:
    """Between healthy images of a tar, and loose."""
    poison = {"a02.png": KILL, "a05.png": HANG, "b00.png": EAT, "b01.png": KILL, "c3.png": KILL}
    members = [(f"{letter}{n:02d}.png", png(16 * n)) for letter in "ab" for n in range(11)]
    for letter in "ab":
        make_tar(tmp_path / f"in/{letter}.tar", [(n, poison.get(n, d)) for n, d in members if n.startswith(letter)])
    for n in range(6):
        (tmp_path / f"in/c{n}.png").write_bytes(poison.get(f"c{n}.png", png(n)))
    flags = ["--input", tmp_path / "in", *FLAGS]
    env = Gate(tmp_path / "gate").env
    for output, mode in (("ray", ["--workers", 2]), ("local", ["--local"])):
        done = run_job("label.py", *flags, "--output", tmp_path / output, *mode, env=env, code=3)
        assert f"quarantined: {len(poison)}" in done.stdout
    table = rows(tmp_path / "ray")
    names = [uri.replace("#", "/").rsplit("/", 1)[1] for uri in table["uri"].to_pylist()]
    found = list(zip(names, table["status"].to_pylist(), strict=True))
    bad = [name for name, status in found if status == "quarantined"]
    tally(
        "poison images (Ray)", injected=len(poison), lost=28 - len(set(names)), duplicated=len(names) - len(set(names))
    )
    assert sorted(bad) == sorted(poison)
    assert [status for name, status in found if name not in poison] == ["ok"] * (28 - len(poison))
    assert tree_bytes(tmp_path / "ray/data") == tree_bytes(tmp_path / "local/data")
    run_job("label.py", *flags, "--output", tmp_path / "ray", "--max-failed", 0.5, env=env, code=0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two tars and a loose image; decoding their first images ends when the test says so."""
    for letter in "ab":
        members = [(f"{letter}{n}.png", WAIT if n in (0, 2) else png(n)) for n in range(6)]
        make_tar(tmp_path / f"in/{letter}.tar", members)
    (tmp_path / "in/c.png").write_bytes(WAIT)
    return tmp_path / "in"


@pytest.fixture
def undisturbed(source: Path) -> Path:
    gate = Gate(source.parent / "ajar")
    gate.open()
    flags = ["--input", source, "--output", source.parent / "whole", *FLAGS, "--local"]
    run_job("label.py", *flags, env=gate.env, code=0)
    return source.parent / "whole"


def test_a_storm_of_kills_on_the_whole_process_quarantines_nobody(
    source: Path, undisturbed: Path, tmp_path: Path, tally: Tally
) -> None:
    """Always at the same image: first its decoder alone, then everything."""
    gate, output, known = Gate(tmp_path / "gate"), tmp_path / "out", set[int]()
    command = ["--input", source, "--output", output, *FLAGS, "--local"]
    for number in range(6):
        job = Victim(*command, env=gate.env)
        for alone in (True, False):
            assert wait_until(gate.others_wait(known, job.pid), job, poll=0.05)
            children = gate.waiting(job.pid) - known
            known |= children
            kill_all(children if alone else [job.pid, *children] if number % 2 else [*children, job.pid])
        job.communicate()
        assert job.poll() == -signal.SIGKILL
    gate.open()
    done = run_job("label.py", *command, env=gate.env, code=0)
    assert "quarantined" not in done.stdout
    assert len(known) >= 12  # one child at least at each of twelve kills
    compare(tally, "driver and decoder killed at one image", len(known), output, undisturbed)


def test_a_storm_of_kills_on_actors_and_their_decoders_quarantines_nobody(
    source: Path, undisturbed: Path, tmp_path: Path, tally: Tally
) -> None:
    """Ray starts others, which take up the same images; the run ends by itself."""
    gate, output, known, actors = Gate(tmp_path / "gate"), tmp_path / "out", set[int](), set[int]()
    job = start("--input", source, "--output", output, *FLAGS, "--workers", 2, env=gate.env)
    for number in range(8):
        assert wait_until(gate.others_wait(known, job.pid), job, poll=0.05)
        child = min(gate.waiting(job.pid) - known)
        actor = parent(child)
        known.add(child)
        actors.add(actor)
        kill_all([actor, child] if number % 2 else [child, actor])
    gate.open()
    said, _ = job.communicate(timeout=240)
    assert job.returncode == 0, said
    assert "quarantined" not in said
    assert len(actors) == 8
    compare(tally, "actor and decoder killed at one image", len(actors), output, undisturbed)


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
