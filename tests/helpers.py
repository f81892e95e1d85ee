"""What tests of jobs do over and over: run one as a user would, and look at what it wrote."""

import os
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests/data"
# A test's job must see only what the test gives it.
HIDDEN = ("AWS_", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "PYTEST_", "PYTHONPATH", "COLUMNS")


def clean_env(env: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without credentials and addresses of clusters, plus `env`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN)}
    return kept | {"RAY_USAGE_STATS_ENABLED": "0"} | (env or {})


def run_job(
    script: str, *args: object, env: dict[str, str] | None = None, timeout: float = 240, code: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python jobs/SCRIPT ARGS` from the repository root, as a user of a fresh checkout would.

    With `code` given, any other exit status fails the test, showing all that was printed.
    """
    command = [sys.executable, f"jobs/{script}", *map(str, args)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=clean_env(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if code is not None and done.returncode != code:
        said = f"exit {done.returncode}, not {code}: {' '.join(command)}\n{done.stdout}\n{done.stderr}"
        raise AssertionError(said)
    return done


def tree_bytes(folder: Path | str, fs: Any = None) -> dict[str, bytes]:
    """Every file below a folder by its relative name; `fs` is weed.fs() for "bucket/prefix"."""
    fs = fs or LocalFileSystem()
    root = PurePosixPath(fs._strip_protocol(str(folder)))
    return {str(PurePosixPath(name).relative_to(root)): fs.cat_file(name) for name in sorted(fs.find(str(root)))}


def rows(output: Path | str, fs: Any = None) -> pa.Table:
    """All rows of OUTPUT/data sorted by uri; fails where two files differ in their schema."""
    files = tree_bytes(f"{output}/data", fs)
    tables = [pq.read_table(pa.BufferReader(content)) for content in files.values()]
    return pa.concat_tables([table.replace_schema_metadata(None) for table in tables]).sort_by("uri")
