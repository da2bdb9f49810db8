"""Two ranks are started by @task.elastic and by a plain @task that calls torchrun itself."""

from __future__ import annotations

from airflow.sdk import dag, task

from airflow_distrib import Elastic

SCRIPT = """
import json, os, time
import torch
first = time.time()
if os.environ["RANK"] == "0":
    print(json.dumps({"first": first, "last": time.time()}))
"""


@dag(schedule=None, catchup=False)
def overhead() -> None:
    """One task after the other, so that they do not compete."""

    @task.elastic(Elastic(nproc_per_node=2))
    def ours() -> dict[str, float]:
        import time

        import torch  # noqa: F401 - as every training function does first

        first = time.time()
        return {"first": first, "last": time.time()}

    @task.elastic(Elastic(nproc_per_node=2, start_method="fork"))
    def ours_forked() -> dict[str, float]:
        import time

        import torch  # noqa: F401 - as every training function does first

        first = time.time()
        return {"first": first, "last": time.time()}

    @task
    def plain() -> dict[str, float]:
        import json
        import subprocess
        import sys
        import tempfile

        with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
            script.write(SCRIPT)
            script.flush()
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script.name]
            return json.loads(subprocess.check_output(command, text=True).strip().splitlines()[-1])

    ours() >> plain() >> ours_forked()


overhead()
