"""Operators for Slurm: a Python function, a script on the cluster, a script in the DAG."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import ObjectStoragePath

from airflow_distrib.backends.local.plan import LocalPlan
from airflow_distrib.backends.slurm import interpolation
from airflow_distrib.backends.slurm import plan as plans
from airflow_distrib.backends.slurm import script as scripts
from airflow_distrib.backends.slurm.config import Sbatch, Slurm
from airflow_distrib.backends.slurm.outputs import SlurmOutput
from airflow_distrib.backends.slurm.plan import Plan, Request
from airflow_distrib.core import config as configs
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.operators.arguments import check_words, is_open
from airflow_distrib.operators.base import LOCAL, SLURM
from airflow_distrib.operators.on_slurm import SlurmJobOperator
from airflow_distrib.runner import spec as specs


class SlurmOperator(SlurmJobOperator):
    """Run a function on every task of a :class:`~airflow_distrib.Slurm` job.

    The task returns what rank 0 returned; of a job array, a list with what rank 0 of each
    element returned. Arguments are those of
    :class:`~airflow_distrib.operators.on_slurm.SlurmJobOperator`; ``python`` is the
    interpreter's path or name on the nodes, ``python3`` by default.
    """

    config_type = Slurm
    launchers = (SLURM, LOCAL)

    def _check_what_runs(self) -> None:
        if self.python_callable is None:
            raise ConfigError("python_callable", "is required; scripts have SlurmScriptOperator and SlurmShellOperator")
        super()._check_what_runs()

    def local_plan(self, config: Slurm, rendezvous_id: str) -> LocalPlan:
        """All tasks as ranks of this machine."""
        del rendezvous_id
        if config.array is not None:
            raise ConfigError("array", "needs a Slurm; local ranks are no job array")
        known = ("env", "nodes", "ntasks", "ntasks_per_node")
        idle = tuple(name for name in config.serialize() if name not in known)
        return LocalPlan(specs.RANKS, config.tasks or 1, env=config.env or {}, not_applied=idle)

    def slurm_plan(self, config: Slurm, request: Request) -> Plan:
        """Ranks started by srun."""
        return plans.of_function(config, request)


class _ScriptOperator(SlurmJobOperator):
    """A script instead of a function; the task returns what Slurm says of the job, and where its outputs are."""

    config_type = Sbatch
    launchers = (SLURM,)

    def _check_what_runs(self) -> None:
        for name in ("python_callable", "python", "result_path"):
            if getattr(self, name) is not None:
                raise ConfigError(name, f"is for functions; {type(self).__name__} runs a script")
        if isinstance(self.task_config, Slurm):
            own = [name for name in self.task_config.serialize() if name not in Sbatch.__dataclass_fields__]
            if own:
                raise ConfigError(
                    f"task_config.{own[0]}", "is for functions; a script says it itself: take Sbatch(...)"
                )
        super()._check_what_runs()


class SlurmScriptOperator(_ScriptOperator):
    """Submit a batch script that is on the cluster already.

    The task returns ``{"job_id": "12", "cluster": None, "state": "COMPLETED", "exit_code": 0,
    "nodes": "n1", "outputs": {}}``.

    Args:
        script_path: path of the script on the cluster. Templated.
        arguments: its arguments; each reaches it as one word, whatever it holds. Templated.

    Options in the config win over the script's own ``#SBATCH`` lines. Other arguments are
    those of :class:`~airflow_distrib.operators.on_slurm.SlurmJobOperator`.
    """

    template_fields: Sequence[str] = (*SlurmJobOperator.template_fields, "script_path", "arguments")

    def __init__(
        self, *, script_path: str | None = None, arguments: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        self.script_path = script_path
        self.arguments = arguments
        super().__init__(**kwargs)

    def _check_program(self) -> None:
        given: Any = self.script_path
        if given is None:
            raise ConfigError("script_path", "is required: the script's path on the cluster")
        if not configs.is_template(given) and not (isinstance(given, str) and given.startswith(("/", "~/"))):
            raise ConfigError("script_path", f"must be an absolute path, or begin with ~/; got {given!r}")
        if self.arguments:
            check_words(self.arguments, "arguments")

    def what_runs(self) -> list[Any]:
        """The script and its arguments."""
        return [self.script_path, self.arguments]

    def unknown_fields(self, config: Any) -> list[str]:
        """What templates and upstream tasks still have to say."""
        given = {"script_path": self.script_path, "arguments": self.arguments}
        return super().unknown_fields(config) + [name for name, value in given.items() if is_open(value)]

    def slurm_plan(self, config: Sbatch, request: Request) -> Plan:
        """The script with its arguments."""
        assert self.script_path is not None
        return plans.of_script(config, request, self.script_path, list(self.arguments or ()))


class SlurmShellOperator(_ScriptOperator):
    """Submit a shell script that the DAG holds.

    In the script, ``{inputs.name}`` stands for an input and ``{outputs.name}`` for the path of
    an output. Values never become part of the script, so that none can break it or add to it;
    all other braces are the shell's. The task returns what
    :class:`SlurmScriptOperator` returns, with ``outputs`` by name.

    Args:
        script: the script; not templated, because ``{{`` and ``{#`` are the shell's.
        inputs: values by name: text, numbers, or lists and mappings, which become JSON. An
            ``ObjectStoragePath`` is copied to the cluster, and stands for the copy's path.
            Templated.
        outputs: what the script writes, by name: a :class:`~airflow_distrib.SlurmOutput`, or a
            mapping with its fields. Templated.

    Other arguments are those of :class:`~airflow_distrib.operators.on_slurm.SlurmJobOperator`.
    """

    template_fields: Sequence[str] = (*SlurmJobOperator.template_fields, "inputs", "outputs")
    template_fields_renderers = {**SlurmJobOperator.template_fields_renderers, "inputs": "json", "outputs": "json"}

    def __init__(
        self,
        *,
        script: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.script = script
        self.inputs = inputs or {}
        self.outputs = outputs or {}
        super().__init__(**kwargs)

    def _check_program(self) -> None:
        configs.text("script", self.script)
        for kind in ("inputs", "outputs"):
            named = getattr(self, kind)
            if configs.is_template(named):
                continue
            if not isinstance(named, Mapping):
                raise ConfigError(kind, f"must be a mapping by name; got {named!r}")
            for name in named:
                if not isinstance(name, str) or not interpolation.NAME.fullmatch(name):
                    raise ConfigError(f"{kind}[{name!r}]", "must be a name of letters, digits and _")
        if isinstance(self.outputs, Mapping):
            self._check_outputs()
        self._check_places()

    def _check_outputs(self) -> None:
        for name, each in self._final_outputs().items():
            if isinstance(each, SlurmOutput) and each.to is not None and not configs.is_template(each.to):
                try:
                    ObjectStoragePath(str(each.to))
                except (ValueError, ImportError) as error:
                    raise ConfigError(f"outputs.{name}.to", f"cannot be reached by this Airflow: {error}") from None

    def _check_places(self) -> None:
        """Places that would stay as they are, which nobody means."""
        for number, line in enumerate(str(self.script).splitlines(), 1):
            if line.startswith("#SBATCH") and interpolation.PLACE.search(line):
                raise ConfigError("script", f"line {number}: #SBATCH lines are no shell; use task_config=Sbatch(...)")
            if wrong := re.search(r"\{(input|output)\.\w+\}", line):
                raise ConfigError("script", f"line {number} says {wrong[0]}; write {{{wrong[1]}s. ...}}")

    def _final_outputs(self) -> dict[str, Any]:
        """What is known of the outputs: those that an upstream task still has to say stay as they are."""
        check = configs.of(SlurmOutput)
        return {
            name: each if configs.is_template(each) else check(f"outputs.{name}", each)
            for name, each in self.outputs.items()
        }

    def what_runs(self) -> list[Any]:
        """The script and all its values."""
        outputs = self.outputs
        if isinstance(outputs, Mapping):
            outputs = {
                name: each.serialize() if isinstance(each, SlurmOutput) else str(each)
                for name, each in self._final_outputs().items()
            }
        return [self.script, {name: str(value) for name, value in self.inputs.items()}, outputs]

    def unknown_fields(self, config: Any) -> list[str]:
        """What templates and upstream tasks still have to say."""
        outputs = self.outputs
        if isinstance(outputs, Mapping):
            outputs = {
                name: each.plain() if isinstance(each, SlurmOutput) else each
                for name, each in self._final_outputs().items()
            }
        given = {"inputs": self.inputs, "outputs": outputs}
        return super().unknown_fields(config) + [name for name, value in given.items() if is_open(value)]

    def uploads(self) -> dict[str, ObjectStoragePath]:
        """Inputs that are files or folders."""
        return {name: value for name, value in self.inputs.items() if isinstance(value, ObjectStoragePath)}

    def slurm_plan(self, config: Sbatch, request: Request) -> Plan:
        """The script with its variables before it."""
        assert self.script is not None
        outputs = self._final_outputs()
        names = {name: f"inputs/{name}/{place.name or name}" for name, place in self.uploads().items()}

        def values(folder: str) -> dict[str, dict[str, str]]:
            inputs = {
                name: f"{folder}/{names[name]}" if name in names else interpolation.text_of(f"inputs.{name}", value)
                for name, value in self.inputs.items()
            }
            return {"inputs": inputs, "outputs": {name: each.remote(folder, name) for name, each in outputs.items()}}

        lines = functools.partial(_variables, values, outputs)
        if not scripts.is_shell(self.script) and interpolation.PLACE.search(self.script):
            raise ConfigError("script", "takes inputs and outputs only if it is one of sh or bash; use env for others")
        script = interpolation.interpolated(self.script, values("/folder"))
        uploads = {names[name]: functools.partial(_copy, place) for name, place in self.uploads().items()}
        return plans.of_text(config, request, script, lines, uploads=uploads, outputs=outputs)


def _variables(values: Any, outputs: Mapping[str, SlurmOutput], folder: str) -> list[str]:
    """Set the variables, and make the folder for outputs that stay in the private one."""
    home = {name for name, each in outputs.items() if each.location and each.location.startswith("~/")}
    lines = interpolation.assignments(values(folder))
    lines += [
        f'{interpolation.variable("outputs", name)}="$HOME"/${{{interpolation.variable("outputs", name)}#"~/"}}'
        for name in sorted(home)
    ]
    kept = [each for each in outputs.values() if each.location is None]
    return [*lines, f'mkdir -p -- "${scripts.FOLDER}"/outputs'] if kept else lines


def _copy(place: ObjectStoragePath, local: Path) -> None:
    """Copy an input to this worker."""
    if place.is_dir():
        place.fs.get(place.path, str(local), recursive=True)
    else:
        place.fs.get_file(place.path, str(local))
