"""Operators for Slurm: a Python function, a script on the cluster, a script in the DAG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import ObjectStoragePath

from airflow_distrib.core import config as configs
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.operators.base import DistributedJobOperator
from airflow_distrib.systems.local.launcher import LocalLauncher
from airflow_distrib.systems.slurm import batch, local, shell, submission
from airflow_distrib.systems.slurm.config import Sbatch, Slurm
from airflow_distrib.systems.slurm.launcher import SlurmLauncher
from airflow_distrib.systems.slurm.outputs import SlurmOutput


class SlurmOperator(DistributedJobOperator[Slurm]):
    """Run a function on every task of a :class:`~airflow_distrib.Slurm` job.

    The task returns what rank 0 returned; of a job array, a list with what rank 0 of each
    element returned. ``python`` is the interpreter's path or name on the nodes, ``python3`` by
    default; ``keep_job`` keeps the job's private folder.

    Args:
        ssh_conn_id: connection to the login node, of Airflow's type ``ssh``. Templated.
        log_elements: indexes of a job array whose output goes to the task log, or ``"all"``;
            the first by default.

    Other arguments are those of :class:`~airflow_distrib.operators.base.DistributedJobOperator`.
    """

    config_type = Slurm
    launchers = (SlurmLauncher(submission.of_function), LocalLauncher(local.local))

    def _check_what_runs(self) -> None:
        if self.python_callable is None:
            raise ConfigError("python_callable", "is required; scripts have SlurmScriptOperator and SlurmShellOperator")
        super()._check_what_runs()


class _ScriptOperator(DistributedJobOperator[Sbatch]):
    """A script instead of a function; the task returns what Slurm says of the job, and where its outputs are."""

    config_type = Sbatch

    def _check_what_runs(self) -> None:
        for name in ("python_callable", "python", "result_path"):
            if getattr(self, name) is not None:
                raise ConfigError(name, f"is for functions; {type(self).__name__} runs a script")
        if isinstance(self.task_config, Slurm):
            own = [name for name in self.task_config.serialize() if name not in Sbatch.__dataclass_fields__]
            if own:
                raise ConfigError(f"task_config.{own[0]}", "is for functions; use Sbatch(...) and set it in the script")
        if self.op_args or self.op_kwargs:
            raise ConfigError("op_kwargs", "there is no function to give it to")


class SlurmScriptOperator(_ScriptOperator):
    """Submit a batch script that is on the cluster already.

    The task returns ``{"job_id": "12", "cluster": None, "state": "COMPLETED", "exit_code": 0,
    "nodes": "n1", "outputs": {}}``.

    Args:
        script_path: path of the script on the cluster. Templated.
        arguments: its arguments; each reaches it as one word, whatever it holds. Templated.
        ssh_conn_id, log_elements: as in :class:`SlurmOperator`.

    Options in the config win over the script's own ``#SBATCH`` lines. Other arguments are
    those of :class:`~airflow_distrib.operators.base.DistributedJobOperator`.
    """

    launchers = (SlurmLauncher(submission.of_script, batch.ARGUMENTS, for_functions=False),)

    def _check_what_runs(self) -> None:
        super()._check_what_runs()
        if getattr(self, "script_path", None) is None:
            raise ConfigError("script_path", "is required: the script's path on the cluster")


class SlurmShellOperator(_ScriptOperator):
    """Submit a shell script that the DAG holds.

    In the script, ``{inputs.name}`` stands for an input and ``{outputs.name}`` for the path of
    an output; all other braces are the shell's, and ``{{inputs.name}}`` is the text
    ``{inputs.name}``. Values never become part of the script. Where the shell or another program
    would run a text, only numbers are taken, or plain words; anything else is an error. The
    task returns what :class:`SlurmScriptOperator` returns, with ``outputs`` by name.

    Args:
        script: the script; not templated, because ``{{`` and ``{#`` are the shell's. Its
            ``#SBATCH`` lines count; options in the config win over them.
        inputs: values by name: text, numbers, or lists and mappings, which become JSON. An
            ``ObjectStoragePath`` is copied to the cluster, and stands for the copy's path.
            Templated.
        outputs: what the script writes, by name: a :class:`~airflow_distrib.SlurmOutput`, or a
            mapping with its fields. Templated.
        ssh_conn_id, log_elements: as in :class:`SlurmOperator`.

    Other arguments are those of :class:`~airflow_distrib.operators.base.DistributedJobOperator`.
    """

    launchers = (SlurmLauncher(shell.of_shell, shell.ARGUMENTS, for_functions=False),)

    def _check_what_runs(self) -> None:
        super()._check_what_runs()
        configs.text("script", getattr(self, "script", None))

    def _check_arguments(self) -> None:
        super()._check_arguments()
        outputs: Any = getattr(self, "outputs", None)
        shell.check_known(getattr(self, "script", ""), getattr(self, "inputs", None) or {}, outputs or {})
        for name, each in outputs.items() if isinstance(outputs, Mapping) else ():
            if isinstance(each, SlurmOutput) and each.to is not None and not configs.is_template(each.to):
                try:
                    ObjectStoragePath(str(each.to))
                except (ValueError, ImportError) as error:
                    raise ConfigError(f"outputs.{name}.to", f"cannot be reached by this Airflow: {error}") from None
