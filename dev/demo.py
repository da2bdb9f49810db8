"""Run the digits DAG on an Airflow of its own and show what came out."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from airflow_stack import OVER, AirflowStack, running

REPOSITORY = Path(__file__).parents[1]
HOME = REPOSITORY / ".airflow-demo"
DAG, TASKS = "digits_ddp", ("train", "report")


def follow(stack: AirflowStack, run: str, task: str) -> str:
    """Print a task's log as it grows; returns the task's last state."""
    shown: set[tuple[str, str]] = set()
    while True:
        state = str(stack.task(DAG, run, task)["state"])
        for entry in stack.events(DAG, run, task):
            line = (entry.get("timestamp", ""), entry["event"])
            if line[0] and line not in shown and not line[1].startswith("::"):
                print(f"  {task} | {line[1]}")
            shown.add(line)
        if state in OVER:
            return state
        time.sleep(1)


def main() -> int:
    """Start Airflow, run, show, stop; returns the exit status."""
    HOME.mkdir(exist_ok=True)
    os.environ["DIGITS_OUTPUT"] = str(HOME)
    print("Starting Airflow ...")
    with running(HOME, REPOSITORY / "dags") as stack:
        run = stack.trigger(DAG)
        print(f"Running {DAG} as {run}")
        states = [follow(stack, run, task) for task in TASKS]
        if set(states) != {"success"}:
            print(f"The tasks ended as {dict(zip(TASKS, states, strict=True))}", file=sys.stderr)
            return 1
        metrics = stack.xcom(DAG, run, "train")
        print("XCom of train, which rank 0 returned:")
        print(json.dumps(metrics, indent=2))
        print(f"XCom of report: {stack.xcom(DAG, run, 'report')}")
        print(f"Loss curve: {metrics['picture']}")
        if "--ui" in sys.argv[1:]:
            print(f"Airflow is at {stack.url}/dags/{DAG}/runs/{run}/tasks/train until you press Ctrl-C")
            try:
                while True:
                    time.sleep(1)
            except KeyboardInterrupt:
                print("Stopping Airflow ...")
    return 0


if __name__ == "__main__":
    sys.exit(main())
