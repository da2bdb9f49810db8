"""Entry of the archive: ``python runner.pyz SPEC`` supervises; the rest is for its own children."""

from __future__ import annotations

import os
import sys
from typing import List

from airflow_distrib.runner import spec, work
from airflow_distrib.runner.process import PARENT, die_with


def main(arguments: List[str]) -> int:
    """Do what the arguments say; returns the exit status."""
    if arguments[0] == "--rank":
        die_with(int(os.environ[PARENT]))
        return work.run(spec.read(arguments[1]))
    if arguments[0] == "--count":
        die_with(int(os.environ[PARENT]))
        from airflow_distrib.runner import counting

        return counting.main(spec.read(arguments[1]))
    if arguments[0] == "--fork":
        die_with(int(os.environ[PARENT]))
        from airflow_distrib.runner import forking

        return forking.main(spec.read(arguments[1]), int(arguments[2]))
    if arguments[0] == "--agent":
        die_with(int(os.environ[PARENT]))
        from airflow_distrib.runner import agent

        status = agent.main(spec.read(arguments[1]), int(arguments[2]), int(arguments[3]))
        sys.stdout.flush()
        sys.stderr.flush()
        # All is reported; taking torch down in good order would only take time.
        os._exit(status)
    from airflow_distrib.runner.supervisor import Supervisor

    return Supervisor(spec.settle(spec.read(arguments[0])), archive=sys.argv[0]).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
