"""Scripts on a Slurm: one that the DAG holds, with inputs and outputs, and one that is on the cluster.

Needs a connection ``ssh_default`` to a login node; nothing but a shell on the nodes.
"""

from __future__ import annotations

import os

from airflow.sdk import dag

from airflow_distrib import Sbatch, SlurmOutput, SlurmScriptOperator, SlurmShellOperator

RESULTS = os.environ.get("SLURM_RESULTS", "/tmp/airflow-distrib-example")  # noqa: S108 - an example's


@dag(schedule=None, catchup=False, params={"words": "to be or not to be"}, tags=["example", "slurm"])
def slurm_scripts() -> None:
    """Count words, then hand the file on."""
    count = SlurmShellOperator(
        task_id="count",
        script="""\
#!/bin/bash
set -euo pipefail
echo "counting the words of: {inputs.text}"
tr ' ' '\\n' <<<{inputs.text} | sort | uniq -c | sort -rn | head -n {inputs.most} >{outputs.counts}
""",
        # Whatever the text holds, it stays one argument.
        inputs={"text": "{{ params.words }}", "most": 3},
        outputs={"counts": SlurmOutput(to=f"{RESULTS}/counts.txt")},
        task_config=Sbatch(mem="50M", time=5),
    )
    echo = SlurmScriptOperator(
        task_id="echo",
        # Any batch script that is on the cluster; its #SBATCH lines count.
        script_path=os.environ.get("SLURM_SCRIPT", "~/echo.sh"),
        arguments=["{{ ti.xcom_pull('count')['outputs']['counts'] }}"],
        task_config=Sbatch(time=5),
    )
    count >> echo


slurm_scripts()
