"""Where an Elastic task runs, and what a manifest may change of a job whose agents know its size."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from airflow_distrib import ConfigError, ElasticOperator
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.elastic.kubernetes import kubernetes
from airflow_distrib.systems.kubernetes.kind import Manifest
from airflow_distrib.systems.kubernetes.options import ClusterConfig
from airflow_distrib.systems.kubernetes.resources import RunPolicy

REQUEST = JobRequest(identity=JobIdentity("dag", "run", "train", -1, 1, "scope"))

# A value of every option that only a cluster can honour, besides the image.
OPTIONS: dict[str, Any] = {
    "env_secrets": {"A": "s/k"},
    "run_policy": {"active_deadline_seconds": 60},
    "requests": {"cpu": 1},
    "limits": {"memory": "1Gi"},
    "shared_memory": "1Gi",
    "pod_template": {"metadata": {"labels": {"a": "b"}}},
    "node_selector": {"gpu": "h100"},
    "tolerations": [{"key": "gpu"}],
    "affinity": {"nodeAffinity": {}},
    "priority_class": "high",
    "scheduler_name": "volcano",
    "service_account": "trainer",
    "image_pull_secrets": ["login"],
    "image_pull_policy": "Never",
    "volumes": [{"name": "v"}],
    "volume_mounts": [{"name": "v", "mountPath": "/v"}],
    "labels": {"a": "b"},
    "annotations": {"a": "b"},
    "namespace": "other",
    "kueue_queue": "team",
    "suspend": True,
    "scheduling_policy": {"queue": "q"},
    "restart_policy": "OnFailure",
}


def test_every_option_of_a_cluster_is_tried_here() -> None:
    """An option that is added later must not be ignored on a single node."""
    assert set(ClusterConfig.checks) - {"image", "env", "increase_shared_mem"} <= set(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_a_cluster_on_one_node_needs_an_image(option: str) -> None:
    """It would otherwise be without effect, because the node would be the Airflow worker."""
    fields = {option: OPTIONS[option]}
    if option == "volume_mounts":
        fields["volumes"] = OPTIONS["volumes"]
    expected = f"task_config.(image: is required on Kubernetes, and the Pod .*{option}.* has none|suspend: )"
    with pytest.raises(ConfigError, match=expected):
        ElasticOperator(task_id="t", python_callable=print, task_config=fields)
    if option != "suspend":
        task = ElasticOperator(task_id="t", python_callable=print, task_config={"image": "x", **fields})
        assert task.launcher == "kubernetes"


@pytest.mark.parametrize("fields", [{}, {"env": {"A": "1"}}, {"shared_memory": False}, {"suspend": False}])
def test_one_node_without_options_of_a_cluster_is_the_airflow_worker(fields: dict[str, Any]) -> None:
    """Small jobs need no cluster, and an option that is switched off asks for none."""
    task = ElasticOperator(task_id="t", python_callable=print, task_config={"nproc_per_node": 2, **fields})
    assert task.launcher == "local"


POLICY = RunPolicy(clean_pod_policy="All", ttl_seconds_after_finished=300, backoff_limit=2)


@pytest.mark.parametrize("nnodes", [1, "1", "1:1"])
def test_a_job_of_several_nodes_with_a_run_policy_can_be_switched_to_one(nnodes: object) -> None:
    """One task definition serves a trial and the real run, and the log tells what has no meaning for a Pod."""
    several = Elastic(
        nnodes=2,
        image="x",
        restart_policy="OnFailure",
        run_policy=POLICY,
        scheduling_policy={"queue": "q", "min_available": 2},
    )
    assert kubernetes(several, REQUEST).manifest["kind"] == "PyTorchJob"
    one = kubernetes(several.merged({"nnodes": nnodes}), REQUEST)
    assert one.manifest["kind"] == "Pod"
    assert one.ignored == (
        "task_config: run_policy.clean_pod_policy on a Pod",
        "task_config: run_policy.ttl_seconds_after_finished on a Pod",
        "task_config: scheduling_policy on a Pod",
    )
    assert one.kind.backoff_limit(one.manifest) == 2
    task = ElasticOperator(
        task_id="t", python_callable=print, task_config=several, task_config_overrides={"nnodes": nnodes}
    )
    assert task.render()["manifest"]["kind"] == "Pod"


def with_manifest(**spec: Any) -> JobRequest:
    """A request with a manifest of the user's own."""
    return dataclasses.replace(REQUEST, arguments={"manifest": {"spec": spec}})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"pytorchReplicaSpecs": {"Worker": {"replicas": 3}}},
            "manifest.spec.pytorchReplicaSpecs.Worker.replicas: is 3, but nnodes is 2; set nnodes instead",
        ),
        (
            {"pytorchReplicaSpecs": {"Worker": {"replicas": 1}}},
            "manifest.spec.pytorchReplicaSpecs.Worker.replicas: is 1, but nnodes is 2",
        ),
        (
            {"pytorchReplicaSpecs": {"Master": {"template": {"spec": {"containers": [{"image": "x"}]}}}}},
            "manifest.spec.pytorchReplicaSpecs.Master: would not be what the ranks are told",
        ),
        ({"nprocPerNode": "8"}, "manifest.spec.nprocPerNode: is 8, but nproc_per_node is 1"),
        ({"elasticPolicy": {"minReplicas": 1}}, "manifest.spec.elasticPolicy.minReplicas: is 1, but nnodes is 2"),
        ({"elasticPolicy": {"maxReplicas": 4}}, "manifest.spec.elasticPolicy.maxReplicas: is 4, but nnodes is 2"),
        ({"elasticPolicy": {"maxRestarts": 9}}, "manifest.spec.elasticPolicy.maxRestarts: is 9, but max_restarts is 0"),
        ({"elasticPolicy": {"rdzvId": "x"}}, "manifest.spec.elasticPolicy.rdzvId: would not be what the ranks are"),
    ],
)
def test_a_manifest_does_not_change_what_the_agents_are_told(spec: Manifest, message: str) -> None:
    """The agents would wait for nodes that do not exist, or nodes would wait for agents."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        kubernetes(Elastic(nnodes=2, image="x"), with_manifest(**spec))


def test_a_manifest_may_repeat_what_the_config_says() -> None:
    """A manifest that was exported from a cluster holds every field, and numbers may be text."""
    spec = {"pytorchReplicaSpecs": {"Worker": {"replicas": "2"}}, "nprocPerNode": "1"}
    whole = kubernetes(Elastic(nnodes=2, image="x"), with_manifest(**spec)).manifest
    assert whole["spec"]["elasticPolicy"]["maxReplicas"] == 2


def test_torchrun_in_a_command_follows_the_manifest_up_to_its_elastic_policy() -> None:
    """It takes the number of nodes from the operator, which must agree with itself."""
    size: Manifest = {"pytorchReplicaSpecs": {"Worker": {"replicas": 3}}}
    policy: Manifest = {"elasticPolicy": {"maxReplicas": 3, "minReplicas": 3}}

    def rendered(spec: Manifest) -> Manifest:
        arguments = {"command": ["torchrun", "t.py"], **with_manifest(**spec).arguments}
        request = dataclasses.replace(REQUEST, runs_function=False, arguments=arguments)
        return kubernetes(Elastic(nnodes=2, image="x"), request).manifest

    assert rendered({**size, **policy})["spec"]["elasticPolicy"]["maxReplicas"] == 3
    with pytest.raises(ConfigError, match=r"Worker.replicas: is 3, but nnodes is 2; set nnodes instead"):
        rendered(size)
