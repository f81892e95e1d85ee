"""What `ray job submit --working-dir .` sends to a cluster: the code, and little else."""

import zipfile
from pathlib import Path

from ray._private.runtime_env.packaging import create_package

from tests.helpers import ROOT


def test_a_submitted_job_uploads_the_code_alone(tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    # An environment is a folder that .gitignore names, or a link to one, which it does not.
    create_package(str(ROOT), package, include_gitignore=True, excludes=[".venv"])
    names = set(zipfile.ZipFile(package).namelist())
    needed = {"jobs/label.py", "jobs/_cli.py", "pipeline/run.py", "beit_core/presets.json", "pyproject.toml"}
    assert needed <= names
    assert not {name.partition("/")[0] for name in names} & {"tests", "docs", "deploy", ".git", ".venv", "build"}
    assert package.stat().st_size < 1_200_000  # Ray packs without compressing
