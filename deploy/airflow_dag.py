"""The same run every night, submitted by Airflow 3 to a Ray cluster that stands already (RAY_API_SERVER_ADDRESS).

The operator waits for the run. Airflow's context travels with it, into `OUTPUT/runs/<run>.json`.
"""

import json
from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

COMMAND = (
    "beit label --input s3://photos/incoming/ --output s3://photos/labels --model s3://photos/models/beit-base"
    " --if-running exit --log-json"
)
CONTEXT = {
    "AIRFLOW_CTX_DAG_ID": "{{ dag.dag_id }}",
    "AIRFLOW_CTX_TASK_ID": "{{ task.task_id }}",
    "AIRFLOW_CTX_DAG_RUN_ID": "{{ run_id }}",
    "AIRFLOW_CTX_TRY_NUMBER": "{{ ti.try_number }}",
}

with DAG(
    dag_id="beit_label",
    schedule="30 1 * * *",
    start_date=datetime(2025, 1, 1),
    catchup=False,  # one run does whatever is new, however many nights were missed
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=10)},  # the same command continues
):
    BashOperator(
        task_id="label",
        bash_command=f"ray job submit --runtime-env-json '{json.dumps({'env_vars': CONTEXT})}' -- {COMMAND}",
        execution_timeout=timedelta(hours=20),
        append_env=True,
    )
