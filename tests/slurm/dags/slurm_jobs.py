"""Jobs on a Slurm that end well, and that end badly in every way that can be had here."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import ObjectStoragePath, dag, task

from airflow_distrib import (
    Elastic,
    Sbatch,
    Slurm,
    SlurmOperator,
    SlurmOutput,
    SlurmScriptOperator,
    SlurmShellOperator,
)

PYTHON = os.environ.get("SLURM_PYTHON", "python3")
LIBRARIES = {"PYTHONPATH": os.environ.get("SLURM_LIBRARIES", "")}
FOLDER = os.environ.get("SLURM_FOLDER", "/tmp")
# Whatever a shell could trip over.
NASTY = "a $(touch /tmp/airflow-slurm-was-here) `id` 'q' \"d\" \\ \n{x} ${HOME} *;&|<>!"


@dag(schedule=None, catchup=False, params={"nasty": NASTY})
def slurm_good() -> None:
    """Every kind of job once."""

    @task.slurm(Slurm(nodes=3, ntasks_per_node=1, job_name="three"), python=PYTHON, log_ranks="all")
    def three_nodes(a: int, b: int = 2) -> dict[str, Any]:
        import os
        import socket

        rank = int(os.environ["RANK"])
        print(f"rank {rank} of {os.environ['WORLD_SIZE']} on {os.environ['SLURMD_NODENAME']}")
        # The first node's address is one that the others can use.
        address = socket.gethostbyname(os.environ["MASTER_ADDR"])
        return {"sum": a + b, "rank": rank, "address": address, "port": int(os.environ["MASTER_PORT"])}

    @task.elastic(
        Elastic(nnodes=2, nproc_per_node=2),
        slurm=Slurm(mem="1200M", cpus_per_task=2, env=LIBRARIES),
        python=PYTHON,
        log_ranks="all",
    )
    def elastic() -> dict[str, Any]:
        import os

        import torch
        import torch.distributed as dist

        dist.init_process_group("gloo")
        total = torch.tensor([float(dist.get_rank())])
        dist.all_reduce(total)
        print("on node", os.environ["SLURMD_NODENAME"])
        world = dist.get_world_size()
        dist.destroy_process_group()
        return {"sum": total.item(), "ranks": world}

    @task.slurm(Slurm(array="1,3-5%2", ntasks=2), python=PYTHON, log_elements="all")
    def array() -> int:
        import os

        element = int(os.environ["SLURM_ARRAY_TASK_ID"])
        print("element", element)
        return element * element

    @task.slurm(Slurm(ntasks=1, mem="200M", components=[{"ntasks": 2, "mem": "200M"}]), python=PYTHON, log_ranks="all")
    def components() -> str:
        import os

        print("on", os.environ["SLURMD_NODENAME"])
        return os.environ["WORLD_SIZE"]

    @task.slurm(
        Slurm(
            script="""#!/bin/bash -e
#SBATCH --nice=1
xs=(1 2); echo "before ${#xs[@]} {{ ds }}"
{task.fn}
echo after {a..c}
""",
            env={"FROM_DAG": NASTY},
            setup=["export FROM_SETUP=${#FROM_DAG}"],
            gres="gpu:1",
            sbatch_options={"oversubscribe": True, "wckey": None},
        ),
        python=PYTHON,
    )
    def wrapped() -> list[str]:
        import os

        return [os.environ["FROM_DAG"], os.environ["FROM_SETUP"], os.environ["SLURM_GPUS_ON_NODE"]]

    @task.slurm(python=PYTHON)
    def large() -> list[int]:
        return list(range(100_000))

    SlurmShellOperator(
        task_id="shell",
        script=r"""#!/bin/bash
#SBATCH --comment=not-this-one
set -euo pipefail
xs=(a b c); echo "${#xs[@]} {inputs.n}" {1..3} $(( {inputs.n} + 1 ))
echo "to stderr: '{inputs.list}'" >&2
printf '%s' {inputs.text} >{outputs.text}
mkdir -p {outputs.folder}/sub
cp {inputs.file} {outputs.folder}/sub/copy
echo kept >"{outputs.kept}"
""",
        inputs={
            "text": "{{ params.nasty }}",
            "n": 41,
            "list": [1, "b"],
            "file": ObjectStoragePath(f"file://{FOLDER}/input file"),
        },
        outputs={
            "text": SlurmOutput(to=f"file://{FOLDER}/fetched/text"),
            "folder": SlurmOutput(kind="directory", to=f"{FOLDER}/fetched/folder"),
            "kept": SlurmOutput(location="~/kept output"),
        },
    )
    SlurmScriptOperator(
        task_id="script",
        script_path="~/on cluster.sh",
        arguments=["one two", "{{ params.nasty }}", ""],
        task_config=Sbatch(env={"GREETING": 'hello, "world"'}),
    )
    SlurmShellOperator(
        task_id="in_python",
        script="#!/usr/bin/env python3\nimport os\nprint({'a': 1}, os.environ['X'])\n",
        task_config=Sbatch(env={"X": "y, z"}),
    )
    SlurmShellOperator(
        task_id="script_array",
        script="#!/bin/bash\necho i am $SLURM_ARRAY_TASK_ID\n",
        task_config=Sbatch(array="7-9"),
        log_elements=[8, 9],
    )
    fitted = three_nodes(1)
    # Mapped, with what another task returned.
    wrapped() >> large()
    SlurmShellOperator.partial(task_id="mapped", script="echo {inputs.x}").expand(inputs=[{"x": "p q"}, {"x": "r"}])
    [elastic(), array(), components()] >> SlurmShellOperator(
        task_id="after", script="echo sum {inputs.s}", inputs={"s": fitted["sum"]}
    )


def _hang() -> None:
    import time

    print("hanging", flush=True)
    time.sleep(600)


def _rank_one_fails() -> None:
    import os
    import time

    if os.environ["RANK"] == "1":
        raise ValueError("rank one is unhappy")
    time.sleep(600)


def _eat() -> None:
    import time

    kept = bytearray(500 * 2**20)
    time.sleep(60)
    print(len(kept))


@dag(schedule=None, catchup=False)
def slurm_bad() -> None:
    """Every failure once."""

    def function(task_id: str, what: Any = _hang, config: dict[str, Any] | None = None, **arguments: Any) -> None:
        arguments = {"python": PYTHON, **arguments}
        SlurmOperator(task_id=task_id, python_callable=what, task_config=Slurm(**(config or {})), **arguments)

    function("rank_fails", _rank_one_fails, {"ntasks": 2})
    function("memory", _eat, {"mem": "150M"})
    function("overtime", config={"time": "0:05", "sbatch_options": {"time-min": None}})
    function("timeout", execution_timeout=timedelta(seconds=12))
    function("partition", config={"partition": "nowhere"})
    function("option", config={"sbatch_options": {"frobnicate": "1"}})
    function("too_large", config={"nodes": 9})
    function("no_python", python="python9")
    function("other_python", config={"env": {"PYTHONPATH": f"{FOLDER}/other_python"}})
    function("no_venv", config={"venv": "/nowhere"})
    function("full", config={"workdir": f"{FOLDER}/small"}, op_args=[], what=_hang)
    function("no_workdir", config={"workdir": "/proc/nowhere"})
    function("preempted", config={"partition": "scrap", "nodelist": "n3", "exclusive": True})
    function("cancelled")
    SlurmScriptOperator(task_id="no_script", script_path="/nowhere/train.sh")
    SlurmShellOperator(task_id="exit_status", script="echo last words >&2; exit 3")
    SlurmShellOperator(
        task_id="some_elements", script="exit $((SLURM_ARRAY_TASK_ID % 2))", task_config=Sbatch(array="0-3")
    )
    SlurmShellOperator(
        task_id="no_output", script="true {outputs.model}", outputs={"model": SlurmOutput(to=f"{FOLDER}/model")}
    )
    SlurmShellOperator(task_id="no_dependency", script="true", task_config=Sbatch(dependency="afterok:{{ 0 }}1"))
    SlurmOperator(task_id="no_connection", python_callable=_hang, ssh_conn_id="nowhere")


slurm_good()
slurm_bad()
