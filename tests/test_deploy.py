"""What lies in deploy/: one command, which the job's own parser takes; manifests that agree with each other."""

import ast
import configparser
import json
import re
import tomllib
from typing import Any

import pytest
import yaml

from pipeline.metrics import METRICS, SUCCESS
from tests.commands import flags_of, words_of
from tests.helpers import ROOT

DEPLOY = ROOT / "deploy"
FILES = {
    *("Dockerfile", "rayjob.yaml", "raycronjob.yaml", "cronjob.yaml", "airflow_dag.py", "crontab"),
    *("beit-label.service", "beit-label.timer", "grafana.json", "alerts.yaml"),
}
PINS = dict(re.findall(r"^(\S+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def read(name: str) -> str:
    return (DEPLOY / name).read_text()


def load(name: str) -> Any:
    return yaml.safe_load(read(name))


def ray_job(name: str) -> Any:
    spec = load(name)["spec"]
    return spec.get("jobTemplate", spec)


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(read(name))
    return parser


def pod() -> Any:
    return load("cronjob.yaml")["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def dag_command() -> str:
    assigned = [node for node in ast.parse(read("airflow_dag.py")).body if isinstance(node, ast.Assign)]
    return next(ast.literal_eval(node.value) for node in assigned if ast.unparse(node.targets[0]) == "COMMAND")


def commands() -> dict[str, list[str]]:
    cron = [line for line in read("crontab").splitlines() if not line.startswith("#")]
    assert len(cron) == 1
    return {
        "rayjob.yaml": words_of(ray_job("rayjob.yaml")["entrypoint"]),
        "raycronjob.yaml": words_of(ray_job("raycronjob.yaml")["entrypoint"]),
        "cronjob.yaml": pod()["containers"][0]["command"][1:],
        "airflow_dag.py": words_of(dag_command()),
        "crontab": words_of(cron[0].partition(" 2>>")[0]),
        "beit-label.service": words_of(unit("beit-label.service")["Service"]["ExecStart"]),
    }


def test_all_run_one_command_which_the_job_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = commands()
    assert {tuple(words) for words in found.values()} == {tuple(found["rayjob.yaml"])}
    flags = flags_of(found["rayjob.yaml"], monkeypatch)
    assert (found["rayjob.yaml"][0], flags["if_running"], flags["log_json"]) == ("label", "exit", True)


def test_a_command_that_the_job_does_not_take_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        flags_of([*commands()["crontab"], "--if-runing", "exit"], monkeypatch)


def test_nothing_lies_there_that_is_not_tested() -> None:
    assert {file.name for file in DEPLOY.iterdir()} == FILES


def test_ray_jobs_have_what_a_nightly_run_needs_and_are_the_same() -> None:
    job = ray_job("rayjob.yaml")
    assert job == ray_job("raycronjob.yaml")
    needed = ("submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "activeDeadlineSeconds")
    assert all(job[name] for name in needed)
    assert job["backoffLimit"] <= 1
    cluster = job["rayClusterSpec"]
    assert cluster["rayVersion"] == PINS["ray"]
    head, groups = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    pods = [group["template"]["spec"] for group in (head, *groups)]
    assert [next(iter(pod["nodeSelector"].values())) for pod in pods] == ["on-demand", "spot", "spot"]
    gpus = [pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for pod in pods]
    assert gpus == [None, "1", None]
    for pod in pods:
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "beit-s3"}}]
        assert "env" not in container


def test_the_cron_job_forbids_two_at_once_and_retries_what_a_retry_can_mend() -> None:
    spec = load("cronjob.yaml")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    rules = spec["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["onExitCodes"] == {"containerName": "beit", "operator": "In", "values": [2, 3]}
    assert pod()["restartPolicy"] == "Never"  # which rules about exit codes need
    assert pod()["securityContext"]["runAsNonRoot"] is True


def test_systemd_retries_the_same_and_the_timer_is_for_the_service() -> None:
    service, timer = unit("beit-label.service")["Service"], unit("beit-label.timer")
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("on-failure", "2 3")
    assert "OnCalendar" in timer["Timer"]


def test_the_image_has_the_versions_that_are_tested_no_root_and_a_compiler() -> None:
    text = read("Dockerfile")
    assert dict(re.findall(r"^ARG (RAY|PYTHON)=(\S+)", text, re.MULTILINE)) == {"RAY": PINS["ray"], "PYTHON": "311"}
    assert re.findall(r"^USER (\w+)", text, re.MULTILINE)[-1] == "ray"
    assert "g++" in text
    assert text.count("pip install") == text.count("pip install --no-cache-dir")
    copied = {word for line in re.findall(r"^COPY --chown=\S+ (.*)", text, re.MULTILINE) for word in line.split()[:-1]}
    assert {name for name in copied if not (ROOT / name).exists()} == set()
    folders = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {name.partition(".")[0].replace("beit_jobs", "jobs") for name in folders} <= copied


def test_the_dashboard_and_the_alerts_ask_for_figures_that_are_recorded() -> None:
    dashboard = json.loads(read("grafana.json"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = [rule for group in load("alerts.yaml")["groups"] for rule in group["rules"]]
    asked += [rule["expr"] for rule in rules]
    endings = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    names = {f"ray_{metric.name}{ending}" for metric in METRICS for ending in endings[metric.kind]}
    used = {name for text in asked for name in re.findall(r"ray_\w+", text)}
    assert used <= names
    assert {re.sub("_(total|bucket|sum|count)$", "", name) for name in used} == {f"ray_{m.name}" for m in METRICS} - {
        f"ray_{SUCCESS.name}"
    }
    assert all(re.search(r"\b(sum|avg|max)\b", text) for text in asked)  # each worker and run has series of its own
    day = {text for text in asked if "[1d]" in text}
    assert len(day) == 2
    for text in day:  # a cluster that stands shows what runs of other days have counted
        for series in re.findall(r"max_over_time\((ray_beit_images_total\S*)\[1d\]\)", text):
            assert f"max_over_time({series}[1d]) - {series} offset 1d or" in text
    done = next(text for text in asked if "ray_beit_images_planned" in text)  # a gauge, which ends with its run
    assert "ray_beit_images_total and on (SessionName, WorkerId) ray_beit_images_planned" in done
    assert {rule["alert"] for rule in rules} == {"BeitNoSuccess", "BeitFailedShare", "BeitAcceleratorStarved"}
