"""Every system and every launcher of the package, one row of strings each; imports nothing of it.

Provider metadata, decorators, lazy names, the README's table and the contract tests are made
from these rows.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One system.

    Attributes:
        system: its name as users know it.
        operator: dotted path of the operator.
        config: dotted path of the config.
        decorator: the word after ``@task.``; empty when it takes no function.
        extra: extra of the package that holds its libraries; empty when it needs none.
        example: file in ``dags/`` that shows it.
        documentation: the system's own.
        works: what runs in this release, for the README's table.
        kinds: dotted paths of its custom resources.
        exports: dotted paths of further names that users import from the package itself.
    """

    system: str
    operator: str
    config: str
    decorator: str
    extra: str
    example: str
    documentation: str
    works: str
    kinds: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()

    @property
    def decorator_path(self) -> str:
        """Dotted path of the decorator; empty when it takes no function."""
        return f"airflow_distrib.decorators.tasks.{self.decorator}_task" if self.decorator else ""


_KUBERNETES = "airflow_distrib.systems.kubernetes"

ENTRIES = (
    Entry(
        system="torchrun Elastic",
        operator="airflow_distrib.operators.elastic.ElasticOperator",
        config="airflow_distrib.systems.elastic.config.Elastic",
        decorator="elastic",
        extra="torch",
        example="digits_ddp.py",
        documentation="https://docs.pytorch.org/docs/stable/elastic/run.html",
        works="one node on the Airflow worker or in a Pod, several nodes on Kubernetes or Slurm",
        kinds=(f"{_KUBERNETES}.pod.POD", "airflow_distrib.systems.pytorchjob.status.PYTORCHJOB"),
    ),
    Entry(
        system="PyTorchJob",
        operator="airflow_distrib.operators.pytorchjob.PyTorchJobOperator",
        config="airflow_distrib.systems.pytorchjob.config.PyTorchJob",
        decorator="pytorch_job",
        extra="kubernetes",
        example="pytorch_job_kubernetes.py",
        documentation="https://www.kubeflow.org/docs/components/trainer/legacy-v1/user-guides/pytorch/",
        works="functions, programs and manifests on Kubernetes",
        kinds=("airflow_distrib.systems.pytorchjob.status.PYTORCHJOB",),
    ),
    Entry(
        system="MPIJob",
        operator="airflow_distrib.operators.mpijob.MPIJobOperator",
        config="airflow_distrib.systems.mpijob.config.MPIJob",
        decorator="mpi_job",
        extra="kubernetes",
        example="mpi_job_kubernetes.py",
        documentation="https://github.com/kubeflow/mpi-operator",
        works="functions, programs and manifests on Kubernetes",
        kinds=("airflow_distrib.systems.mpijob.status.MPIJOB", "airflow_distrib.systems.mpijob.status.MPIJOB_V1"),
    ),
    Entry(
        system="Slurm",
        operator="airflow_distrib.operators.slurm.SlurmOperator",
        config="airflow_distrib.systems.slurm.config.Slurm",
        decorator="slurm",
        extra="slurm",
        example="slurm_function.py",
        documentation="https://slurm.schedmd.com/sbatch.html",
        works="functions on a Slurm cluster, over SSH",
    ),
    Entry(
        system="Slurm batch script",
        operator="airflow_distrib.operators.slurm.SlurmScriptOperator",
        config="airflow_distrib.systems.slurm.config.Sbatch",
        decorator="",
        extra="slurm",
        example="slurm_scripts.py",
        documentation="https://slurm.schedmd.com/sbatch.html",
        works="scripts that are on the cluster already, over SSH",
    ),
    Entry(
        system="Slurm shell script",
        operator="airflow_distrib.operators.slurm.SlurmShellOperator",
        config="airflow_distrib.systems.slurm.config.Sbatch",
        decorator="",
        extra="slurm",
        example="slurm_scripts.py",
        documentation="https://slurm.schedmd.com/sbatch.html",
        works="scripts in the DAG file, with inputs and outputs, over SSH",
        exports=("airflow_distrib.systems.slurm.outputs.SlurmOutput",),
    ),
)


class Launcher(NamedTuple):
    """One place where jobs run.

    Attributes:
        connect: dotted path of the function that opens a job client.
        hook: dotted path of the hook of its connection; empty without one.
        connection_type: of that connection.
        title: of that connection type, in Airflow's UI.
        provider: Airflow's own package that declares the same type, if installed.
        exports: dotted paths of names that users import from the package itself.
    """

    name: str
    connect: str
    hook: str = ""
    connection_type: str = ""
    title: str = ""
    provider: str = ""
    documentation: str = ""
    exports: tuple[str, ...] = ()


LAUNCHERS = (
    Launcher("local", "airflow_distrib.systems.local.launcher.connect"),
    Launcher(
        "kubernetes",
        f"{_KUBERNETES}.launcher.connect",
        "airflow_distrib.hooks.kubernetes.KubernetesHook",
        "kubernetes",
        "Kubernetes Cluster Connection",
        "apache-airflow-providers-cncf-kubernetes",
        "https://kubernetes.io/docs/concepts/overview/kubernetes-api/",
        (
            *(f"{_KUBERNETES}.resources.{n}" for n in ("CleanPodPolicy", "Replica", "Resources", "RestartPolicy")),
            f"{_KUBERNETES}.resources.RunPolicy",
            f"{_KUBERNETES}.problems.Patience",
            f"{_KUBERNETES}.options.SchedulingPolicy",
        ),
    ),
    Launcher(
        "slurm",
        "airflow_distrib.systems.slurm.launcher.connect",
        "airflow_distrib.hooks.ssh.SlurmSSHHook",
        "ssh",
        "SSH",
        "apache-airflow-providers-ssh",
        "https://www.openssh.com/specs.html",
    ),
)

TRIGGERS = ("airflow_distrib.triggers.job",)

LINKS = ("airflow_distrib.links.JobLink", "airflow_distrib.links.LogsLink")

_ERRORS = (
    "ClusterError",
    "ConfigError",
    "DistribError",
    "FunctionNotPicklable",
    "JobError",
    "JobFailed",
    "JobLost",
    "JobNotStarted",
    "JobPreempted",
    "JobTerminated",
    "JobTimedOut",
    "MissingExtra",
    "RankFailed",
    "ResultMissing",
)


def launcher(name: str) -> Launcher:
    """The row of a launcher."""
    return next(each for each in LAUNCHERS if each.name == name)


def load(path: str) -> Any:
    """What a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def public() -> dict[str, str]:
    """Names that users import from the package itself, and where they are."""
    paths = [path for each in ENTRIES for path in (each.operator, each.config, each.decorator_path, *each.exports)]
    paths += [path for each in LAUNCHERS for path in each.exports]
    paths += [f"airflow_distrib.core.errors.{name}" for name in _ERRORS]
    # From the runner, where ranks find them: a function pickled on the worker names this module.
    paths += [f"airflow_distrib.runner.errors.{name}" for name in ("NonRecoverableError", "RecoverableError")]
    return {path.rpartition(".")[2]: path for path in paths if path}
