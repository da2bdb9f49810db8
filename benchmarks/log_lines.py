"""Measures what a line of a job costs on its way into the task log, against the print of a plain @task.

    python benchmarks/log_lines.py [LINES] [ROUNDS]

Prints, as medians of alternating runs on one Airflow, the seconds from the first line to the end of
the task, the bytes of the log file for each line, and their ratios. Both tasks run on a worker.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "dev"))

from airflow_stack import AirflowStack, running, wait_for

TASKS = ("plain", "ours")


def one_run(stack: AirflowStack, lines: int) -> dict[str, tuple[float, float]]:
    """Seconds and bytes for each task, in a fresh run; all lines must be there, in their order."""
    run = stack.trigger("lines")
    wait_for("the run to end", lambda: stack.run_state("lines", run) in ("success", "failed"), 1800, 1)
    found = {}
    for task in TASKS:
        end = datetime.fromisoformat(stack.task("lines", run, task)["end_date"].replace("Z", "+00:00"))
        (log,) = (stack.home / "logs").glob(f"dag_id=lines/run_id={run}/task_id={task}/attempt=1.log")
        mine = [line for line in log.read_text().splitlines() if "epoch " in line]
        assert [line.partition("epoch ")[2][:6] for line in mine] == [f"{number:06d}" for number in range(lines)]
        began = stack.xcom("lines", run, task)
        found[task] = (end.timestamp() - began, sum(len(line) + 1 for line in mine) / lines)
    return found


def main() -> None:
    """Run, and print a table in Markdown."""
    lines = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    os.environ["BENCHMARK_LINES"] = str(lines)
    with tempfile.TemporaryDirectory() as home, running(Path(home), Path(__file__).parent / "dags") as stack:
        runs = [one_run(stack, lines) for _ in range(rounds)]
    medians = {task: [statistics.median(run[task][part] for run in runs) for part in (0, 1)] for task in TASKS}
    print(f"| {lines} lines, medians of {rounds} runs | seconds | ratio | bytes per line | ratio |")
    print("|---|---|---|---|---|")
    seconds, size = medians["plain"]
    for task in TASKS:
        mine, bytes_ = medians[task]
        print(f"| `{task}` | {mine:.1f} | {mine / seconds:.2f} | {bytes_:.0f} | {bytes_ / size:.2f} |")


if __name__ == "__main__":
    main()
