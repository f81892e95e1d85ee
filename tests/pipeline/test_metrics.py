"""What a run leaves for Prometheus, read by Prometheus' own parser; and what a real Ray head exports of it."""

import json
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.flow import DIGITS, make_tar, png, run_here
from tests.helpers import run_job
from tests.outputs import newest_report
from tests.ray_head import RayHead

WAIT_S = 60  # Ray exports every few seconds
SUCCESS = ("beit_last_success_timestamp_seconds", "")
SUCCEEDED = ("beit_success_timestamp_seconds_total", "")


def samples(text: str) -> dict[tuple[str, str], float]:
    """Values by a sample's name and the text of the label that tells it from the others."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            label = " ".join(sample.labels[key] for key in ("status", "step", "le") if key in sample.labels)
            name = sample.name.removeprefix("ray_")
            if name.startswith("beit_"):
                found[name, label] = found.get((name, label), 0) + sample.value
    return found


def exported(head: RayHead) -> dict[tuple[str, str], float]:
    with urllib.request.urlopen(head.metrics, timeout=10) as answer:
        return samples(answer.read().decode())


def test_a_run_leaves_its_figures_beside_its_report(tmp_path: Path) -> None:
    shard = make_tar(tmp_path / "in/a.tar", [("a.png", png(1)), ("b.png", png(2)), ("c.png", png(3)[:40])])
    before = time.time()
    assert run_here(shard, tmp_path / "out", "brightness", max_failed=0.5) == 0
    file = newest_report(tmp_path / "out").with_suffix(".prom")
    found = samples(file.read_text())
    assert found["beit_images_total", "ok"] == 2
    assert found["beit_images_total", "decode_error"] == 1
    assert found["beit_images_planned", ""] == 3
    assert before - 1 < found[SUCCESS] == found[SUCCEEDED] < time.time() + 1
    steps = json.loads(file.with_suffix(".json").read_text())["steps"]
    for step, seconds in steps.items():
        name = step.removesuffix("_s")
        assert found["beit_step_seconds_count", name] == found["beit_step_seconds_bucket", f"{name} +Inf"] == 1
        assert abs(found["beit_step_seconds_sum", name] - seconds) < 1e-2
    assert ("beit_accelerator_busy", "") not in found  # a CPU decodes too


def test_a_night_with_nothing_to_do_is_a_success_and_a_bad_one_is_none(tmp_path: Path) -> None:
    shard = make_tar(tmp_path / "in/a.tar", [("a.png", png(1)), ("b.png", png(2)[:40])])
    assert run_here(shard, tmp_path / "out", "brightness") == 3
    found = samples(newest_report(tmp_path / "out").with_suffix(".prom").read_text())
    assert SUCCESS not in found
    assert run_here(shard, tmp_path / "out", "brightness", max_failed=0.5) == 0
    found = samples(newest_report(tmp_path / "out").with_suffix(".prom").read_text())
    assert {name for name, _ in found} == {"beit_images_planned", SUCCESS[0], SUCCEEDED[0]}


@pytest.mark.torture
def test_a_ray_head_exports_the_same_figures_after_the_run(ray_head: RayHead, tmp_path: Path) -> None:
    flags = ["--input", DIGITS / "shards", "--model", DIGITS / "model", "--output", tmp_path / "out", "--device", "cpu"]
    run_job("label.py", *flags, "--ray-address", ray_head.address, "--workers", 1, env=ray_head.env, code=0)
    mine = samples(newest_report(tmp_path / "out").with_suffix(".prom").read_text())
    deadline, found = time.monotonic() + WAIT_S, dict[tuple[str, str], float]()
    while time.monotonic() < deadline and SUCCEEDED not in found:
        found = exported(ray_head)
        time.sleep(0.5)
    assert mine["beit_images_total", "ok"] == 360
    for key in [("beit_images_total", "ok"), ("beit_images_planned", ""), SUCCEEDED]:
        assert found[key] >= mine[key], key
    while time.monotonic() < deadline and ("beit_images_planned", "") in found:
        found = exported(ray_head)
        time.sleep(0.5)
    assert ("beit_images_planned", "") not in found  # Ray forgets gauges when their process has ended, ...
    assert found[SUCCEEDED] >= mine[SUCCEEDED]  # ... but a scrape a minute sees that the run has ended well
    assert found["beit_images_total", "ok"] >= 360
