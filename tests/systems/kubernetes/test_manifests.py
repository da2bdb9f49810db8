"""These tests render manifests: every option arrives, nothing is dropped, and contradictions are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.elastic.kubernetes import kubernetes as elastic
from airflow_distrib.systems.kubernetes.kind import Manifest
from airflow_distrib.systems.kubernetes.merge import KEYS, merged
from airflow_distrib.systems.kubernetes.resources import Replica, Resources, RunPolicy
from airflow_distrib.systems.mpijob.config import MPIJob
from airflow_distrib.systems.mpijob.render import kubernetes as mpi
from airflow_distrib.systems.pytorchjob.config import PyTorchJob
from airflow_distrib.systems.pytorchjob.render import kubernetes as pytorchjob

REQUEST = JobRequest(identity=JobIdentity("dag", "run", "train", -1, 1, "scope"))
ONE = Replica(replicas=1)
JOB = PyTorchJob(image="me/train:1", worker=ONE)


def with_manifest(own: Manifest) -> JobRequest:
    """Return a request with a user's own manifest."""
    return dataclasses.replace(REQUEST, arguments={"manifest": own})


def pod_of(config: PyTorchJob, role: str = "Worker", request: JobRequest = REQUEST) -> Manifest:
    """Return the pod template of a role."""
    return dict(pytorchjob(config, request).manifest["spec"]["pytorchReplicaSpecs"][role]["template"])


def main_of(config: PyTorchJob) -> Manifest:
    """Return the worker's main container."""
    return dict(pod_of(config)["spec"]["containers"][0])


@pytest.mark.parametrize(
    ("option", "value", "field", "rendered"),
    [
        ("node_selector", {"gpu": "h100"}, "nodeSelector", {"gpu": "h100"}),
        ("tolerations", [{"key": "gpu", "operator": "Exists"}], "tolerations", [{"key": "gpu", "operator": "Exists"}]),
        ("affinity", {"nodeAffinity": {"a": 1}}, "affinity", {"nodeAffinity": {"a": 1}}),
        ("priority_class", "high", "priorityClassName", "high"),
        ("scheduler_name", "volcano", "schedulerName", "volcano"),
        ("service_account", "trainer", "serviceAccountName", "trainer"),
        ("image_pull_secrets", ["login"], "imagePullSecrets", [{"name": "login"}]),
    ],
)
def test_an_option_of_pods_is_in_the_pods_of_every_role(
    option: str, value: object, field: str, rendered: object
) -> None:
    """Users set a node selector once for the whole job, and Kubernetes finds it under its own name."""
    for role in ("Master", "Worker"):
        assert pod_of(JOB.merged({option: value}), role)["spec"][field] == rendered


def test_options_of_containers_arrive_in_the_main_container() -> None:
    """Ranks see the environment, resources and mounts of the config, and Secrets never leave the cluster."""
    config = JOB.merged(
        {
            "env": {"A": "1"},
            "env_secrets": {"TOKEN": "login/token", "KEY": {"name": "login", "key": "k"}},
            "image_pull_policy": "Never",
            "volumes": [{"name": "data", "hostPath": {"path": "/data"}}],
            "volume_mounts": [{"name": "data", "mountPath": "/data"}],
            "worker": {
                "requests": Resources(cpu=2, memory="4Gi", gpu=1, extended={"rdma/hca": 1}, ephemeral_storage="1Gi"),
                "limits": Resources(memory="8Gi"),
            },
        }
    )
    main = main_of(config)
    assert main["imagePullPolicy"] == "Never"
    assert main["env"] == [
        {"name": "A", "value": "1"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "login", "key": "token"}}},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "login", "key": "k"}}},
    ]
    assert main["resources"] == {
        "requests": {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1", "ephemeral-storage": "1Gi", "rdma/hca": "1"},
        "limits": {"nvidia.com/gpu": "1", "rdma/hca": "1", "memory": "8Gi"},
    }
    assert {"name": "data", "mountPath": "/data"} in main["volumeMounts"]
    assert {"name": "data", "hostPath": {"path": "/data"}} in pod_of(config)["spec"]["volumes"]


@pytest.mark.parametrize(
    ("given", "volume"), [("2Gi", {"medium": "Memory", "sizeLimit": "2Gi"}), (True, {"medium": "Memory"})]
)
def test_shared_memory_has_the_size_that_is_asked_for(given: str | bool, volume: dict[str, str]) -> None:
    """Data loaders of torch get more than the 64 MiB of a container, up to a limit if the user sets one."""
    config = JOB.merged({"shared_memory": given})
    assert {"name": "airflow-distrib-shm", "emptyDir": volume} in pod_of(config)["spec"]["volumes"]
    assert {"name": "airflow-distrib-shm", "mountPath": "/dev/shm"} in main_of(config)["volumeMounts"]
    assert "airflow-distrib-shm" not in str(pod_of(JOB.merged({"shared_memory": False})))


def test_two_volumes_at_dev_shm_are_refused() -> None:
    """Neither an option nor a template silently replaces the shared memory that the user asks for."""
    volume, mount = [{"name": "v", "emptyDir": {}}], [{"name": "v", "mountPath": "/dev/shm"}]
    template = {"spec": {"volumes": volume, "containers": [{"name": "pytorch", "volumeMounts": mount}]}}
    for given in ({"volumes": volume, "volume_mounts": mount}, {"pod_template": template}):
        with pytest.raises(ConfigError, match="shared_memory: another volume is mounted at /dev/shm"):
            pod_of(JOB.merged({"shared_memory": "1Gi", **given}))


def test_the_pods_of_a_manifest_keep_our_labels_and_run_the_function_in_an_image() -> None:
    """The watch finds every pod of the job, and no manifest can submit pods that cannot run the function."""

    def own(container: Manifest, **metadata: Manifest) -> JobRequest:
        template = {"metadata": metadata, "spec": {"containers": [{"name": "pytorch", **container}]}}
        return with_manifest({"spec": {"pytorchReplicaSpecs": {"Worker": {"template": template}}}})

    labels = pod_of(JOB, request=own({}, labels={"airflow-distrib/job": "x"}))["metadata"]["labels"]
    assert labels == pod_of(JOB)["metadata"]["labels"]
    with pytest.raises(
        ConfigError, match=r"manifest.spec.*Worker.template.spec.containers\[0\].command: is set by this package"
    ):
        pod_of(JOB, request=own({"command": ["x"]}))
    with pytest.raises(ConfigError, match="the container 'pytorch' has no image"):
        pod_of(PyTorchJob(worker=ONE), request=own({}))


def test_a_role_that_only_the_manifest_has_is_labelled_as_well() -> None:
    """The watch also finds the pods of a role for which there is no option."""
    template = {"spec": {"containers": [{"name": "pytorch", "image": "x"}]}}
    request = with_manifest({"spec": {"pytorchReplicaSpecs": {"Evaluator": {"template": template}}}})
    labels = pod_of(JOB, "Evaluator", request)["metadata"]["labels"]
    assert labels == pod_of(JOB)["metadata"]["labels"]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"slotsPerWorker": 1}, "manifest.spec.slotsPerWorker: is 1, but slots is 2"),
        ({"mpiReplicaSpecs": {"Worker": {"replicas": 5}}}, "manifest.spec.*replicas: is 5, but worker.replicas is 1"),
    ],
)
def test_a_manifest_does_not_change_the_number_of_mpi_ranks(own: Manifest, message: str) -> None:
    """Otherwise mpirun would start more or fewer ranks than the resource has slots."""
    with pytest.raises(ConfigError, match=message):
        mpi(MPIJob(image="x", worker=ONE, slots=2), with_manifest({"spec": own}))


def test_a_zero_in_the_run_policy_is_kept() -> None:
    """A user who forbids retries does not get the operator's default instead."""
    policy = RunPolicy(clean_pod_policy="All", ttl_seconds_after_finished=5, backoff_limit=0)
    config = PyTorchJob(image="x", worker={"replicas": 1, "restart_policy": "OnFailure"}, run_policy=policy)
    assert pytorchjob(config, REQUEST).manifest["spec"]["runPolicy"] == {
        "cleanPodPolicy": "All",
        "ttlSecondsAfterFinished": 5,
        "backoffLimit": 0,
    }


def test_the_cluster_ends_and_removes_the_job_when_airflow_cannot() -> None:
    """A job of an Airflow that is gone does not hold its nodes for ever."""
    request = dataclasses.replace(REQUEST, deadline_seconds=900)
    policy = pytorchjob(JOB, request).manifest["spec"]["runPolicy"]
    assert policy == {"ttlSecondsAfterFinished": 86400, "activeDeadlineSeconds": 900}


def test_queue_suspension_and_gang_are_on_the_job() -> None:
    """Kueue and the gang schedulers find their settings where they look for them."""
    gang = {"min_available": 2, "queue": "q", "priority_class": "p", "schedule_timeout_seconds": 0}
    config = JOB.merged({"kueue_queue": "team-a", "suspend": True, "scheduling_policy": gang})
    manifest = pytorchjob(config, REQUEST).manifest
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert manifest["spec"]["runPolicy"]["suspend"] is True
    assert manifest["spec"]["runPolicy"]["schedulingPolicy"] == {
        "minAvailable": 2,
        "queue": "q",
        "priorityClass": "p",
        "scheduleTimeoutSeconds": 0,
    }


def test_labels_and_annotations_are_on_job_and_pods() -> None:
    """Users can select and bill by labels of their own, beside those that this package needs."""
    config = JOB.merged({"labels": {"team": "a"}, "annotations": {"note": "x y"}})
    manifest = pytorchjob(config, REQUEST).manifest
    for metadata in (manifest["metadata"], pod_of(config)["metadata"]):
        assert metadata["labels"]["team"] == "a"
        assert metadata["labels"]["airflow-distrib/job"] == manifest["metadata"]["name"]
        assert metadata["annotations"]["note"] == "x y"


def test_templates_and_options_are_merged_in_order() -> None:
    """Nothing that a user writes in the job's template, in the replica's or in an option is dropped."""
    base: Manifest = {
        "metadata": {"labels": {"of": "job", "keep": "job"}},
        "spec": {
            "hostNetwork": True,
            "containers": [
                {"name": "pytorch", "image": "old", "env": [{"name": "A", "value": "0"}, {"name": "B", "value": "0"}]},
                {"name": "sidecar", "image": "side"},
            ],
            "tolerations": [{"key": "a"}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
    }
    own = {
        "metadata": {"labels": {"of": "replica"}},
        "spec": {"runtimeClassName": "gvisor", "tolerations": [{"key": "b"}]},
    }
    config = PyTorchJob(
        image="new",
        worker=Replica(replicas=1, pod_template=own),
        pod_template=base,
        env={"A": "1"},
        tolerations=[{"key": "c"}],
    )
    pod = pod_of(config)
    assert (pod["metadata"]["labels"]["of"], pod["metadata"]["labels"]["keep"]) == ("replica", "job")
    assert (pod["spec"]["hostNetwork"], pod["spec"]["runtimeClassName"]) == (True, "gvisor")
    assert [each["key"] for each in pod["spec"]["tolerations"]] == ["a", "c", "b"]
    main, sidecar = pod["spec"]["containers"]
    assert (main["name"], main["image"], sidecar["name"]) == ("pytorch", "new", "sidecar")
    assert main["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "0"}]
    assert pod["spec"]["volumes"][0] == {"name": "v", "emptyDir": {}}
    assert base["spec"]["containers"][0]["image"] == "old"


def test_a_sidecar_stands_beside_the_main_container() -> None:
    """A template's only container is an addition if both have an image, and the main one otherwise."""
    sidecar = {"spec": {"containers": [{"name": "logger", "image": "fluentd"}]}}
    config = PyTorchJob(image="train", worker=Replica(replicas=1, pod_template=sidecar))
    images = {each["name"]: each["image"] for each in pod_of(config)["spec"]["containers"]}
    assert images == {"pytorch": "train", "logger": "fluentd"}
    only = {"spec": {"containers": [{"name": "train", "image": "mine"}]}}
    alone = PyTorchJob(worker=Replica(replicas=1, pod_template=only))
    assert [each["image"] for each in pod_of(alone)["spec"]["containers"]] == ["mine"]


def test_a_manifest_overrides_everything_but_names_and_identity() -> None:
    """Users reach fields for which there is no option, and the job is still found by its labels."""
    own = {
        "metadata": {"labels": {"airflow-distrib/job": "x", "team": "b"}},
        "spec": {"runPolicy": {"managedBy": "kueue.x-k8s.io/multikueue", "ttlSecondsAfterFinished": None}},
    }
    manifest = pytorchjob(JOB, with_manifest(own)).manifest
    assert manifest["spec"]["runPolicy"] == {"managedBy": "kueue.x-k8s.io/multikueue"}
    assert manifest["metadata"]["labels"]["airflow-distrib/job"] == manifest["metadata"]["name"]
    assert manifest["metadata"]["labels"]["team"] == "b"


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"kind": "TFJob"}, "manifest.kind: must be 'PyTorchJob'"),
        ({"apiVersion": "kubeflow.org/v2"}, "manifest.apiVersion: must be 'kubeflow.org/v1'"),
        ({"metadata": {"name": "mine"}}, "manifest.metadata.name: must not be set"),
        ({"metadata": {"namespace": "other"}}, "manifest.metadata.namespace: must not be set; set namespace"),
        ({"status": {}}, "manifest.status: is set by the cluster"),
    ],
)
def test_a_manifest_of_something_else_is_refused(own: Manifest, message: str) -> None:
    """The error names the field, so that a manifest for another operator is corrected before it is submitted."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        pytorchjob(JOB, with_manifest(own))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pod_template": {"spec": {"nodeSelectr": {}}}},
            "pod_template.spec.nodeSelectr: .*did you mean 'nodeSelector'",
        ),
        ({"pod_template": {"spec": {"containers": [{"imag": "x"}]}}}, r"pod_template.spec.containers\[0\].imag: "),
        ({"worker": {"pod_template": {"meta": {}}}}, "worker.pod_template: must be a mapping with 'metadata'"),
        ({"env": {"A": "1"}, "env_secrets": {"A": "s/k"}}, r"env_secrets\['A'\]: is in env as well"),
        ({"env_secrets": {"A": "secret-without-key"}}, r"env_secrets\['A'\]: must name a Kubernetes Secret and a key"),
        ({"volume_mounts": [{"name": "v", "mountPath": "/v"}]}, r"volume_mounts\[0\].name: there is no volume 'v'"),
        (
            {"worker": {"requests": {"cpu": "4"}, "limits": {"cpu": "2"}}},
            "requests.cpu: is 4, more than its limit of 2",
        ),
        (
            {"worker": {"requests": {"memory": "1Gi"}, "limits": {"memory": "1000M"}}},
            "requests.memory: is 1Gi, more than its limit of 1000M",
        ),
        ({"worker": {"requests": {"gpu": 1}, "limits": {"gpu": 2}}}, "requests.nvidia.com/gpu: is 1 and its limit 2"),
        ({"labels": {"a b": "c"}}, "labels: 'a b' cannot be the name of a label"),
        ({"labels": {"airflow-distrib/try": "1"}}, "labels.*: names with airflow-distrib/ are reserved"),
        ({"labels": {"a": "not a label"}}, "labels.*: 'not a label' cannot be the value of a label"),
        ({"tolerations": [{"kee": "x"}]}, r"tolerations\[0\].kee: a toleration has no such field"),
        ({"affinity": {"node": {}}}, "affinity: must be a mapping with nodeAffinity"),
        ({"namespace": "Not_One"}, "namespace: must be the name of a namespace"),
        ({"scheduling_policy": {"min": 1}}, "scheduling_policy.min: there is no such field"),
        ({"image_pull_policy": "Sometimes"}, "image_pull_policy: must be one of"),
        ({"image_pull_secrets": "login"}, "image_pull_secrets: must be a list of names"),
    ],
)
def test_an_unknown_or_contradictory_option_is_refused(options: dict[str, Any], message: str) -> None:
    """The mistake shows when the DAG file is parsed, and not hours later in the cluster."""
    with pytest.raises(ConfigError, match=f"{message}"):
        JOB.merged(options)


def test_a_template_that_sets_the_command_is_refused_for_functions() -> None:
    """A template cannot replace the runner, without which no function would run."""
    config = JOB.merged({"pod_template": {"spec": {"containers": [{"name": "pytorch", "command": ["x"]}]}}})
    with pytest.raises(ConfigError, match="pod_template: the main container's command"):
        pod_of(config)


def test_a_job_without_workers_is_its_master_alone() -> None:
    """A job can shrink to one pod for a trial run, with the options of the master."""
    config = PyTorchJob(image="a", worker=Replica(replicas=0), master=Replica(image="b", restart_policy="OnFailure"))
    roles = pytorchjob(config, REQUEST).manifest["spec"]["pytorchReplicaSpecs"]
    assert list(roles) == ["Master"]
    assert roles["Master"]["restartPolicy"] == "OnFailure"
    assert roles["Master"]["template"]["spec"]["containers"][0]["image"] == "b"


def test_elastic_on_several_nodes_is_a_pytorchjob_of_workers() -> None:
    """Nodes meet at the first worker and may come and go, which a job with a master does not allow."""
    rendered = elastic(Elastic(nnodes="2:3", nproc_per_node=4, max_restarts=5, image="x"), REQUEST)
    spec = rendered.manifest["spec"]
    assert list(spec["pytorchReplicaSpecs"]) == ["Worker"]
    assert spec["pytorchReplicaSpecs"]["Worker"]["replicas"] == 3
    policy = spec["elasticPolicy"]
    assert (policy["minReplicas"], policy["maxReplicas"], policy["maxRestarts"]) == (2, 3, 5)
    runner = rendered.specs["spec.json"].elastic
    assert runner is not None
    assert runner.rdzv_endpoint == f"{rendered.manifest['metadata']['name']}-worker-0:29400"
    assert (runner.min_nodes, runner.max_nodes, runner.nproc_per_node) == (2, 3, 4)
    assert rendered.log_parts is None


def test_elastic_on_one_node_is_a_pod() -> None:
    """One node needs no operator in the cluster, and its deadline is the Pod's own."""
    rendered = elastic(Elastic(nproc_per_node=2, image="x", run_policy=RunPolicy(active_deadline_seconds=60)), REQUEST)
    assert (rendered.manifest["kind"], rendered.manifest["apiVersion"]) == ("Pod", "v1")
    assert rendered.manifest["spec"]["activeDeadlineSeconds"] == 60
    assert rendered.manifest["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nnodes": 2, "rdzv_backend": "static"}, "rdzv_backend: 'static' is for launcher='local'"),
        (
            {"run_policy": {"backoff_limit": 3}},
            "run_policy.backoff_limit: has no effect with the restart policy 'Never'",
        ),
        ({"suspend": True}, "suspend: has no effect on a Pod"),
    ],
)
def test_an_option_that_elastic_cannot_honour_on_a_cluster_is_refused(fields: dict[str, Any], message: str) -> None:
    """No option is ignored silently where it has no effect."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        elastic(Elastic(image="x", **fields), REQUEST)


def test_an_mpijob_has_as_many_ranks_as_slots() -> None:
    """The resource and mpirun's command line agree on the size of the job, and its ranks report to the launcher."""
    config = MPIJob(image="x", worker=Replica(replicas=3), slots=2, env={"A": "1"})
    rendered = mpi(config, REQUEST)
    spec = rendered.manifest["spec"]
    assert (spec["slotsPerWorker"], spec["mpiImplementation"]) == (2, "OpenMPI")
    assert spec["launcherCreationPolicy"] == "WaitForWorkersReady"
    launcher = rendered.specs["launcher.json"]
    assert launcher.token
    assert launcher.token == rendered.specs["spec.json"].token
    assert launcher.command[:3] == ["mpirun", "-np", "6"]
    assert "--allow-run-as-root" in launcher.command
    assert "A" in launcher.exports
    assert rendered.specs["spec.json"].reports
    worker = spec["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]
    assert "command" not in worker
    assert worker["startupProbe"]["tcpSocket"] == {"port": 22}


@pytest.mark.parametrize("implementation", ["Intel", "MPICH"])
def test_other_implementations_of_mpi_have_options_of_their_own(implementation: str) -> None:
    """Variables reach the ranks of every implementation, although -x is known to Open MPI alone."""
    config = MPIJob(
        image="x", worker=ONE, implementation=implementation, env={"A": "1"}, ssh_auth_mount_path="/home/mpi/.ssh"
    )
    rendered = mpi(config, dataclasses.replace(REQUEST, runs_function=False, arguments={"command": ["prog"]}))
    launcher = rendered.manifest["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
    assert launcher["command"] == ["mpirun", "-np", "1", "-genvlist", "PATH,LD_LIBRARY_PATH,NCCL_DEBUG,A", "prog"]
    assert rendered.manifest["spec"]["mpiImplementation"] == implementation
    assert rendered.manifest["spec"]["sshAuthMountPath"] == "/home/mpi/.ssh"


def test_the_mpijob_of_the_training_operator_can_be_chosen() -> None:
    """Clusters with the older operator get its version of the resource, without the fields that it does not know."""
    rendered = mpi(MPIJob(image="x", worker=ONE, slots=2, api_version="kubeflow.org/v1"), REQUEST)
    assert rendered.manifest["apiVersion"] == "kubeflow.org/v1"
    assert "mpiImplementation" not in rendered.manifest["spec"]
    assert rendered.manifest["spec"]["slotsPerWorker"] == 2
    assert rendered.kind.path("ns") == "/apis/kubeflow.org/v1/namespaces/ns/mpijobs"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "worker.replicas: is required, at least 1"),
        ({"worker": {"replicas": 0}}, "worker.replicas: is required, at least 1"),
        ({"worker": ONE, "launcher": {"replicas": 2}}, "launcher.replicas: there is always one launcher"),
        ({"worker": ONE, "slots": 0}, "slots: must be a whole number, at least 1"),
        (
            {"worker": ONE, "mpirun_arguments": ["-np", "3"]},
            "mpirun_arguments: '-np' is set to worker.replicas times slots",
        ),
        ({"worker": ONE, "mpirun_arguments": "-v"}, "mpirun_arguments: must be a list of words"),
        ({"worker": ONE, "implementation": "LAM"}, "implementation: must be one of"),
        (
            {"worker": ONE, "api_version": "kubeflow.org/v1", "implementation": "Intel"},
            "implementation: is a setting of kubeflow.org/v2beta1",
        ),
        ({"worker": {"replicas": 1, "restart_policy": "Always"}}, "worker.restart_policy: must be OnFailure or Never"),
    ],
)
def test_an_mpijob_that_cannot_work_is_refused(fields: dict[str, Any], message: str) -> None:
    """The mistake shows when the DAG file is parsed, with the name of the field."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        MPIJob(image="x", **fields)


def test_old_names_of_an_mpijob_are_accepted_with_a_warning() -> None:
    """DAGs that come from Flyte keep working, and their authors learn the new names."""
    with pytest.warns(DeprecationWarning, match="num_workers is deprecated; use worker.replicas"):
        assert MPIJob(image="x", num_workers=2).world_size == 2
    with pytest.warns(DeprecationWarning), pytest.raises(ConfigError, match="set only one of them"):
        MPIJob(image="x", num_workers=2, worker=ONE)


def test_a_launcher_cannot_ask_for_a_gpu() -> None:
    """No GPU is reserved for a pod that runs no rank."""
    config = MPIJob(image="x", worker=ONE, launcher=Replica(requests=Resources(gpu=1)))
    with pytest.raises(ConfigError, match="launcher.requests.gpu: the launcher runs no rank"):
        mpi(config, REQUEST)


@pytest.mark.parametrize(
    ("base", "over", "result"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"args": ["x"]}, {"args": ["y"]}, {"args": ["y"]}),
        ({"volumeMounts": [{"mountPath": "/a", "name": "x"}]}, {"volumeMounts": [{"mountPath": "/a", "name": "y"}]},
         {"volumeMounts": [{"mountPath": "/a", "name": "y"}]}),
        ({}, {"containers": [{"name": "c", "env": None}]}, {"containers": [{"name": "c"}]}),
    ],
)  # fmt: skip
def test_mappings_are_merged_by_key_and_named_objects_by_name(base: Manifest, over: Manifest, result: Manifest) -> None:
    """A layer adds to the one below it without replacing it, and without changing either."""
    before = repr((base, over))
    assert merged(base, over) == result
    assert repr((base, over)) == before


def test_a_kind_can_have_lists_of_its_own_that_are_merged_by_name() -> None:
    """A custom resource whose roles are a list is merged role by role, as a mapping of roles is."""
    base, over = {"tasks": [{"name": "a", "x": 1}]}, {"tasks": [{"name": "a", "y": 2}, {"name": "b"}]}
    whole = merged(base, over, keys={**KEYS, "tasks": "name"})
    assert whole == {"tasks": [{"name": "a", "x": 1, "y": 2}, {"name": "b"}]}
    assert merged(base, over) == over
