"""What `ray job submit --working-dir .` sends to a cluster: the code, and little else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

from tests.beit_core.test_checkpoint import edit, published_folder
from tests.helpers import ROOT, clean_env


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("upload") / "package.zip"
    # An environment is a folder that .gitignore names, or a link to one, which it does not.
    create_package(str(ROOT), file, include_gitignore=True, excludes=[".venv"])
    return file


def test_a_submitted_job_uploads_the_code_alone(package: Path) -> None:
    files = {info.filename: info.file_size for info in zipfile.ZipFile(package).infolist()}
    names, code = set(files), sum(size for name, size in files.items() if name.endswith(".py"))
    needed = {"jobs/label.py", "jobs/_cli.py", "pipeline/run.py", "beit_core/presets.json", "pyproject.toml"}
    assert needed <= names
    assert not {name.partition("/")[0] for name in names} & {"tests", "docs", "deploy", ".git", ".venv", "build"}
    assert package.stat().st_size < 1.1 * code < 2 << 20  # Ray packs without compressing


def test_models_of_22k_classes_bring_their_names_along(package: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(package).extractall(tmp_path / "there")
    folder = published_folder(tmp_path / "beit-base-patch16-224-pt22k-ft22k", "beit-base-patch16-224-pt22k-ft22k")
    unnamed = last_label(folder, tmp_path / "there")
    assert "the names of imagenet_22k are not in this upload: convert the file first" in unnamed.stderr
    edit(folder, id2label={str(number): f"class {number}" for number in range(21841)})
    assert last_label(folder, tmp_path / "there").stdout == "class 21840\n"


def last_label(folder: Path, uploaded: Path) -> subprocess.CompletedProcess[str]:
    code = f"import beit_core; print(beit_core.load_card({str(folder)!r}).labels[-1])"
    env = clean_env({"PYTHONPATH": str(uploaded)})
    return subprocess.run(
        [sys.executable, "-c", code], cwd=uploaded, env=env, capture_output=True, text=True, check=False
    )
