"""Who and what a run was, so that its report can be found from a scheduler's page, and the other way round."""

from __future__ import annotations

import json
import os
import socket

from pipeline.address import SUBMITTED, is_submitted
from pipeline.command import given, version

AIRFLOW = "AIRFLOW_CTX_"  # Airflow sets these for what its operators start
PERSONAL = ("dag_owner", "dag_email")  # of no use here


def identity() -> dict[str, object]:
    """Host, version, command, Ray's submission id and Airflow's context; null or empty where there is none."""
    context = {
        name.removeprefix(AIRFLOW).lower(): os.environ[name] for name in sorted(os.environ) if name.startswith(AIRFLOW)
    }
    return {
        "host": socket.gethostname(),
        "version": version().rpartition(" ")[2],
        "command": given(submitted=is_submitted()),
        "ray_submission_id": submission_id(),
        "airflow": {name: value for name, value in context.items() if name not in PERSONAL},
    }


def submission_id() -> str | None:
    """What `ray job status` takes, where this process is the driver of a submitted job."""
    try:
        found = json.loads(os.environ.get(SUBMITTED, "{}"))["metadata"]["job_submission_id"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(found)
