"""Config of an MPIJob."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from airflow_distrib.core import config
from airflow_distrib.core.config import Check
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.kubernetes.options import ClusterConfig
from airflow_distrib.systems.kubernetes.resources import Replica, RestartPolicy
from airflow_distrib.systems.mpijob import mpirun
from airflow_distrib.systems.mpijob.mpirun import INTEL, MPICH, OPEN_MPI

V1, V2 = "kubeflow.org/v1", "kubeflow.org/v2beta1"

# Only in the mpi-operator's MPIJob.
_V2_ONLY = ("implementation", "launcher_creation_policy", "ssh_auth_mount_path", "run_launcher_as_worker", "ssh_port")


def _path(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise ConfigError(name, f"must be an absolute path in the image; got {value!r}")
    return value


class MPIJob(ClusterConfig):
    """A function, or a program, on every MPI rank of some workers, started by mpirun in a launcher pod.

    There are ``worker.replicas`` times ``slots`` ranks. The image needs mpirun, an SSH client and,
    on the workers, an SSH server that accepts the operator's keys.

    Attributes:
        worker: the workers; ``replicas`` is required.
        launcher: the one launcher; by default a pod of the same image. Its ``command`` runs as it is,
            without mpirun before it.
        slots: ranks on each worker.
        implementation: "OpenMPI", "Intel" or "MPICH".
        mpirun_arguments: arguments of mpirun before the program, in the spelling of the implementation; None takes
            defaults that work in pods.
        launcher_creation_policy: "WaitForWorkersReady" (default) or "AtStartup".
        ssh_auth_mount_path: directory of the SSH keys in the pods.
        ssh_port: port of the workers' SSH server.
        run_launcher_as_worker: the launcher's pod runs ranks too.
        api_version: "kubeflow.org/v2beta1" of the mpi-operator, or "kubeflow.org/v1" of the
            training-operator.
        num_workers: deprecated, ``worker.replicas``.
        num_launcher_replicas: deprecated; there is always one launcher.

    All other options are those of every job on Kubernetes:
    :class:`~airflow_distrib.systems.kubernetes.options.ClusterConfig`.
    """

    worker: Replica | Mapping[str, object] | None = None
    launcher: Replica | Mapping[str, object] | None = None
    slots: int | str = 1
    implementation: str | None = None
    mpirun_arguments: Sequence[str] | None = None
    launcher_creation_policy: str | None = None
    ssh_auth_mount_path: str | None = None
    ssh_port: int | str | None = None
    run_launcher_as_worker: bool | str | None = None
    api_version: str = V2
    num_workers: int | str | None = None
    num_launcher_replicas: int | str | None = None

    elsewhere: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("nprocs", "nproc_per_node"), "ranks on each worker are slots=..."),
        "nnodes": "write worker=Replica(replicas=...)",
    }
    checks: ClassVar[Mapping[str, Check]] = {
        **ClusterConfig.checks,
        "worker": config.of(Replica),
        "launcher": config.of(Replica),
        "slots": config.whole(1),
        "implementation": config.one_of(OPEN_MPI, INTEL, MPICH),
        "mpirun_arguments": mpirun.check_arguments,
        "launcher_creation_policy": config.one_of("WaitForWorkersReady", "AtStartup"),
        "ssh_auth_mount_path": _path,
        "ssh_port": config.whole(1, 65535),
        "run_launcher_as_worker": config.flag,
        "api_version": config.one_of(V2, V1),
        "num_workers": config.whole(1),
        "num_launcher_replicas": config.whole(1, 1),
    }

    deprecated: ClassVar[Mapping[str, str]] = {
        **ClusterConfig.deprecated,
        "num_workers": "worker.replicas",
        "num_launcher_replicas": "launcher.replicas",
    }

    def check_roles(self) -> None:
        worker, launcher = self.worker, self.launcher
        if not config.is_template(worker) and (not isinstance(worker, Replica) or worker.replicas in (None, 0)):
            raise ConfigError("worker.replicas", "is required, at least 1; write worker=Replica(replicas=...)")
        launchers = launcher.replicas if isinstance(launcher, Replica) else None
        if launchers not in (None, 1) and not config.is_template(launchers):
            raise ConfigError("launcher.replicas", f"there is always one launcher; got {launchers!r}")
        for name, replica in (("worker", worker), ("launcher", launcher)):
            is_always = isinstance(replica, Replica) and replica.restart_policy is RestartPolicy.ALWAYS
            if is_always and self.api_version == V2:
                raise ConfigError(f"{name}.restart_policy", "must be OnFailure or Never for the mpi-operator")
        for name in _V2_ONLY if self.api_version == V1 else ():
            if getattr(self, name) is not None:
                raise ConfigError(name, f"is a setting of {V2} that {V1} does not have; remove it")
        if not config.is_template(self.mpirun_arguments) and not config.is_template(self.implementation):
            mpirun.check_owner("mpirun_arguments", self.mpirun_arguments or (), self.implementation or OPEN_MPI)
        super().check_roles()

    @property
    def world_size(self) -> int:
        """Number of ranks, once all templates are rendered."""
        assert isinstance(self.worker, Replica)
        return (int(self.worker.replicas or 0) + int(bool(self.run_launcher_as_worker))) * int(self.slots)
