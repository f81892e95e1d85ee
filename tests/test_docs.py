"""Commands of the docs are taken by the jobs' own parsers; what else the docs promise of files and figures."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from pipeline.command import NAME
from pipeline.metrics import METRICS
from tests.commands import flags_of, words_of
from tests.helpers import ROOT
from tests.jobs.test_recipes import run_python

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OPERATIONS = (ROOT / "docs/operations.md").read_text()
NUMBERS = {"N": "1000", "RATE": "400", "[RATE]": "400"}
START = r"(?:python jobs/|beit )"


def commands(page: Path) -> list[str]:
    """Whole command lines of our jobs: lines of code blocks, and code within sentences."""
    text = page.read_text()
    blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    found = re.findall(rf"^(?:ray job submit .*-- )?({START}.*)$", blocks, re.MULTILINE)
    found += re.findall(rf"`({START}[^`]*)`", re.sub(r"```\w*\n.*?```", "", text, flags=re.DOTALL).replace("\n", " "))
    return [command for command in found if "..." not in command and "path/to" not in command]


def cases() -> list[tuple[str, str]]:
    return [(page.name, command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize("command", [command for _, command in cases()])
def test_every_command_is_one_that_its_job_takes(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [NUMBERS.get(word, word) for word in words_of(command)]
    if words[0].startswith("-"):
        return  # `beit --help`
    if len(words) > 1:  # else a job's name alone
        flags_of(words, monkeypatch)


def test_there_are_commands_to_look_at() -> None:
    assert len(cases()) > 20
    assert ("operations.md", "beit report s3://photos/labels --verify") in cases()


def test_links_between_pages_lead_to_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_the_table_of_figures_is_whole() -> None:
    table = set(re.findall(r"^\| `(beit_\w+)", OPERATIONS, re.MULTILINE))
    endings = {"counter": "_total", "gauge": "", "histogram": ""}
    assert table == {metric.name + endings[metric.kind] for metric in METRICS}


def test_the_costs_are_what_the_formula_says(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", OPERATIONS, re.DOTALL)
    run_python(block, Path())
    said = [float(line) for line in capsys.readouterr().out.split()]
    assert [f"{value:.2f}" for value in said] == re.findall(r"#\s(\d\.\d\d)", block)


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (project["name"], str(cited["version"]), cited["license"]) == (NAME, project["version"], project["license"])
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
