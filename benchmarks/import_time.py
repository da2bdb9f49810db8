"""Measures the import time of what DAG files import, as a multiple of ``import airflow.sdk``."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

STATEMENTS = {
    "airflow.sdk": "import airflow.sdk",
    "airflow_distrib": "import airflow_distrib",
    "airflow_distrib.get_provider_info": "import airflow_distrib.get_provider_info",
    "airflow_distrib.links": "import airflow_distrib.links",
    "airflow_distrib.operators.elastic": "import airflow_distrib.operators.elastic",
    # What @task.elastic does; the module alone loads no system.
    "airflow_distrib.decorators.tasks": "from airflow_distrib.decorators.tasks import elastic_task",
    "airflow.providers.standard.operators.python": "import airflow.providers.standard.operators.python",
}


def seconds(code: str) -> float:
    """How long a fresh interpreter takes for ``code``."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure in turns, and print a table in Markdown."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    empty: list[float] = []
    found: dict[str, list[float]] = {module: [] for module in STATEMENTS}
    for _ in range(rounds):
        empty.append(seconds("pass"))
        for module, statement in STATEMENTS.items():
            found[module].append(seconds(statement))
    start = statistics.median(empty)
    base = statistics.median(found["airflow.sdk"]) - start
    print(f"| module, median of {rounds} | seconds | of airflow.sdk |")
    print("|---|---|---|")
    for module, times in found.items():
        cost = statistics.median(times) - start
        print(f"| `{module}` | {cost:.3f} | {cost / base:.2f} |")


if __name__ == "__main__":
    main()
