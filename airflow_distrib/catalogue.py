"""Every system of the package, one row of strings each; imports nothing.

Provider metadata, lazy names, the README's table and the contract tests are made from these
rows.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One system.

    Attributes:
        system: its name as users know it.
        operator: dotted path of the operator.
        config: dotted path of the config.
        decorator: dotted path of the decorator function; empty when it takes no function.
        decorator_name: the word after ``@task.``.
        extra: extra of the package that holds its libraries; empty when it needs none.
        example: file in ``dags/`` that shows it.
        documentation: the system's own.
        works: what runs in this release, for the README's table.
    """

    system: str
    operator: str
    config: str
    decorator: str
    decorator_name: str
    extra: str
    example: str
    documentation: str
    works: str


ENTRIES = (
    Entry(
        system="torchrun Elastic",
        operator="airflow_distrib.operators.pytorch.ElasticOperator",
        config="airflow_distrib.backends.elastic.config.Elastic",
        decorator="airflow_distrib.decorators.tasks.elastic_task",
        decorator_name="elastic",
        extra="torch",
        example="digits_ddp.py",
        documentation="https://docs.pytorch.org/docs/stable/elastic/run.html",
        works="one node on the Airflow worker or in a Pod, several nodes on Kubernetes",
    ),
    Entry(
        system="PyTorchJob",
        operator="airflow_distrib.operators.pytorch.PyTorchJobOperator",
        config="airflow_distrib.backends.pytorchjob.config.PyTorchJob",
        decorator="airflow_distrib.decorators.tasks.pytorch_job_task",
        decorator_name="pytorch_job",
        extra="kubernetes",
        example="pytorch_job_kubernetes.py",
        documentation="https://www.kubeflow.org/docs/components/trainer/legacy-v1/user-guides/pytorch/",
        works="functions, programs and manifests on Kubernetes",
    ),
    Entry(
        system="MPIJob",
        operator="airflow_distrib.operators.mpi.MPIJobOperator",
        config="airflow_distrib.backends.mpijob.config.MPIJob",
        decorator="airflow_distrib.decorators.tasks.mpi_job_task",
        decorator_name="mpi_job",
        extra="kubernetes",
        example="mpi_job_kubernetes.py",
        documentation="https://github.com/kubeflow/mpi-operator",
        works="functions, programs and manifests on Kubernetes",
    ),
    Entry(
        system="Slurm",
        operator="airflow_distrib.operators.slurm.SlurmOperator",
        config="airflow_distrib.backends.slurm.config.Slurm",
        decorator="airflow_distrib.decorators.tasks.slurm_task",
        decorator_name="slurm",
        extra="slurm",
        example="slurm_function.py",
        documentation="https://slurm.schedmd.com/sbatch.html",
        works="functions on a Slurm, over SSH",
    ),
    Entry(
        system="Slurm batch script",
        operator="airflow_distrib.operators.slurm.SlurmScriptOperator",
        config="airflow_distrib.backends.slurm.config.Sbatch",
        decorator="",
        decorator_name="",
        extra="slurm",
        example="slurm_scripts.py",
        documentation="https://slurm.schedmd.com/sbatch.html",
        works="scripts that are on the cluster, over SSH",
    ),
    Entry(
        system="Slurm shell script",
        operator="airflow_distrib.operators.slurm.SlurmShellOperator",
        config="airflow_distrib.backends.slurm.config.Sbatch",
        decorator="",
        decorator_name="",
        extra="slurm",
        example="slurm_scripts.py",
        documentation="https://slurm.schedmd.com/sbatch.html",
        works="scripts that the DAG holds, with inputs and outputs, over SSH",
    ),
)


class Hook(NamedTuple):
    """One type of connection.

    Attributes:
        provider: Airflow's own package that declares the same type, if installed.
    """

    connection_type: str
    name: str
    path: str
    provider: str


HOOKS = (
    Hook(
        "kubernetes",
        "Kubernetes Cluster Connection",
        "airflow_distrib.hooks.kubernetes.KubernetesHook",
        "apache-airflow-providers-cncf-kubernetes",
    ),
    Hook("ssh", "SSH", "airflow_distrib.hooks.ssh.SlurmSSHHook", "apache-airflow-providers-ssh"),
)

TRIGGERS = ("airflow_distrib.triggers.job",)

LINKS = ("airflow_distrib.links.JobLink", "airflow_distrib.links.LogsLink")

# Names that users import from the package itself.
PUBLIC = {
    **{entry.operator.rpartition(".")[2]: entry.operator for entry in ENTRIES},
    **{entry.config.rpartition(".")[2]: entry.config for entry in ENTRIES},
    **{entry.decorator.rpartition(".")[2]: entry.decorator for entry in ENTRIES if entry.decorator},
    **{
        name: f"airflow_distrib.core.resources.{name}"
        for name in ("CleanPodPolicy", "Replica", "Resources", "RestartPolicy", "RunPolicy")
    },
    **{
        name: f"airflow_distrib.core.errors.{name}"
        for name in (
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
    },
    "Patience": "airflow_distrib.backends.kubernetes.problems.Patience",
    "SlurmOutput": "airflow_distrib.backends.slurm.outputs.SlurmOutput",
    "SchedulingPolicy": "airflow_distrib.backends.kubernetes.options.SchedulingPolicy",
    # From the runner, where ranks find them: a function pickled on the worker names this module.
    **{name: f"airflow_distrib.runner.errors.{name}" for name in ("NonRecoverableError", "RecoverableError")},
}
