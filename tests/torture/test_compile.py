"""--compile: the same answers within the contract, also where a picture is cut into windows."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from embed import Embed
from label import Label
from segment import Segment

from beit_core import load_card
from pipeline.engine.predictor import Predictor
from pipeline.task import AnyTask
from tests.gpu.checks import noise
from tests.helpers import DATA, run_job

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]


def answers(task: AnyTask, model: Path, size: tuple[int, int], *, compiled: bool) -> dict[str, np.ndarray]:
    """The columns of one picture of this size."""
    card = load_card(model)
    predictor = Predictor(task, card, dtype="float32", batch_size=1, compiled=compiled, device="cpu")
    picture = np.resize(noise(card, 1), (1, *(predictor.specs[0].size or size), 3))
    step = predictor.step(predictor.prepare((picture,), ["a"], [size]))
    columns = step.answers()
    assert step.reason is None
    return {name: np.asarray(values[0]) for name, values in columns.items()}


@pytest.mark.parametrize("semantics", ["original", "hf"])
def test_masks_are_the_same(semantics: str) -> None:
    model = DATA / "digits-seg/model"
    task = Segment(semantics=semantics)  # type: ignore[arg-type]
    eager, compiled = (answers(task, model, (96, 130), compiled=way)["mask"] for way in (False, True))
    assert eager.shape == (96, 130)
    assert (eager != compiled).mean() < 1e-3  # pixels where two classes are all but equal


def test_scores_are_the_same() -> None:
    eager, compiled = (answers(Label(), DATA / "digits/model", (8, 8), compiled=way) for way in (False, True))
    assert eager["label_ids"].tolist() == compiled["label_ids"].tolist()
    np.testing.assert_allclose(compiled["scores"], eager["scores"], rtol=1e-5, atol=1e-5)


def test_the_compiler_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else bytes on GPUs would differ between processes. In a thread: there a setting of the process may not hold."""
    from torch._inductor import config
    from torch._inductor.graph import GraphLowering

    found: list[bool] = []
    run = GraphLowering.run

    def noted(graph: GraphLowering, *args: object) -> object:
        found.append(config.deterministic)
        return run(graph, *args)

    monkeypatch.setattr(GraphLowering, "run", noted)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # what was compiled before is not compiled again
    with ThreadPoolExecutor(1) as pool:
        pool.submit(answers, Embed(), DATA / "digits/model", (8, 8), compiled=True).result()
    assert found
    assert all(found)


def test_a_compiler_that_does_not_work_is_refused(tmp_path: Path) -> None:
    flags = ["--input", DATA / "digits/shards", "--model", DATA / "digits/model", "--local", "--compile"]
    env = {"CXX": "/bin/false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = run_job("label.py", *flags, "--output", tmp_path / "out", env=env, code=2)
    assert "a batch cannot be computed here: the model failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
