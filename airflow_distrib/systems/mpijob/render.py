"""An MPIJob as a resource, and as processes of one machine."""

from __future__ import annotations

import os
from typing import Any

from airflow_distrib.backends.kubernetes import manifest, pods
from airflow_distrib.backends.kubernetes.kind import Rendered
from airflow_distrib.backends.kubernetes.manifest import Task
from airflow_distrib.backends.kubernetes.options import cluster_only
from airflow_distrib.backends.local.plan import LocalPlan
from airflow_distrib.backends.mpijob.config import DEFAULT_ARGUMENTS, OPEN_MPI, V1, MPIJob
from airflow_distrib.backends.mpijob.status import MPIJOB, MPIJOB_V1
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.resources import Replica, RestartPolicy, amount
from airflow_distrib.runner import collector
from airflow_distrib.runner import spec as specs

LAUNCHER_SPEC = "launcher.json"
# Where both operators mount the list of workers.
HOSTFILE = "/etc/mpi/hostfile"
SSH_PORT = 22
# Exported where it is set; mpirun would complain about it elsewhere.
_LIBRARIES = "LD_LIBRARY_PATH"

# Of the config, what only mpirun and its operator can honour.
_MPI_ONLY = (
    *("implementation", "mpirun_arguments", "launcher_creation_policy", "ssh_auth_mount_path", "ssh_port"),
    "run_launcher_as_worker",
)


def local_plan(config: MPIJob, rendezvous_id: str) -> LocalPlan:
    """Render for the local launcher: all ranks on this machine, without mpirun."""
    del rendezvous_id
    idle = cluster_only(config) + [name for name in _MPI_ONLY if getattr(config, name) is not None]
    return LocalPlan(specs.RANKS, config.world_size, env=config.env or {}, not_applied=tuple(idle))


def cluster(config: MPIJob, task: Task) -> Rendered:
    """Render for Kubernetes."""
    kind = MPIJOB_V1 if config.api_version == V1 else MPIJOB
    worker = config.worker
    assert isinstance(worker, Replica)
    launcher = config.launcher if isinstance(config.launcher, Replica) else Replica()
    policy = manifest.restart_policy(config, launcher, task)
    pod = _launcher(config, task, launcher)
    roles = manifest.replica_type("Launcher", 1, pod, policy)
    roles |= manifest.replica_type(
        "Worker",
        int(worker.replicas or 0),
        _worker(config, task, worker),
        manifest.restart_policy(config, worker, task),
    )
    wanted: dict[str, Any] = {
        "slotsPerWorker": int(config.slots),
        "runPolicy": manifest.run_policy(config, task),
        "mpiReplicaSpecs": roles,
    }
    # The workers' SSH servers run on after the launcher has ended.
    wanted["runPolicy"].setdefault("cleanPodPolicy", "Running")
    if policy == RestartPolicy.NEVER.value:
        # A function that failed fails again; mpirun itself waits for the workers.
        wanted["runPolicy"].setdefault("backoffLimit", 0)
    if kind is MPIJOB:
        wanted["mpiImplementation"] = config.implementation or OPEN_MPI
        wanted["launcherCreationPolicy"] = config.launcher_creation_policy or "WaitForWorkersReady"
        if config.ssh_auth_mount_path:
            wanted["sshAuthMountPath"] = config.ssh_auth_mount_path
        if config.run_launcher_as_worker:
            wanted["runLauncherAsWorker"] = True
    resource = {
        "apiVersion": kind.api,
        "kind": kind.kind,
        "metadata": manifest.metadata(config, task, kind),
        "spec": wanted,
    }
    whole = manifest.finished(resource, task)
    _check_size(whole["spec"], wanted)
    names = [each["name"] for each in pod["spec"]["containers"][0].get("env") or ()]
    return Rendered(kind, whole, _specs(config, task, names), ("launcher",))


def _check_size(whole: dict[str, Any], rendered: dict[str, Any]) -> None:
    """Mpirun starts as many ranks as the config says."""
    for path in (("slotsPerWorker",), ("mpiReplicaSpecs", "Worker", "replicas")):
        ours, theirs = rendered, whole
        for key in path:
            ours, theirs = ours[key], theirs[key]
        if ours != theirs:
            field = "slots" if len(path) == 1 else "worker.replicas"
            raise ConfigError(f"manifest.spec.{'.'.join(path)}", f"is {theirs}, but {field} says {ours}; leave it out")


def _specs(config: MPIJob, task: Task, names: list[str]) -> dict[str, specs.Spec]:
    """One file for the launcher, one for the ranks, which report to it."""
    if not task.runs_function:
        return {}
    launcher = task.spec(
        specs.LAUNCHER,
        token=task.token,
        command=mpirun(config, _exports(task, names)),
        exports=_exports(task, names) if _implementation(config) == OPEN_MPI else [],
        program=task.runner_command(),
        hostfile=HOSTFILE if config.api_version != V1 else None,
        ssh_port=int(config.ssh_port or SSH_PORT),
        # The ranks have chosen already what they print.
        log_ranks=None,
    )
    rank = task.spec(specs.ENVIRONMENT, token=task.token, reports=True, termination_log=None)
    return {LAUNCHER_SPEC: launcher, manifest.SPEC: rank}


def mpirun(config: MPIJob, variables: list[str]) -> list[str]:
    """``mpirun -np RANKS ...``, without the variables to export for Open MPI, and without the program."""
    implementation = _implementation(config)
    arguments = DEFAULT_ARGUMENTS[implementation] if config.mpirun_arguments is None else config.mpirun_arguments
    names = [] if implementation == OPEN_MPI else ["-genvlist", ",".join(variables)]
    return ["mpirun", "-np", str(config.world_size), *arguments, *names]


def _implementation(config: MPIJob) -> str:
    return config.implementation or OPEN_MPI


def _exports(task: Task, names: list[str]) -> list[str]:
    """An SSH server gives its processes a new environment; what the ranks need has to be named."""
    ours = [collector.ADDRESS] if task.runs_function else []
    return ["PATH", "LD_LIBRARY_PATH", *(name for name in names if name != collector.POD_IP), *ours]


def _launcher(config: MPIJob, task: Task, replica: Replica) -> dict[str, Any]:
    command = task.runner_command(LAUNCHER_SPEC)
    own_address = {"name": collector.POD_IP, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    role = pods.Role(MPIJOB.container, command, task.secret(MPIJOB), env=(own_address,) if task.runs_function else ())
    rendered = _template(config, task, replica, role, "the launcher")
    if command is not None and not task.runs_function:
        main = rendered["spec"]["containers"][0]
        variables = [name for name in _exports(task, [v["name"] for v in main.get("env") or ()]) if name != _LIBRARIES]
        exports = [word for name in variables for word in ("-x", name)] if _implementation(config) == OPEN_MPI else []
        main["command"] = [*mpirun(config, [*variables, _LIBRARIES]), *exports, *_program(command)]
    return rendered


def _program(command: list[str]) -> list[str]:
    if os.path.basename(command[0]) in ("mpirun", "mpiexec", "mpiexec.hydra", "horovodrun"):
        raise ConfigError("command", f"is what {command[0]} starts on every rank, without {command[0]} itself")
    return command


def _worker(config: MPIJob, task: Task, replica: Replica) -> dict[str, Any]:
    # Without a command the operator starts the SSH server (or, in v1, sleeps).
    port = None if config.api_version == V1 else int(config.ssh_port or SSH_PORT)
    role = pods.Role(MPIJOB.container, None, task.secret(MPIJOB), port=port)
    return _template(config, task, replica, role, "a worker")


def _template(config: MPIJob, task: Task, replica: Replica, role: pods.Role, who: str) -> dict[str, Any]:
    rendered = pods.pod_template(config, replica, role, manifest.pod_metadata(task, MPIJOB))
    if not task.manifest:
        manifest.needs_image(rendered, who)
    container = rendered["spec"]["containers"][0]
    idle = who == "the launcher" and not config.run_launcher_as_worker
    limits = container.get("resources", {}).get("limits", {})
    if idle and any("gpu" in name and amount(most) > 0 for name, most in limits.items()):
        raise ConfigError("launcher.requests.gpu", "the launcher runs no rank, so a GPU would be wasted; leave it out")
    return rendered
