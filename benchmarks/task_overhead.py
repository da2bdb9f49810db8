"""Measures what a task costs around the user's code, against a plain @task that calls torchrun itself.

Prints seconds from the task's start to the first line after ``import torch``, and from the
function's last line to the XCom, as medians of alternating runs on one Airflow, and their
ratios.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "dev"))

from airflow_stack import AirflowStack, running, wait_for

TASKS = ("plain", "ours", "ours_forked")


def moment(text: str) -> float:
    """Seconds since the epoch of an ISO time."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def one_run(stack: AirflowStack) -> dict[str, tuple[float, float]]:
    """Seconds before and after the user's code, by task."""
    run = stack.trigger("overhead")
    wait_for("the run to end", lambda: stack.run_state("overhead", run) in ("success", "failed"), 300, 1)
    found = {}
    for task in TASKS:
        path = f"/dags/overhead/dagRuns/{run}/taskInstances/{task}"
        code = stack.xcom("overhead", run, task)
        pushed = moment(stack.call("GET", f"{path}/xcomEntries/return_value")["timestamp"])
        found[task] = (code["first"] - moment(stack.task("overhead", run, task)["start_date"]), pushed - code["last"])
    return found


def main() -> None:
    """Run, and print a table in Markdown."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with (
        tempfile.TemporaryDirectory() as home,
        running(Path(home), Path(__file__).parent / "dags") as stack,
    ):
        one_run(stack)  # the first run pays for cold caches
        runs = [one_run(stack) for _ in range(rounds)]
    medians = {task: [statistics.median(run[task][part] for run in runs) for part in (0, 1)] for task in TASKS}
    print(f"| medians of {rounds} runs | start to first line | ratio | last line to XCom | ratio |")
    print("|---|---|---|---|---|")
    for task in TASKS:
        before, after = medians[task]
        first, last = medians["plain"]
        print(f"| `{task}` | {before:.2f} s | {before / first:.2f} | {after:.2f} s | {after / last:.2f} |")


if __name__ == "__main__":
    main()
