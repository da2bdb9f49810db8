"""Every kind of job runs on a real Slurm, through a real Airflow."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_stack import AirflowStack, wait_for
from slurm_cluster import USER, SlurmCluster

NASTY = "a $(touch /tmp/airflow-slurm-was-here) `id` 'q' \"d\" \\ \n{x} ${HOME} *;&|<>!"


class Run:
    """One run of a DAG, with its tasks by name."""

    def __init__(self, stack: AirflowStack, dag_id: str) -> None:
        self.stack, self.dag_id = stack, dag_id
        self.id = stack.trigger(dag_id)

    def value(self, task_id: str, map_index: int = -1) -> Any:
        """Return what a task returned."""
        if map_index < 0:
            self.stack.wait_for_state(self.dag_id, self.id, task_id, "success", seconds=400)
        return self.stack.xcom(self.dag_id, self.id, task_id, map_index)

    def error(self, task_id: str) -> str:
        """Return the log of a task that failed."""
        self.stack.wait_for_state(self.dag_id, self.id, task_id, "failed", seconds=400)
        return self.log(task_id)

    def log(self, task_id: str, map_index: int = -1) -> str:
        """Return the log of a task."""
        return self.stack.log(self.dag_id, self.id, task_id, map_index=map_index)

    def wait(self) -> None:
        """Wait until the run is over."""
        wait_for("the run to end", lambda: self.stack.run_state(self.dag_id, self.id) in ("success", "failed"), 600)


@pytest.fixture(scope="module")
def good(stack: AirflowStack, slurm: SlurmCluster) -> Run:
    """A run with every kind of job once."""
    (slurm.folder / "input file").write_text("content of the input")
    (slurm.folder / "input file").chmod(0o644)
    script = slurm.home / "on cluster.sh"
    script.write_text(
        '#!/bin/bash\n#SBATCH --output=written-%x-%j.txt\nfor each in "$@"; do echo "<$each>"; done\necho "$GREETING"\n'
    )
    script.chmod(0o755)
    return Run(stack, "slurm_good")


@pytest.fixture(scope="module")
def bad(stack: AirflowStack, slurm: SlurmCluster, good: Run) -> Iterator[Run]:
    """A run with every failure once, which starts when the good jobs are over, for the sake of two cores."""
    good.wait()
    small, other = slurm.folder / "small", slurm.folder / "other_python"
    for folder in (small, other):
        folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k,mode=1777", "tmpfs", small], check=True)
    # A node with another Python reports this version.
    (other / "sitecustomize.py").write_text("import sys\nsys.version_info = (3, 9, 1, 'final', 0)\n")
    try:
        yield Run(stack, "slurm_bad")
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_function_runs_on_every_task_of_three_nodes(good: Run) -> None:
    """Ranks on several nodes find each other, and rank 0's value becomes the XCom."""
    value = good.value("three_nodes")
    assert (value["sum"], value["rank"], value["address"]) == (3, 0, "127.0.0.1")
    assert 20000 <= value["port"] < 30000
    nodes = re.findall(r"\[rank (\d)\] rank \1 of 3 on (n\d)", good.log("three_nodes"))
    assert sorted(nodes) == [("0", "n1"), ("1", "n2"), ("2", "n3")]
    assert re.search(r"Created Slurm job \d+ \(three-[0-9a-f]{10}\)", good.log("three_nodes"))


def test_elastic_runs_on_several_nodes_of_a_slurm(good: Run) -> None:
    """Torch's agents, which srun starts, meet on the first node of the job."""
    assert good.value("elastic") == {"sum": 6.0, "ranks": 4}
    nodes = re.findall(r"\[rank \d\] on node (n\d)", good.log("elastic"))
    assert len(nodes) == 4
    assert len(set(nodes)) == 2


def test_a_job_array_returns_a_list(good: Run) -> None:
    """The values are sorted by index, and every line of the log names its element."""
    assert good.value("array") == [1, 9, 16, 25]
    assert [f"[{n}] [rank 0] element {n}" in good.log("array") for n in (1, 3, 4, 5)] == [True] * 4


def test_the_components_of_a_heterogeneous_job_are_one_world(good: Run) -> None:
    """A job can have different nodes for different ranks, which are numbered across its components."""
    assert good.value("components") == "3"
    nodes = dict(re.findall(r"\[rank (\d)\] on (n\d)", good.log("components")))
    assert nodes["1"] == nodes["2"] != nodes["0"]


def test_a_script_around_the_ranks_stays_as_it_is(good: Run) -> None:
    """Users can wrap the ranks in any shell script, with their variables and setup lines before it."""
    text, length, gpu = good.value("wrapped")
    assert text == NASTY
    assert length == str(len(NASTY))
    assert gpu == "1"
    log = good.log("wrapped")
    assert "before 2 {{ ds }}" in log
    assert "after a b c" in log


def test_a_result_of_more_than_a_few_kilobytes_comes_back(good: Run) -> None:
    """A large result comes back without further settings, through a file in the private folder."""
    assert len(good.value("large")) == 100_000


def test_a_shell_script_takes_inputs_and_delivers_outputs(good: Run, slurm: SlurmCluster) -> None:
    """Inputs reach the script unchanged, whatever they hold, and files are copied both ways."""
    value = good.value("shell")
    fetched = slurm.folder / "fetched"
    assert (fetched / "text").read_text() == NASTY
    assert (fetched / "folder/sub/copy").read_text() == "content of the input"
    assert (slurm.home / "kept output").read_text() == "kept\n"
    assert value["outputs"] == {
        "text": f"file://{fetched}/text",
        "folder": f"{fetched}/folder",
        "kept": "~/kept output",
    }
    assert (value["state"], value["exit_code"]) == ("COMPLETED", 0)
    log = good.log("shell")
    assert "3 41 1 2 3 42" in log
    assert "[stderr] to stderr: '[1, \"b\"]'" in log
    assert not Path("/tmp/airflow-slurm-was-here").exists()


def test_a_script_on_the_cluster_gets_its_arguments_as_words(good: Run) -> None:
    """Arguments reach a user's own script unchanged, and its own output file is shown in the task log."""
    assert good.value("script")["state"] == "COMPLETED"
    log = good.log("script")
    assert "<one two>" in log
    assert "<a $(touch /tmp/airflow-slurm-was-here) `id` 'q' \"d\" \\ " in log
    assert "<>" in log
    assert 'hello, "world"' in log


def test_a_script_need_not_be_one_of_a_shell(good: Run) -> None:
    """A script in another language runs as it is, with its environment variables."""
    good.value("in_python")
    assert "{'a': 1} y, z" in good.log("in_python")


def test_only_the_chosen_elements_are_shown(good: Run) -> None:
    """The log of a large array stays readable, because it shows only the chosen elements."""
    good.value("script_array")
    log = good.log("script_array")
    assert "[8] i am 8" in log
    assert "[9] i am 9" in log
    assert "i am 7" not in log


def test_tasks_are_mapped_and_take_results_of_others(good: Run) -> None:
    """Slurm tasks work with dynamic task mapping and upstream outputs, as every operator does."""
    good.value("after")
    good.wait()
    assert good.value("mapped", 0)["state"] == "COMPLETED"
    assert "p q" in good.log("mapped", 0)
    assert "sum 3" in good.log("after")


def test_nothing_of_all_these_jobs_remains(good: Run, slurm: SlurmCluster) -> None:
    """Finished jobs cost the cluster nothing: no job, folder, process or key remains."""
    good.wait()
    slurm.wait_for_nothing_left(good.id)
    wait_for("processes to end", lambda: slurm.processes() == [], 60)
    found = subprocess.run(["grep", "-rlE", "BEGIN OPENSSH", slurm.home], capture_output=True, text=True, check=False)
    assert found.stdout == ""


# The log of each failure contains these texts, in Slurm's words or ours.
FAILURES = {
    "rank_fails": ["RankFailed: rank 1 of 2 failed first", "ValueError: rank one is unhappy"],
    "memory": ["OutOfMemory: ", "exceeded memory limit", "raise mem"],
    # Where the nodes are busy it has not even begun.
    "timeout": ["JobTimedOut: TimedOut: the job was still ", " when the task's execution_timeout was over"],
    "overtime": ["JobTimedOut: TimedOut: Slurm says that job", "is TIMEOUT", "raise time"],
    "partition": ["SubmitRefused: ", "Invalid partition name specified"],
    "option": ["SubmitRefused: ", "unrecognized option '--frobnicate=1'"],
    "too_large": ["PartitionNodeLimit: ", "lower nodes"],
    "no_python": ["there is no Python 'python9' on node", "exit status 127"],
    "other_python": ["was pickled by Python 3.1", "but this rank runs Python 3.9"],
    "no_venv": ["/nowhere/bin/activate: No such file or directory"],
    "full": ["runner.pyz cannot be written on 127.0.0.1", "is there room"],
    "no_workdir": ["workdir: /proc/nowhere cannot be made or entered"],
    "no_script": ["ScriptMissing: script_path: there is no script /nowhere/train.sh"],
    "exit_status": ["is FAILED, exit status 3", "last words"],
    "some_elements": ["2 elements failed, the first of them: Slurm says that job", "_1 is FAILED, exit status 1"],
    "no_output": ["ResultMissing: outputs.model: the script ended well but wrote no file to"],
    "no_connection": ["ssh_conn_id: there is no connection 'nowhere'"],
}


@pytest.mark.parametrize("task_id", FAILURES)
def test_a_failure_is_named_with_what_to_do(bad: Run, task_id: str) -> None:
    """The task log explains every failure and how to avoid it."""
    log = bad.error(task_id)
    for text in FAILURES[task_id]:
        assert text in log


def test_a_preempted_job_and_a_cancelled_one_are_named_as_such(bad: Run, slurm: SlurmCluster) -> None:
    """Users learn that somebody else ended their job, and whether a retry may help."""
    bad.stack.wait_for_log(bad.dag_id, bad.id, "preempted", "hanging")
    command = ["sbatch", "--parsable", "--partition=urgent", "--nodelist=n3", "--exclusive", "--wrap=sleep 1"]
    # Needs all of the node, and comes from a better partition; as the user, from a folder that it may read.
    done = subprocess.run(
        command, env=slurm.environment, user=USER, cwd=slurm.home, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().isdecimal()
    assert "JobPreempted: Preempted: Slurm says that job" in bad.error("preempted")
    bad.stack.wait_for_log(bad.dag_id, bad.id, "cancelled", "hanging")
    job = next(job for job, comment in slurm.jobs_of(bad.id).items() if ".cancelled " in comment)
    slurm.run("scancel", job)
    assert "CANCELLED by user id 0" in bad.error("cancelled")


def test_nothing_of_all_these_failures_remains(bad: Run, slurm: SlurmCluster) -> None:
    """Failed jobs cost the cluster nothing, and neither do those that were never submitted."""
    bad.wait()
    slurm.wait_for_nothing_left(bad.id)
    wait_for("processes to end", lambda: slurm.processes() == [], 60)
    time.sleep(0.1)
    assert slurm.files_left() == []


@pytest.mark.parametrize(("dag_id", "task_id"), [("slurm_function", "fit"), ("slurm_scripts", "echo")])
def test_the_examples_run_as_they_are(stack: AirflowStack, slurm: SlurmCluster, dag_id: str, task_id: str) -> None:
    """Users can copy the examples, because they run unchanged."""
    script = slurm.home / "echo.sh"
    script.write_text('#!/bin/bash\n#SBATCH --mem=50M\necho "$@"\n')
    script.chmod(0o755)
    run = Run(stack, dag_id)
    value = run.value(task_id)
    if task_id == "fit":
        assert len(value) == 3
    else:
        assert "/tmp/airflow-distrib-example/counts.txt" in run.log("echo")
        assert "to" in Path("/tmp/airflow-distrib-example/counts.txt").read_text()
    slurm.wait_for_nothing_left(run.id)
