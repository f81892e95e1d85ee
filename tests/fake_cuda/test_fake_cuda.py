"""What the engine makes of a GPU: right answers however late they come, and a word for whatever fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.fake_cuda.build import build, environment
from tests.flow import DIGITS
from tests.helpers import ROOT, clean_env, rows, run_job, tree_bytes
from tests.models import save_dvae, save_masked
from tests.photos import make_photos
from tests.ray_head import gpu_node_beside_cpus, ray_head_server

pytestmark = [pytest.mark.fake_gpu, pytest.mark.timeout(900)]

SCENES = ROOT / "tests/data/digits-seg"
FLOAT32 = ("--local", "--dtype", "float32")
LATE = {"FAKE_CUDA_DELAY_US": "30000"}


@pytest.fixture(scope="session")
def gpu() -> dict[str, str]:
    """The environment of processes that have a GPU."""
    out = ROOT / "build/fake-cuda"
    build(out)
    return environment(out)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in tars, and models for tokens."""
    folder = tmp_path_factory.mktemp("made")
    make_photos(folder / "tars", 256, tars=2)
    save_masked(folder / "masked")
    save_dvae(folder / "dvae", side=64)
    return folder


@pytest.fixture(scope="session")
def embedded(gpu: dict[str, str], made: Path) -> dict[str, bytes]:
    """What the GPU writes when nothing fails."""
    done = embed(made / "calm", made, gpu)
    assert done.returncode == 0, done.stderr
    return tree_bytes(made / "calm/data")


def embed(output: Path, made: Path, env: dict[str, str], *more: str) -> subprocess.CompletedProcess[str]:
    """Sixteen batches of sixteen, of two shards at once."""
    wanted = ["--input", made / "tars", "--model", DIGITS / "model", "--output", output, "--device", "gpu"]
    return run_job("embed.py", *wanted, "--batch-size", "16", *more or FLOAT32, env=env)


def vectors(table: pa.Table) -> np.ndarray:
    return np.stack(table["embedding"].to_numpy())


def test_what_nobody_has_waited_for_is_not_there(gpu: dict[str, str]) -> None:
    """Else nothing else here would show anything."""
    program = """
import torch
here = torch.ones(1000, pin_memory=True)
there, back = here.to("cuda", non_blocking=True), torch.zeros(1000, pin_memory=True)
beside = torch.cuda.Stream()
with torch.cuda.stream(beside):
    early = there.to("cpu")  # waits for its own stream alone
back.copy_(there * 2, non_blocking=True)
before = back.clone()
torch.cuda.synchronize()
print(early.isnan().all().item(), before.sum().item(), back.sum().item())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean_env(gpu | LATE), capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["True", "0.0", "2000.0"], done.stderr


@pytest.mark.parametrize(
    ("script", "columns", "flags"),
    [
        ("label.py", ["label_ids"], ["--input", DIGITS / "shards", "--model", DIGITS / "model"]),
        ("segment.py", ["mask"], ["--input", SCENES / "shards", "--model", SCENES / "model"]),
        ("segment.py", ["mask"],
         ["--input", SCENES / "shards", "--model", SCENES / "model", "--inference", "slide", "--batch-size", "4",
          "--limit", "12"]),
        ("tokens.py", ["tokens"], ["--input", DIGITS / "shards", "--model", "dvae"]),
        ("tokens.py", ["tokens", "masked", "predicted"],
         ["--input", DIGITS / "shards", "--model", "masked", "--tokenizer", "dvae", "--batch-size", "16"]),
    ],
    ids=["label", "segment", "slide", "tokens", "masked"],
)  # fmt: skip
def test_a_task_answers_as_on_a_cpu(
    gpu: dict[str, str], made: Path, tmp_path: Path, script: str, columns: list[str], flags: list[object]
) -> None:
    flags = [made / flag if flag in ("dvae", "masked") else flag for flag in flags]
    run_job(script, *flags, *FLOAT32, "--device", "gpu", "--output", tmp_path / "gpu", env=gpu | LATE, code=0)
    run_job(script, *flags, *FLOAT32, "--output", tmp_path / "cpu", code=0)
    assert rows(tmp_path / "gpu").select(["uri", *columns]) == rows(tmp_path / "cpu").select(["uri", *columns])


def test_vectors_are_those_of_a_cpu(embedded: dict[str, bytes], made: Path, tmp_path: Path) -> None:
    wanted = ["--input", made / "tars", "--model", DIGITS / "model", "--output", tmp_path / "cpu"]
    run_job("embed.py", *wanted, *FLOAT32, code=0)
    assert len(embedded) == 2
    assert np.allclose(vectors(rows(made / "calm")), vectors(rows(tmp_path / "cpu")), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_bytes_are_the_same_in_whatever_order_things_come(
    gpu: dict[str, str], made: Path, embedded: dict[str, bytes], tmp_path: Path, seed: str
) -> None:
    late = {"FAKE_CUDA_SEED": seed, "FAKE_CUDA_DELAY_US": str(1000 * int(seed) ** 5)}
    done = embed(tmp_path / "out", made, gpu | late)
    assert done.returncode == 0, done.stderr
    assert tree_bytes(tmp_path / "out/data") == embedded


@pytest.mark.parametrize("at", [3, 100, 180, 350, 600, 1000, 1400])
def test_a_gpu_that_fails_is_begun_again(
    gpu: dict[str, str], made: Path, embedded: dict[str, bytes], tmp_path: Path, at: int
) -> None:
    once = {"FAKE_CUDA_FAIL_AT": str(at), "FAKE_CUDA_FAIL_ONCE": str(tmp_path / "failed")}
    done = embed(tmp_path / "out", made, gpu | once)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("starting again") == 1
    assert tree_bytes(tmp_path / "out/data") == embedded


@pytest.mark.parametrize("at", [3, 700])
def test_a_gpu_that_always_fails_ends_the_run_with_the_reason(
    gpu: dict[str, str], made: Path, tmp_path: Path, at: int
) -> None:
    done = embed(tmp_path / "out", made, gpu | {"FAKE_CUDA_FAIL_AT": str(at)})
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("starting again") == 3
    assert "the device failed (CUDA error: an illegal memory access was encountered)" in done.stderr.splitlines()[-1]
    assert "terminate called" not in done.stderr


def test_pages_that_cannot_be_locked_change_nothing(
    gpu: dict[str, str], made: Path, embedded: dict[str, bytes], tmp_path: Path
) -> None:
    done = embed(tmp_path / "out", made, gpu | {"FAKE_CUDA_NO_LOCK": "1"})
    assert done.returncode == 0, done.stderr
    assert "cannot be locked" in done.stderr
    assert tree_bytes(tmp_path / "out/data") == embedded


@pytest.mark.usefixtures("embedded")
def test_little_memory_takes_smaller_batches(gpu: dict[str, str], made: Path, tmp_path: Path) -> None:
    little = gpu | {"FAKE_CUDA_MIB": "24"}
    done = embed(tmp_path / "out", made, little, *FLOAT32, "--batch-size", "128")
    assert done.returncode == 0, done.stderr
    assert np.allclose(vectors(rows(tmp_path / "out")), vectors(rows(made / "calm")), rtol=1e-5, atol=1e-5)


LARGE_ANSWERS = """
import threading
import numpy as np, pyarrow as pa, torch
from beit_core import load_card
from pipeline.engine.predictor import Predictor
from pipeline.task import Task

class Large(Task):
    name = "large"
    def columns(self, card): return {"x": pa.list_(pa.float32(), 1 << 20)}
    def load(self, card): return torch.nn.Identity()
    def predict(self, model, batch):  # 4 MiB an image
        return {"x": batch.views[0].mean((1, 2, 3))[:, None].expand(-1, 1 << 20).contiguous()}

class Scattered(Large):
    def predict(self, model, batch):  # 4 MiB of 16
        return {"x": batch.views[0].mean((1, 2, 3))[:, None, None].expand(-1, 1 << 20, 4).contiguous()[..., 0]}

card = load_card("tests/data/digits/model")
pictures = np.arange(8, dtype=np.uint8)[:, None, None, None].repeat(32, 1).repeat(32, 2).repeat(3, 3)
wanted = card.pixels.normalize(pictures).mean((1, 2, 3))[:, None]

def are_right(step):
    vectors = predictor.encode(step.answers(), step.reason).columns["x"]
    return vectors.shape == (8, 1 << 20) and np.allclose(vectors, wanted.numpy(), rtol=1e-5, atol=1e-5)
"""


def said_of_large_answers(program: str, gpu: dict[str, str], mib: int) -> list[str]:
    env = clean_env(gpu | {"FAKE_CUDA_MIB": str(mib)})
    done = subprocess.run(
        [sys.executable, "-c", LARGE_ANSWERS + program], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_answers_that_lie_scattered_are_gathered_in_what_memory_there_is(gpu: dict[str, str]) -> None:
    program = """
predictor = Predictor(Scattered(), card, dtype="float32", batch_size=8)
step = predictor.step(predictor.prepare((pictures,), [""] * 8, [(32, 32)] * 8))
print(predictor.at_once, are_right(step))
"""
    assert said_of_large_answers(program, gpu, 140) == ["4", "True"]


def test_answers_that_are_still_there_are_waited_for_before_batches_become_smaller(gpu: dict[str, str]) -> None:
    program = """
predictor = Predictor(Large(), card, dtype="float32", batch_size=8)
first = predictor.step(predictor.prepare((pictures,), [""] * 8, [(32, 32)] * 8))
waits, make_room = threading.Event(), predictor.transfer.make_room
predictor.transfer.make_room = lambda: waits.set() or make_room()
finishing = threading.Thread(target=lambda: waits.wait(60) and print(are_right(first)))
finishing.start()
second = predictor.step(predictor.prepare((pictures,), [""] * 8, [(32, 32)] * 8))
finishing.join()
print(predictor.at_once, are_right(second))
"""
    assert said_of_large_answers(program, gpu, 60) == ["True", "8", "True"]


def test_a_worker_has_a_gpu_compute_a_batch_before_it_takes_rows(gpu: dict[str, str], tmp_path: Path) -> None:
    """On a CPU that would be seconds in vain."""
    program = """
import sys
from pathlib import Path
from pipeline.engine.loading import load_predictor
from pipeline.engine.predictor import Predictor
from tests.pipeline.engine.test_worker_alone import bound

steps, step = [], Predictor.step
Predictor.step = lambda predictor, asked: steps.append(len(asked.uris)) or step(predictor, asked)
_, spec = bound(Path(sys.argv[1]))
print(load_predictor(spec).device, steps)
"""
    said = []
    for number, env in enumerate([gpu, {"PYTHONPATH": str(ROOT)}]):
        path = {"PYTHONPATH": f"{env['PYTHONPATH']}:{ROOT / 'jobs'}"}  # as for all tests
        command = [sys.executable, "-c", program, str(tmp_path / str(number))]
        done = subprocess.run(command, cwd=ROOT, env=clean_env(env | path), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.strip())
    assert said == ["cuda [4]", "cpu []"]


def test_an_old_gpu_computes_no_bfloat16(gpu: dict[str, str], made: Path, tmp_path: Path) -> None:
    done = embed(tmp_path / "out", made, gpu | {"FAKE_CUDA_CAPABILITY": "75"}, "--local", "--dtype", "bfloat16")
    assert done.returncode == 2
    assert "only emulates it" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fails_at", ["", "3", "500"], ids=["well", "asked for its device", "working"])
def test_gpus_of_a_cluster_write_the_same_bytes(
    gpu: dict[str, str], made: Path, embedded: dict[str, bytes], tmp_path: Path, fails_at: str
) -> None:
    once = {"FAKE_CUDA_FAIL_AT": fails_at, "FAKE_CUDA_FAIL_ONCE": str(tmp_path / "failed")}
    with ray_head_server(gpu | (once if fails_at else {})) as head:
        done = embed(tmp_path / "out", made, head.env, "--dtype", "float32", "--ray-address", head.address)
    assert done.returncode == 0, done.stderr
    assert "2 GPUs on 1 node" in done.stderr
    assert (tmp_path / "failed").exists() == bool(fails_at)
    assert ("starting again (1 of 3)" in done.stderr) == (fails_at == "3")
    assert tree_bytes(tmp_path / "out/data") == embedded


def test_a_gpu_that_other_nodes_read_for_writes_the_same_bytes(
    gpu: dict[str, str], made: Path, embedded: dict[str, bytes], tmp_path: Path
) -> None:
    with gpu_node_beside_cpus(gpu | LATE) as head:
        done = embed(tmp_path / "out", made, head.env, "--dtype", "float32", "--ray-address", head.address)
    assert done.returncode == 0, done.stderr
    assert "2 CPUs on other nodes: split" in done.stderr
    assert tree_bytes(tmp_path / "out/data") == embedded


def test_the_kit_finds_nothing_wrong(gpu: dict[str, str], tmp_path: Path) -> None:
    """But for the parts that take long here: memory, which others try above, and whole jobs."""
    program = """
import sys
from pathlib import Path
from tests.gpu.__main__ import parts
for title, part in parts(Path(sys.argv[1]), small=True):
    if title.startswith(("parity", "slots", "throughput")):
        for check in part():
            print(check, file=sys.stdout if check.holds is False else sys.stderr)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    env = clean_env(gpu)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.count("holds=True") >= 12


def test_the_bench_measures_the_gpu(gpu: dict[str, str]) -> None:
    flags = ["--model", DIGITS / "model", "--steps", "model", "--no-compile", "--batch-size", "8"]
    assert run_job("bench.py", *flags, env=gpu, code=0).stdout.startswith("Fake GPU, ")
