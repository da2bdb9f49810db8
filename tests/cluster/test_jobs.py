"""Every system on a real cluster, through a real Airflow, with the rights of docs/rbac.yaml only."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from airflow_stack import AirflowStack, wait_for
from kubernetes_cluster import Cluster


class Run:
    """One run of a DAG, whose tasks are looked at by name."""

    def __init__(self, stack: AirflowStack, cluster: Cluster, dag_id: str) -> None:
        self.stack, self.cluster, self.dag_id = stack, cluster, dag_id
        self.id = stack.trigger(dag_id)

    def value(self, task_id: str) -> Any:
        """What a task returned; checks that nothing of its job is left."""
        self.stack.wait_for_state(self.dag_id, self.id, task_id, "success", seconds=400)
        self.cluster.wait_for_nothing_left(self.id, task_id)
        return self.stack.xcom(self.dag_id, self.id, task_id)

    def ends_well(self, task_id: str) -> str:
        """The log of a task that returned nothing; checks that nothing of its job is left."""
        self.stack.wait_for_state(self.dag_id, self.id, task_id, "success", seconds=400)
        self.cluster.wait_for_nothing_left(self.id, task_id)
        return self.log(task_id)

    def error(self, task_id: str) -> str:
        """The log of a task that failed; checks that nothing of its job is left."""
        self.stack.wait_for_state(self.dag_id, self.id, task_id, "failed", seconds=400)
        self.cluster.wait_for_nothing_left(self.id, task_id)
        return self.log(task_id)

    def log(self, task_id: str) -> str:
        """The task log."""
        return self.stack.log(self.dag_id, self.id, task_id)


@pytest.fixture(scope="module")
def good(stack: AirflowStack, cluster: Cluster) -> Run:
    """Every system once."""
    return Run(stack, cluster, "cluster_good")


@pytest.fixture(scope="module")
def bad(stack: AirflowStack, cluster: Cluster, good: Run) -> Run:
    """Every failure once; started when the good ones are over, for two cores."""
    wait_for("the good run to end", lambda: good.stack.run_state(good.dag_id, good.id) in ("success", "failed"), 600)
    return Run(stack, cluster, "cluster_bad")


def test_a_pytorchjob_runs_the_function_on_master_and_workers(good: Run) -> None:
    """They find each other by the operator's variables; the master's value is the XCom."""
    assert good.value("fixed") == {"n": 5, "got": "hello from 1", "ranks": "2"}
    log = good.log("fixed")
    for rank in (0, 1):
        assert log.count(f"[rank {rank}] rank {rank} of 2 is done") == 1


def test_elastic_runs_on_several_nodes_with_shared_memory(good: Run) -> None:
    """Two pods of two ranks, a rendezvous by c10d, and /dev/shm as large as asked for."""
    value = good.value("nodes")
    assert (value["sum"], value["ranks"], value["shm"]) == (6.0, 4, 64 * 2**20)
    assert sorted(re.findall(r"\[rank (\d)\] sum 6.0", good.log("nodes"))) == ["0", "1", "2", "3"]


def test_elastic_on_one_node_is_a_pod(good: Run) -> None:
    """Without any operator; only the chosen rank is in the log."""
    assert good.value("one_node") == 2
    log = good.log("one_node")
    assert "Created Pod " in log
    assert "[rank 1] I am 1" in log
    assert "I am 0" not in log


def test_an_mpijob_runs_the_function_on_every_rank(good: Run) -> None:
    """Slots are written, environment variables arrive unharmed, a result of 30 KB as well."""
    value = good.value("mpi")
    assert (value["sum"], value["ranks"], len(value["text"])) == (6, 4, 30_000)
    log = good.log("mpi")
    for rank in (0, 3):
        assert f"[rank {rank}] hello, $(you) 'there' from {rank}" in log
    assert "from 1" not in log
    assert "::airflow-distrib" not in log


def test_commands_run_instead_of_functions(good: Run) -> None:
    """The task's value is None, and each line says which pod wrote it."""
    lines = re.findall(r"\[launcher\] (rank \d) is here", good.ends_well("mpi_command"))
    assert sorted(lines) == ["rank 0", "rank 1"]
    assert f"[master-0] {good.id} is 0 of 1" in good.ends_well("command")


def test_a_manifest_says_itself_what_runs(good: Run) -> None:
    """Merged over what the config renders."""
    assert "[master-0] from the manifest" in good.ends_well("manifest")


def test_torchrun_in_a_command_gets_the_operators_variables(good: Run) -> None:
    """PET_NNODES, PET_RDZV_ENDPOINT and the rest."""
    log = good.ends_well("torchrun_command")
    assert {"rank 0 of 2", "rank 1 of 2"} <= set(re.findall(r"rank \d of 2", log))


def test_links_lead_to_the_job(good: Run) -> None:
    """Shown already while the task is deferred."""
    path = f"/dags/{good.dag_id}/dagRuns/{good.id}/taskInstances/fixed/links"
    links = good.stack.call("GET", path)["extra_links"]
    assert re.fullmatch(
        rf"https://jobs.example/{good.cluster.namespace}/pytorchjob/cluster-good-fixed-\w+", links["Job dashboard"]
    )
    assert re.fullmatch(r"https://logs.example/[\w-]{36}", links["Job logs"])


def test_mapped_tasks_are_jobs_of_their_own(stack: AirflowStack, cluster: Cluster) -> None:
    """All waiting behind one watch."""
    run = Run(stack, cluster, "cluster_many")
    wait_for("all four", lambda: stack.run_state("cluster_many", run.id) == "success", 300)
    assert [stack.xcom("cluster_many", run.id, "square", n) for n in range(4)] == [1, 4, 9, 16]
    cluster.wait_for_nothing_left(run.id, "square")


def test_the_examples_run(stack: AirflowStack, cluster: Cluster) -> None:
    """As a user copies them."""
    training, estimate = Run(stack, cluster, "pytorch_job_kubernetes"), Run(stack, cluster, "mpi_job_kubernetes")
    assert abs(estimate.value("estimate")["pi"] - 3.14) < 0.05
    line = training.value("fit")
    assert (round(line["slope"]), round(line["intercept"]), line["ranks"]) == (3, 1, 3)


@pytest.mark.parametrize("task_id", ["failing_rank", "failing_mpi"])
def test_the_failing_rank_is_named(bad: Run, task_id: str) -> None:
    """With its traceback; its peers would have slept on."""
    log = bad.error(task_id)
    rank, size = (1, 2) if task_id == "failing_rank" else (2, 4)
    assert f"RankFailed: rank {rank} of {size} failed first" in log
    assert "ZeroDivisionError: batch of no examples" in log


CAUSES = {
    "out_of_memory": "OutOfMemory",
    "over_deadline": "JobTimedOut: TimedOut: Job .* was active longer than specified deadline",
    "no_image": r"JobNotStarted: ImagePullFailed: container pytorch of pod .* \(image localhost/no-such-image:1\)",
    "bad_image_name": "InvalidImageName: .*UPPER",
    "no_secret": 'CreateContainerConfigError: .*secret "no-such-secret" not found',
    "no_room": "JobNotStarted: Unschedulable: pod .*Insufficient cpu",
    "no_node": "JobNotStarted: Unschedulable: pod .*node affinity",
    "no_volume": 'persistentvolumeclaim "none" not found',
    "unknown_field": 'unknown field "spec.workers"',
    "no_such_command": "/no/such/program",
    "exit_status": "the container of master-0 ended with exit status 7",
}


@pytest.mark.parametrize("task_id", list(CAUSES))
def test_the_cause_is_named_with_what_to_do(bad: Run, task_id: str) -> None:
    """Whatever ended the job, or kept it from starting."""
    log = bad.error(task_id)
    assert re.search(CAUSES[task_id], log), log[-3000:]
    if task_id not in ("unknown_field", "exit_status", "no_such_command", "bad_image_name"):
        assert "What to do: " in log
    if task_id == "exit_status":
        assert "last words" in log


def test_quota_is_named(stack: AirflowStack, cluster: Cluster) -> None:
    """No pod is there to tell; events are."""
    path = f"/api/v1/namespaces/{cluster.namespace}/resourcequotas"
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    cluster.call("POST", path, body=quota)
    try:
        run = Run(stack, cluster, "cluster_quota")
        log = run.error("train")
    finally:
        cluster.call("DELETE", f"{path}/none")
    assert "QuotaExceeded: " in log
    assert "exceeded quota: none" in log


def test_a_suspended_job_waits(stack: AirflowStack, cluster: Cluster) -> None:
    """As Kueue leaves it until there is room; impatience does not count."""
    run = Run(stack, cluster, "cluster_suspended")
    stack.wait_for_log("cluster_suspended", run.id, "wait", "is suspended")
    name = cluster.job(run.id, "wait")["metadata"]["name"]
    time.sleep(8)
    assert stack.task("cluster_suspended", run.id, "wait")["state"] == "deferred"
    path = f"/apis/kubeflow.org/v1/namespaces/{cluster.namespace}/pytorchjobs/{name}"
    body = {"spec": {"runPolicy": {"suspend": False}}}
    cluster.call("PATCH", path, body=body, content_type="application/merge-patch+json")
    assert run.value("wait") == "resumed"


def test_a_log_has_every_line_once_though_connections_break(stack: AirflowStack, cluster: Cluster) -> None:
    """Of the trigger's stream, several times, and at the hand-over to the worker."""
    run = Run(stack, cluster, "cluster_long_log")
    for number in (100, 600, 1200):
        stack.wait_for_log("cluster_long_log", run.id, "count", f"line {number:05d}")
        cluster.proxy.cut()
    assert run.value("count") == 2500
    numbers = re.findall(r"\[rank 0\] line (\d{5})", run.log("count"))
    assert numbers == [f"{n:05d}" for n in range(2500)]


def test_a_result_survives_its_pod_and_a_lost_one_is_an_error(stack: AirflowStack, cluster: Cluster) -> None:
    """Never None: cleanPodPolicy All removes pod and log at once."""
    run = Run(stack, cluster, "cluster_lost_result")
    assert run.value("small") == "small enough for the pod's last words"
    assert "ResultMissing" in run.error("large")
