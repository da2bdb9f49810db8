"""An MPIJob as a resource, and as processes on one machine."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.runner import collector
from airflow_distrib.runner import spec as specs
from airflow_distrib.systems.kubernetes import kubeflow, manifest, pods
from airflow_distrib.systems.kubernetes.kind import Manifest, Object
from airflow_distrib.systems.kubernetes.manifest import Job, KubernetesSubmission
from airflow_distrib.systems.kubernetes.options import cluster_only
from airflow_distrib.systems.kubernetes.quantities import amount
from airflow_distrib.systems.kubernetes.resources import Replica, RestartPolicy
from airflow_distrib.systems.local.plan import LocalPlan
from airflow_distrib.systems.mpijob.config import DEFAULT_ARGUMENTS, OPEN_MPI, V1, MPIJob
from airflow_distrib.systems.mpijob.status import MPIJOB, MPIJOB_V1, REPLICAS

LAUNCHER_SPEC = "launcher.json"
# Where both operators mount the list of workers.
HOSTFILE = "/etc/mpi/hostfile"
SSH_PORT = 22
_LIBRARIES = "LD_LIBRARY_PATH"

# Fields that only mpirun and its operator can honour.
_MPI_ONLY = (
    *("implementation", "mpirun_arguments", "launcher_creation_policy", "ssh_auth_mount_path", "ssh_port"),
    "run_launcher_as_worker",
)


def local(config: MPIJob, request: JobRequest) -> LocalPlan:
    """Render for the local launcher: all ranks on this machine, without mpirun."""
    del request
    not_applied = cluster_only(config) + [name for name in _MPI_ONLY if getattr(config, name) is not None]
    return LocalPlan(specs.RANKS, config.world_size, env=config.env or {}, not_applied=tuple(not_applied))


def kubernetes(config: MPIJob, request: JobRequest) -> KubernetesSubmission:
    """Render for Kubernetes."""
    job = Job(MPIJOB_V1 if config.api_version == V1 else MPIJOB, request)
    worker = config.worker
    assert isinstance(worker, Replica)
    launcher = config.launcher if isinstance(config.launcher, Replica) else Replica()
    policy = manifest.restart_policy(config, launcher, job)
    pod = _launcher(config, job, launcher)
    roles = kubeflow.replica_type("Launcher", 1, pod, policy)
    roles |= kubeflow.replica_type(
        "Worker",
        int(worker.replicas or 0),
        _worker(config, job, worker),
        manifest.restart_policy(config, worker, job),
    )
    spec = _spec(config, job, roles, policy)
    names = [each["name"] for each in pod["spec"]["containers"][0].get("env") or ()]
    whole = manifest.submission(config, job, {"spec": spec}, _files(config, job, names), ("launcher",))
    _check_size(whole.manifest["spec"], spec)
    return whole


def _spec(config: MPIJob, job: Job, roles: Manifest, policy: str) -> Manifest:
    spec: Manifest = {
        "slotsPerWorker": int(config.slots),
        "runPolicy": manifest.run_policy(config, job),
        REPLICAS: roles,
    }
    # The workers' SSH servers are still running after the launcher has ended.
    spec["runPolicy"].setdefault("cleanPodPolicy", "Running")
    if policy == RestartPolicy.NEVER.value:
        # A restart would not help: a failed function would fail again, and mpirun itself waits for the workers.
        spec["runPolicy"].setdefault("backoffLimit", 0)
    if job.kind is MPIJOB:
        spec["mpiImplementation"] = config.implementation or OPEN_MPI
        spec["launcherCreationPolicy"] = config.launcher_creation_policy or "WaitForWorkersReady"
        if config.ssh_auth_mount_path:
            spec["sshAuthMountPath"] = config.ssh_auth_mount_path
        if config.run_launcher_as_worker:
            spec["runLauncherAsWorker"] = True
    return spec


def _check_size(whole: Manifest, rendered: Manifest) -> None:
    """The user's manifest must not change the number of ranks, which mpirun takes from the config."""
    for field, path in (("slots", ("slotsPerWorker",)), ("worker.replicas", (REPLICAS, "Worker", "replicas"))):
        expected, actual = rendered, whole
        for key in path:
            expected, actual = expected[key], actual[key]
        if expected != actual:
            name = f"manifest.spec.{'.'.join(path)}"
            raise ConfigError(name, f"is {actual}, but {field} is {expected}; remove it from the manifest")


def _files(config: MPIJob, job: Job, names: list[str]) -> dict[str, specs.Spec]:
    """One file for the launcher, one for the ranks, which report to it."""
    if not job.runs_function:
        return {}
    token = secrets.token_hex(16)
    launcher = job.spec(specs.LAUNCHER)._replace(
        token=token,
        command=mpirun(config, _exports(job, names)),
        exports=_exports(job, names) if _implementation(config) == OPEN_MPI else [],
        program=job.runner_command() or [],
        hostfile=HOSTFILE if config.api_version != V1 else None,
        ssh_port=int(config.ssh_port or SSH_PORT),
        # The ranks' own runners select what is printed.
        log_ranks=None,
    )
    rank = job.spec()._replace(token=token, reports=True, termination_log=None)
    return {LAUNCHER_SPEC: launcher, manifest.SPEC: rank}


def mpirun(config: MPIJob, variables: list[str]) -> list[str]:
    """``mpirun -np RANKS ...``, without the variables to export for Open MPI, and without the program."""
    implementation = _implementation(config)
    arguments = DEFAULT_ARGUMENTS[implementation] if config.mpirun_arguments is None else config.mpirun_arguments
    names = [] if implementation == OPEN_MPI else ["-genvlist", ",".join(variables)]
    return ["mpirun", "-np", str(config.world_size), *arguments, *names]


def _implementation(config: MPIJob) -> str:
    return config.implementation or OPEN_MPI


def _exports(job: Job, names: list[str]) -> list[str]:
    """Variables that the ranks need: processes of an SSH server inherit none."""
    ours = [collector.ADDRESS] if job.runs_function else []
    return ["PATH", _LIBRARIES, *(name for name in names if name != collector.POD_IP), *ours]


def _launcher(config: MPIJob, job: Job, replica: Replica) -> Manifest:
    command = job.runner_command(LAUNCHER_SPEC)
    own_address = {"name": collector.POD_IP, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    role = pods.Role(MPIJOB.container, command, job.secret, env=(own_address,) if job.runs_function else ())
    rendered = manifest.pod_template(config, job, replica, role, "the launcher")
    main = rendered["spec"]["containers"][0]
    limits = main.get("resources", {}).get("limits", {})
    if not config.run_launcher_as_worker and any("gpu" in name and amount(most) > 0 for name, most in limits.items()):
        raise ConfigError("launcher.requests.gpu", "the launcher runs no rank, so a GPU would be wasted; remove it")
    if command is not None and not job.runs_function:
        # The library path only goes to -genvlist: Open MPI warns about -x of a variable that is not set.
        variables = [name for name in _exports(job, [v["name"] for v in main.get("env") or ()]) if name != _LIBRARIES]
        exports = [word for name in variables for word in ("-x", name)] if _implementation(config) == OPEN_MPI else []
        main["command"] = [*mpirun(config, [*variables, _LIBRARIES]), *exports, *_program(command)]
    return rendered


def _program(command: list[str]) -> list[str]:
    if os.path.basename(command[0]) in ("mpirun", "mpiexec", "mpiexec.hydra", "horovodrun"):
        raise ConfigError("command", f"must be the program that every rank runs; remove {command[0]} from it")
    return command


def _worker(config: MPIJob, job: Job, replica: Replica) -> Manifest:
    # Without a command the operator adds one: the SSH server or, in v1, a sleep.
    port = None if config.api_version == V1 else int(config.ssh_port or SSH_PORT)
    role = pods.Role(MPIJOB.container, None, job.secret, port=port)
    return manifest.pod_template(config, job, replica, role, "a worker")


def config_of_manifest(own: Object) -> Mapping[str, object]:
    """The numbers of workers and slots, and the version, in a manifest that is given without a config."""
    spec = own.get("spec") or {}
    found = {"slots": spec.get("slotsPerWorker"), "api_version": own.get("apiVersion")}
    workers = kubeflow.replicas_of(own, REPLICAS, "Worker")
    return {"worker": {"replicas": workers or 1}, **{name: value for name, value in found.items() if value}}
