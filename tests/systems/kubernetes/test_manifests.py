"""Manifests: every option arrives, nothing is dropped, contradictions are refused."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_distrib.systems.elastic.kubernetes import cluster as elastic
from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.kubernetes.manifest import Task
from airflow_distrib.systems.kubernetes.merge import merged
from airflow_distrib.systems.mpijob.config import MPIJob
from airflow_distrib.systems.mpijob.render import cluster as mpi
from airflow_distrib.systems.pytorchjob.config import PyTorchJob
from airflow_distrib.systems.pytorchjob.render import cluster as pytorchjob
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.systems.kubernetes.resources import Replica, Resources, RunPolicy

TASK = Task(JobIdentity("dag", "run", "train", -1, 1, "scope"), "ns", options={"log_ranks": [0]})
ONE = Replica(replicas=1)
JOB = PyTorchJob(image="me/train:1", worker=ONE)


def pod_of(config: PyTorchJob, role: str = "Worker", task: Task = TASK) -> dict[str, Any]:
    """A role's pod template."""
    return dict(pytorchjob(config, task).manifest["spec"]["pytorchReplicaSpecs"][role]["template"])


def main_of(config: PyTorchJob, task: Task = TASK) -> dict[str, Any]:
    """The worker's main container."""
    return dict(pod_of(config, task=task)["spec"]["containers"][0])


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
def test_an_option_of_pods_is_in_every_roles_pod(option: str, value: Any, field: str, rendered: Any) -> None:
    """Under Kubernetes' own name."""
    for role in ("Master", "Worker"):
        assert pod_of(JOB.merged({option: value}), role)["spec"][field] == rendered


def test_options_of_containers_arrive() -> None:
    """Environment, Secrets by reference only, resources, mounts."""
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
def test_shared_memory_has_its_size(given: Any, volume: dict[str, str]) -> None:
    """Or as much as the pod's memory."""
    config = JOB.merged({"shared_memory": given})
    assert {"name": "airflow-distrib-shm", "emptyDir": volume} in pod_of(config)["spec"]["volumes"]
    assert {"name": "airflow-distrib-shm", "mountPath": "/dev/shm"} in main_of(config)["volumeMounts"]
    assert "airflow-distrib-shm" not in str(pod_of(JOB.merged({"shared_memory": False})))


def test_two_volumes_at_dev_shm_are_refused() -> None:
    """By an option or by a template."""
    volume, mount = [{"name": "v", "emptyDir": {}}], [{"name": "v", "mountPath": "/dev/shm"}]
    template = {"spec": {"volumes": volume, "containers": [{"name": "pytorch", "volumeMounts": mount}]}}
    for given in ({"volumes": volume, "volume_mounts": mount}, {"pod_template": template}):
        with pytest.raises(ConfigError, match="shared_memory: another volume is mounted at /dev/shm"):
            pod_of(JOB.merged({"shared_memory": "1Gi", **given}))


def test_a_manifests_pods_keep_the_labels_that_the_watch_looks_for() -> None:
    """And have an image, and run the function."""

    def own(container: dict[str, Any], **metadata: Any) -> Task:
        template = {"metadata": metadata, "spec": {"containers": [{"name": "pytorch", **container}]}}
        return Task(TASK.identity, "ns", manifest={"spec": {"pytorchReplicaSpecs": {"Worker": {"template": template}}}})

    labels = pod_of(JOB, task=own({}, labels={"airflow-distrib/job": "x"}))["metadata"]["labels"]
    assert labels == pod_of(JOB)["metadata"]["labels"]
    with pytest.raises(
        ConfigError, match=r"manifest.spec.*Worker.template.spec.containers\[0\].command: is the runner's"
    ):
        pod_of(JOB, task=own({"command": ["x"]}))
    with pytest.raises(ConfigError, match="the container 'pytorch' has no image"):
        pod_of(PyTorchJob(worker=ONE), task=own({}))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"slotsPerWorker": 1}, "manifest.spec.slotsPerWorker: is 1, but slots says 2"),
        ({"mpiReplicaSpecs": {"Worker": {"replicas": 5}}}, "manifest.spec.*replicas: is 5, but worker.replicas says 1"),
    ],
)
def test_a_manifest_does_not_change_the_number_of_mpi_ranks(own: dict[str, Any], message: str) -> None:
    """mpirun would not know."""
    with pytest.raises(ConfigError, match=message):
        mpi(MPIJob(image="x", worker=ONE, slots=2), Task(TASK.identity, "ns", manifest={"spec": own}))


def test_the_run_policy_can_say_zero() -> None:
    """Which is not the same as nothing."""
    policy = RunPolicy(clean_pod_policy="All", ttl_seconds_after_finished=0, active_deadline_seconds=0, backoff_limit=0)
    assert pytorchjob(JOB.merged({"run_policy": policy}), TASK).manifest["spec"]["runPolicy"] == {
        "cleanPodPolicy": "All",
        "ttlSecondsAfterFinished": 0,
        "activeDeadlineSeconds": 0,
        "backoffLimit": 0,
    }


def test_what_airflow_cannot_do_any_more_the_cluster_does() -> None:
    """A day's TTL, and a deadline behind the task's own."""
    task = Task(TASK.identity, "ns", deadline_seconds=900)
    policy = pytorchjob(JOB, task).manifest["spec"]["runPolicy"]
    assert policy == {"ttlSecondsAfterFinished": 86400, "activeDeadlineSeconds": 900}


def test_queue_suspension_and_gang_are_on_the_job() -> None:
    """Where Kueue and the gang schedulers look."""
    gang = {"min_available": 2, "queue": "q", "priority_class": "p", "schedule_timeout_seconds": 0}
    config = JOB.merged({"queue": "team-a", "suspend": True, "scheduling_policy": gang})
    manifest = pytorchjob(config, TASK).manifest
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert manifest["spec"]["runPolicy"]["suspend"] is True
    assert manifest["spec"]["runPolicy"]["schedulingPolicy"] == {
        "minAvailable": 2,
        "queue": "q",
        "priorityClass": "p",
        "scheduleTimeoutSeconds": 0,
    }


def test_labels_and_annotations_are_on_job_and_pods() -> None:
    """Beside this package's own, which always win."""
    config = JOB.merged({"labels": {"team": "a"}, "annotations": {"note": "x y"}})
    manifest = pytorchjob(config, TASK).manifest
    for metadata in (manifest["metadata"], pod_of(config)["metadata"]):
        assert metadata["labels"]["team"] == "a"
        assert metadata["labels"]["airflow-distrib/job"] == manifest["metadata"]["name"]
        assert metadata["annotations"]["note"] == "x y"


def test_templates_are_merged_in_order() -> None:
    """The job's, the replica's, then the options; nothing of any is dropped."""
    base = {
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
    """One that has an image of its own where the main one has one, too."""
    sidecar = {"spec": {"containers": [{"name": "logger", "image": "fluentd"}]}}
    config = PyTorchJob(image="train", worker=Replica(replicas=1, pod_template=sidecar))
    images = {each["name"]: each["image"] for each in pod_of(config)["spec"]["containers"]}
    assert images == {"pytorch": "train", "logger": "fluentd"}
    only = {"spec": {"containers": [{"name": "train", "image": "mine"}]}}
    alone = PyTorchJob(worker=Replica(replicas=1, pod_template=only))
    assert [each["image"] for each in pod_of(alone)["spec"]["containers"]] == ["mine"]


def test_a_manifest_has_the_last_word() -> None:
    """But not about names and identity."""
    own = {
        "metadata": {"labels": {"airflow-distrib/job": "x", "team": "b"}},
        "spec": {"runPolicy": {"managedBy": "kueue.x-k8s.io/multikueue", "ttlSecondsAfterFinished": None}},
    }
    manifest = pytorchjob(JOB, Task(TASK.identity, "ns", manifest=own)).manifest
    assert manifest["spec"]["runPolicy"] == {"managedBy": "kueue.x-k8s.io/multikueue"}
    assert manifest["metadata"]["labels"]["airflow-distrib/job"] == manifest["metadata"]["name"]
    assert manifest["metadata"]["labels"]["team"] == "b"


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"kind": "TFJob"}, "manifest.kind: must be 'PyTorchJob'"),
        ({"apiVersion": "kubeflow.org/v2"}, "manifest.apiVersion: must be 'kubeflow.org/v1'"),
        ({"metadata": {"name": "mine"}}, "manifest.metadata.name: leave it out"),
        ({"metadata": {"namespace": "other"}}, "manifest.metadata.namespace: leave it out: set namespace"),
        ({"status": {}}, "manifest.status: is the cluster's to write"),
    ],
)
def test_a_manifest_of_something_else_is_refused(own: dict[str, Any], message: str) -> None:
    """Naming the field."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        pytorchjob(JOB, Task(TASK.identity, "ns", manifest=own))


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
        ({"labels": {"airflow-distrib/try": "1"}}, "labels.*: names with airflow-distrib/ are this package's own"),
        ({"labels": {"a": "not a label"}}, "labels.*: 'not a label' cannot be the value of a label"),
        ({"tolerations": [{"kee": "x"}]}, r"tolerations\[0\].kee: a toleration has no such field"),
        ({"affinity": {"node": {}}}, "affinity: must be a mapping with nodeAffinity"),
        ({"namespace": "Not_One"}, "namespace: must be the name of a namespace"),
        ({"scheduling_policy": {"min": 1}}, "scheduling_policy.min: there is no such field"),
        ({"image_pull_policy": "Sometimes"}, "image_pull_policy: must be one of"),
        ({"image_pull_secrets": "login"}, "image_pull_secrets: must be a list of names"),
    ],
)
def test_what_is_unknown_or_contradictory_is_refused(options: dict[str, Any], message: str) -> None:
    """When the DAG file is parsed."""
    with pytest.raises(ConfigError, match=f"{message}"):
        JOB.merged(options)


def test_a_template_that_sets_the_command_is_refused_for_functions() -> None:
    """The runner is the command."""
    config = JOB.merged({"pod_template": {"spec": {"containers": [{"name": "pytorch", "command": ["x"]}]}}})
    with pytest.raises(ConfigError, match="pod_template: the main container's command"):
        pod_of(config)


def test_a_job_without_workers_is_its_master() -> None:
    """Which is described by the worker, unless it is described itself."""
    config = PyTorchJob(image="a", worker=Replica(replicas=0), master=Replica(image="b", restart_policy="OnFailure"))
    roles = pytorchjob(config, TASK).manifest["spec"]["pytorchReplicaSpecs"]
    assert list(roles) == ["Master"]
    assert roles["Master"]["restartPolicy"] == "OnFailure"
    assert roles["Master"]["template"]["spec"]["containers"][0]["image"] == "b"


def test_elastic_on_several_nodes_is_a_pytorchjob_of_workers() -> None:
    """No master, an elastic policy, a rendezvous at the first worker."""
    rendered = elastic(Elastic(nnodes="2:3", nproc_per_node=4, max_restarts=5, image="x"), TASK)
    spec = rendered.manifest["spec"]
    assert list(spec["pytorchReplicaSpecs"]) == ["Worker"]
    assert spec["pytorchReplicaSpecs"]["Worker"]["replicas"] == 3
    policy = spec["elasticPolicy"]
    assert (policy["minReplicas"], policy["maxReplicas"], policy["maxRestarts"]) == (2, 3, 5)
    runner = rendered.specs["spec.json"].elastic
    assert runner is not None
    assert runner.rdzv_endpoint == f"{rendered.manifest['metadata']['name']}-worker-0:29400"
    assert (runner.min_nodes, runner.max_nodes, runner.nproc_per_node) == (2, 3, 4)
    assert rendered.log_roles is None


def test_elastic_on_one_node_is_a_pod() -> None:
    """Of Kubernetes itself."""
    rendered = elastic(Elastic(nproc_per_node=2, image="x", run_policy=RunPolicy(active_deadline_seconds=60)), TASK)
    assert (rendered.manifest["kind"], rendered.manifest["apiVersion"]) == ("Pod", "v1")
    assert rendered.manifest["spec"]["activeDeadlineSeconds"] == 60
    assert rendered.manifest["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nnodes": 2, "rdzv_backend": "static"}, "rdzv_backend: 'static' is for launcher='local'"),
        ({"run_policy": {"backoff_limit": 3}}, "run_policy.backoff_limit: a single node is a plain Pod"),
        ({"suspend": True}, "suspend: a single node is a plain Pod"),
    ],
)
def test_what_elastic_cannot_honour_on_a_cluster_is_refused(fields: dict[str, Any], message: str) -> None:
    """Rather than ignored."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        elastic(Elastic(image="x", **fields), TASK)


def test_an_mpijob_has_as_many_ranks_as_slots() -> None:
    """In its resource and on mpirun's command line."""
    config = MPIJob(image="x", worker=Replica(replicas=3), slots=2, env={"A": "1"})
    rendered = mpi(config, Task(TASK.identity, "ns", token="t"))
    spec = rendered.manifest["spec"]
    assert (spec["slotsPerWorker"], spec["mpiImplementation"]) == (2, "OpenMPI")
    assert spec["launcherCreationPolicy"] == "WaitForWorkersReady"
    launcher = rendered.specs["launcher.json"]
    assert launcher.command[:3] == ["mpirun", "-np", "6"]
    assert "--allow-run-as-root" in launcher.command
    assert "A" in launcher.exports
    assert rendered.specs["spec.json"].reports
    worker = spec["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]
    assert "command" not in worker
    assert worker["startupProbe"]["tcpSocket"] == {"port": 22}


@pytest.mark.parametrize("implementation", ["Intel", "MPICH"])
def test_other_implementations_of_mpi_have_words_of_their_own(implementation: str) -> None:
    """-x is Open MPI's."""
    config = MPIJob(
        image="x", worker=ONE, implementation=implementation, env={"A": "1"}, ssh_auth_mount_path="/home/mpi/.ssh"
    )
    rendered = mpi(config, Task(TASK.identity, "ns", command=["prog"], runs_function=False))
    launcher = rendered.manifest["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
    assert launcher["command"] == ["mpirun", "-np", "1", "-genvlist", "PATH,A,LD_LIBRARY_PATH", "prog"]
    assert rendered.manifest["spec"]["mpiImplementation"] == implementation
    assert rendered.manifest["spec"]["sshAuthMountPath"] == "/home/mpi/.ssh"


def test_the_training_operators_mpijob_is_an_option() -> None:
    """Of another version, with less in it."""
    rendered = mpi(MPIJob(image="x", worker=ONE, slots=2, api_version="kubeflow.org/v1"), TASK)
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
            "implementation: is of kubeflow.org/v2beta1",
        ),
        ({"worker": {"replicas": 1, "restart_policy": "Always"}}, "worker.restart_policy: must be OnFailure or Never"),
    ],
)
def test_an_mpijob_that_cannot_work_is_refused(fields: dict[str, Any], message: str) -> None:
    """When the DAG file is parsed."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        MPIJob(image="x", **fields)


def test_old_names_of_an_mpijob_are_accepted_with_a_warning() -> None:
    """Flyte's."""
    with pytest.warns(DeprecationWarning, match="num_workers is deprecated; use worker.replicas"):
        assert MPIJob(image="x", num_workers=2).world_size == 2
    with pytest.warns(DeprecationWarning), pytest.raises(ConfigError, match="give one of them"):
        MPIJob(image="x", num_workers=2, worker=ONE)


def test_a_launcher_asks_for_no_gpu() -> None:
    """It runs no rank."""
    config = MPIJob(image="x", worker=ONE, launcher=Replica(requests=Resources(gpu=1)))
    with pytest.raises(ConfigError, match="launcher.requests.gpu: the launcher runs no rank"):
        mpi(config, TASK)


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
def test_merging(base: dict[str, Any], over: dict[str, Any], result: dict[str, Any]) -> None:
    """Mappings by key, named objects by name, the rest as a whole."""
    before = repr((base, over))
    assert merged(base, over) == result
    assert repr((base, over)) == before
