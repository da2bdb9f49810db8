"""An MPIJob as a resource, and as processes on one machine."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.runner import collector
from airflow_distrib.runner import spec as specs
from airflow_distrib.systems.kubernetes import kubeflow, manifest, merge, pods, policies
from airflow_distrib.systems.kubernetes.kind import Manifest, Object
from airflow_distrib.systems.kubernetes.manifest import Job, KubernetesSubmission
from airflow_distrib.systems.kubernetes.options import cluster_only
from airflow_distrib.systems.kubernetes.quantities import amount
from airflow_distrib.systems.kubernetes.resources import Replica
from airflow_distrib.systems.local.plan import LocalPlan
from airflow_distrib.systems.mpijob import mpirun
from airflow_distrib.systems.mpijob.config import V1, MPIJob
from airflow_distrib.systems.mpijob.mpirun import OPEN_MPI
from airflow_distrib.systems.mpijob.status import MPIJOB, MPIJOB_V1, REPLICAS

LAUNCHER_SPEC = "launcher.json"
# Where both operators mount the list of workers.
HOSTFILE = "/etc/mpi/hostfile"
SSH_PORT = 22
# As images and tools for MPI on Kubernetes do: which network NCCL takes is the first question when it is slow.
_NCCL_DEBUG = {"name": "NCCL_DEBUG", "value": "INFO"}

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
    worker, launcher = config.role("worker"), config.role("launcher")
    command = job.command_of(launcher, "launcher", LAUNCHER_SPEC)
    roles = kubeflow.replica_type(
        "Launcher", 1, _launcher(config, job, launcher, command), policies.restart_policy(config, launcher, job)
    )
    roles |= kubeflow.replica_type(
        "Worker",
        int(worker.replicas or 0),
        _worker(config, job, worker),
        policies.restart_policy(config, worker, job),
    )
    policies.check_gpus(roles["Worker"]["template"], int(config.slots), "slots")
    spec = _spec(config, job, roles)
    whole = manifest.submission(config, job, {"spec": spec}, {}, ("launcher",))
    manifest.check_kept(whole.manifest, {"spec": spec}, _TOLD)
    # With the variables of the user's own manifest.
    merged = whole.manifest["spec"][REPLICAS]
    main, workers = (merged[name]["template"]["spec"]["containers"][0] for name in ("Launcher", "Worker"))
    variables = _variables(main, workers, launcher)
    if job.runs_function:
        return dataclasses.replace(whole, specs=_files(config, job, variables))
    if command is not None and launcher.command is None and main.get("command") == command:
        main["command"] = _with_mpirun(config, command, variables)
    return whole


# What mpirun is told, which the user's manifest must not change.
_TOLD = {
    "spec.slotsPerWorker": "slots",
    "spec.mpiImplementation": "implementation",
    "spec.runLauncherAsWorker": "run_launcher_as_worker",
    f"spec.{REPLICAS}.Worker.replicas": "worker.replicas",
    f"spec.{REPLICAS}.Launcher.replicas": "launcher.replicas",
}


def _spec(config: MPIJob, job: Job, roles: Manifest) -> Manifest:
    spec: Manifest = {
        "slotsPerWorker": int(config.slots),
        "runPolicy": policies.run_policy(config, job, roles, _backoff_limit(config, job, roles)),
        REPLICAS: roles,
    }
    # The workers' SSH servers are still running after the launcher has ended.
    spec["runPolicy"].setdefault("cleanPodPolicy", "Running")
    if job.kind is MPIJOB:
        spec["mpiImplementation"] = _implementation(config)
        spec["launcherCreationPolicy"] = config.launcher_creation_policy or "WaitForWorkersReady"
        if config.ssh_auth_mount_path:
            spec["sshAuthMountPath"] = config.ssh_auth_mount_path
        if config.run_launcher_as_worker:
            spec["runLauncherAsWorker"] = True
    return spec


def _backoff_limit(config: MPIJob, job: Job, roles: Manifest) -> int:
    """The mpi-operator's limit is for the launcher, of which it starts another one with "Never" too."""
    counted = {"Launcher": roles["Launcher"]} if job.kind is MPIJOB else roles
    given = policies.backoff_limit(config, counted, restarted=job.kind is MPIJOB)
    # A restart would not help: a failed function would fail again, and mpirun itself waits for the workers.
    return 0 if given is None else given


def _files(config: MPIJob, job: Job, names: list[str]) -> dict[str, specs.Spec]:
    """One file for the launcher, one for the ranks, which report to it."""
    token = secrets.token_hex(16)
    implementation = _implementation(config)
    variables = [*names, collector.ADDRESS]
    launcher = job.spec(specs.LAUNCHER)._replace(
        token=token,
        command=mpirun.start(implementation, config.world_size, config.mpirun_arguments, variables),
        exports=variables if implementation == OPEN_MPI else [],
        program=job.runner_command() or [],
        hostfile=HOSTFILE if config.api_version != V1 else None,
        ssh_port=int(config.ssh_port or SSH_PORT),
        # The ranks' own runners select what is printed.
        log_ranks=None,
    )
    rank = job.spec()._replace(token=token, reports=True, termination_log=None)
    return {LAUNCHER_SPEC: launcher, manifest.SPEC: rank}


def _with_mpirun(config: MPIJob, command: list[str], names: list[str]) -> list[str]:
    """A program on every rank; a command that starts the ranks itself stays as it is."""
    if mpirun.starts_ranks(command):
        if config.mpirun_arguments is not None:
            raise ConfigError("mpirun_arguments", "the command calls mpirun itself; write its arguments there")
        return command
    implementation = _implementation(config)
    started = mpirun.start(implementation, config.world_size, config.mpirun_arguments, names)
    return mpirun.around(command, started, implementation, names)


def _implementation(config: MPIJob) -> str:
    return config.implementation or OPEN_MPI


def _variables(main: Manifest, workers: Object, launcher: Replica) -> list[str]:
    """Give the launcher the variables of the workers, and name those to pass on: SSH servers give ranks none.

    What differs between pods, such as a pod's address, cannot be passed on.
    """
    own = pods.main_container(launcher.pod_template or {}, MPIJOB.container, main.get("image")) or {}
    kept = {each["name"] for each in own.get("env") or ()}
    theirs = [each for each in workers.get("env") or () if each["name"] not in kept and not _is_of_pod(each)]
    given = merge.merged({"env": [_NCCL_DEBUG]}, {"env": merge.merged(main, {"env": theirs})["env"]})["env"]
    main["env"] = given
    names = [each["name"] for each in given if not _is_of_pod(each)]
    return list(dict.fromkeys(["PATH", mpirun.LIBRARIES, *names]))


def _is_of_pod(variable: Object) -> bool:
    return bool({"fieldRef", "resourceFieldRef"} & set(variable.get("valueFrom") or ()))


def _launcher(config: MPIJob, job: Job, replica: Replica, command: list[str] | None) -> Manifest:
    own_address = {"name": collector.POD_IP, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    role = pods.Role(
        MPIJOB.container,
        command,
        job.secret,
        env=(own_address,) if job.runs_function else (),
        devices=bool(config.run_launcher_as_worker),
    )
    rendered = manifest.pod_template(config, job, replica, role, "the launcher")
    limits = rendered["spec"]["containers"][0].get("resources", {}).get("limits", {})
    if not role.devices and any(policies.is_gpu(name) and amount(most) > 0 for name, most in limits.items()):
        raise ConfigError("launcher.requests.gpu", "the launcher runs no rank, so a GPU would be wasted; remove it")
    return rendered


def _worker(config: MPIJob, job: Job, replica: Replica) -> Manifest:
    # Without a command the operator adds one: the SSH server or, in v1, a sleep.
    port = None if config.api_version == V1 else int(config.ssh_port or SSH_PORT)
    role = pods.Role(MPIJOB.container, replica.command, job.secret, port=port)
    return manifest.pod_template(config, job, replica, role, "a worker")


def config_of_manifest(own: Object) -> Mapping[str, object]:
    """The numbers of workers and slots, and the version, in a manifest that is given without a config."""
    spec = own.get("spec") or {}
    found = {"slots": spec.get("slotsPerWorker"), "api_version": own.get("apiVersion")}
    workers = kubeflow.replicas_of(own, REPLICAS, "Worker")
    return {"worker": {"replicas": workers or 1}, **{name: value for name, value in found.items() if value}}
