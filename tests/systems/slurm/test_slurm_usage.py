"""What a job used is summed over what the accounting says of its allocations and steps."""

from __future__ import annotations

import pytest

from airflow_distrib.systems.slurm import usage
from airflow_distrib.systems.slurm.usage import Usage

# Of Slurm 22.05.
SINGLE = """\
2|COMPLETED|7|00:02.274|14|1||billing=2,cpu=2,mem=200M,node=1
2.batch|COMPLETED|7|00:00.858|14|1|79460K|cpu=2,mem=200M,node=1
2.0|COMPLETED|4|00:01.415|8|1|116K|cpu=2,mem=200M,node=1
"""
ARRAY = """\
3_1|COMPLETED|3600|1-01:00:00|7200|2||billing=1,cpu=2,gres/gpu:a100=4,gres/gpu=4,mem=100M,node=2
3_1.batch|COMPLETED|3600|01:00:00|3600|1|1.50G|cpu=1,mem=100M,node=1
3_2|CANCELLED by 1000|1800|30:00|3600|2||billing=1,cpu=2,gres/gpu=2,mem=100M,node=2
"""


def test_a_jobs_usage_is_that_of_its_allocation() -> None:
    """Steps are part of the allocation; only the memory of the largest task is known from them alone."""
    found = usage.from_sacct(SINGLE)
    assert found == Usage(7 / 3600, 14 / 3600, 0.0, 2.274 / 14, 79460 * 1024)
    assert found.report()["cpu_efficiency"] == 0.1624
    assert found.sentence() == (
        "Slurm's accounting: 0.001944 node hours, 0.003889 CPU hours (16% used), at most 78 MiB of memory in one task"
    )


def test_an_arrays_usage_is_that_of_all_elements() -> None:
    """Users see what the whole array cost, also of elements that were cancelled."""
    found = usage.from_sacct(ARRAY)
    assert found == Usage(3.0, 3.0, 5.0, (90000 + 1800) / 10800, 1536 * 2**20)
    assert "5 GPU hours" in found.sentence()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "slurm_load: nonsense\n",
        "2|RUNNING|7|00:02.274|14|1||cpu=2\n",
        "2|COMPLETED|||||\n",
        "3_1|COMPLETED|1|00:01|1|1||cpu=1\n3_2|PENDING|0|00:00|0|1||\n",
    ],
)
def test_nothing_is_said_before_the_accounting_knows_all(text: str) -> None:
    """A late accounting does not make a long job look as if it had used nothing."""
    assert usage.from_sacct(text) is None


def test_a_cluster_that_gathers_nothing_has_no_efficiency() -> None:
    """Zero seconds of CPU time are a plugin that is off, and not a job that did nothing."""
    found = usage.from_sacct("2|COMPLETED|7|00:00:00|14|1||cpu=2\n")
    assert found is not None
    assert (found.cpu_efficiency, found.max_rss) == (None, None)
    assert found.sentence() == "Slurm's accounting: 0.001944 node hours, 0.003889 CPU hours"
