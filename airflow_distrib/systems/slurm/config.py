"""Configs of jobs on Slurm: options of ``sbatch``, and how ranks find their Python."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow_distrib.core import config
from airflow_distrib.core.config import Check
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.slurm.checks import (
    absolute_path,
    exclusive_of,
    lines,
    matching,
    word,
    words,
    words_of_shell,
)

# Options of sbatch that would break what this package relies on.
OURS: Mapping[str, str] = {
    "parsable": "the job's id is read from it",
    "wrap": "use SlurmShellOperator",
    "wait": "the task waits by itself",
    "test-only": "nothing would run",
    "quiet": "the job's id is read from what sbatch says",
    "verbose": "the job's id is read from what sbatch says",
    "help": "nothing would run",
    "usage": "nothing would run",
    "version": "nothing would run",
    "kill-on-invalid-dep": "a dependency that is never satisfied ends the task already",
}
_NAME = re.compile(r"[a-z][a-z0-9-]+")
# sbatch(1), --time: minutes, minutes:seconds, hours:minutes:seconds, days-hours and so on.
_TIME = re.compile(r"\d+|\d+:\d\d?|\d+:\d\d?:\d\d?|\d+-\d\d?|\d+-\d\d?:\d\d?|\d+-\d\d?:\d\d?:\d\d?|UNLIMITED|INFINITE")
_MEMORY = re.compile(r"\d+[KMGT]?B?", re.IGNORECASE)
_RANGE = r"\d+(?:-\d+(?::\d+)?)?"
_ARRAY = re.compile(rf"{_RANGE}(?:,{_RANGE})*(?:%\d+)?")
_NODES = re.compile(r"[1-9]\d*(?:-[1-9]\d*)?")
_SIGNAL = re.compile(r"(?:[RB]+:)?[A-Za-z0-9]+(?:@\d+)?")

# A job array of this package reports every element; Slurm's own limit is often 1,001.
MAX_ELEMENTS = 10_000


def _free(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigError(name, f"must be a mapping of options of sbatch, without their dashes; got {value!r}")
    options: dict[str, object] = {}
    for given, item in value.items():
        option = str(given).lstrip("-").replace("_", "-")
        where = f"{name}[{given!r}]"
        if not _NAME.fullmatch(option):
            raise ConfigError(where, "must be the long name of an option of sbatch, such as 'switches'")
        if option in OURS:
            raise ConfigError(where, f"cannot be set: {OURS[option]}")
        if option.replace("-", "_") in Sbatch.option_fields():
            raise ConfigError(where, f"is the field {option.replace('-', '_')} of the config; set it there")
        if not (item is None or isinstance(item, bool)):
            item = item if config.is_template(item) else words(where, item)
        options[option] = item
    return options


def _components(name: str, value: object) -> tuple[dict[str, object], ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ConfigError(name, f"must be a list of mappings, one for each further component; got {value!r}")
    return tuple(Sbatch.from_component(f"{name}[{number}]", each) for number, each in enumerate(value))


class Sbatch(config.Config):
    """Options of ``sbatch``, by their long names; None leaves Slurm's own default.

    Attributes:
        nodes: nodes, 2 or a range "2-4".
        ntasks: tasks; for a function that is its ranks.
        ntasks_per_node: tasks on each node.
        cpus_per_task: cores for each task.
        gpus: GPUs of the job, 4 or "a100:4".
        gpus_per_node: GPUs on each node.
        gpus_per_task: GPUs for each task.
        gres: generic resources of each node, "gpu:2" or a list.
        mem: memory of each node, "16G".
        mem_per_cpu: memory for each core.
        mem_per_gpu: memory for each GPU.
        time: limit of the running time, minutes or "1-12:00:00"; by default the task's
            ``execution_timeout`` and five minutes, so that a job ends even if Airflow is gone.
        partition: one, or several to choose from.
        qos: quality of service.
        account: who pays.
        reservation: a reservation to run in.
        constraint: features the nodes must have, "a100&ib".
        nodelist: nodes that must be among them.
        exclude: nodes that must not.
        exclusive: no other job on the nodes; "user", "mcs" or "topo" are weaker.
        signal: a signal before the end, "B:USR1@300".
        array: a job array, "0-9" or "1,5,7-20:2%4"; every element runs the same with another
            SLURM_ARRAY_TASK_ID.
        dependency: jobs to wait for, "afterok:123".
        begin: not before, "now+1hour".
        requeue: whether Slurm may start the job again after a lost node or a preemption.
        licenses: licenses to take, "matlab:2".
        clusters: clusters of a federation to choose from.
        chdir: working directory of the job.
        output: file for standard output; by default one in the job's private folder.
        error: file for standard error, likewise.
        job_name: readable beginning of the job's name; by default DAG and task.
        comment: beginning of the job's comment.
        components: further components of a heterogeneous job, each a mapping of the
            resource options above: ``[{"nodes": 2, "gpus_per_node": 4}]``.
        sbatch_options: any other options, ``{"switches": "2@10:00", "overcommit": True}``.
        env: environment variables.
        workdir: folder on a file system that login and compute nodes share, for the job's
            private folder; by default that of the connection, and without it
            ``~/.airflow-distrib``.
    """

    nodes: int | str | None = None
    ntasks: int | str | None = None
    ntasks_per_node: int | str | None = None
    cpus_per_task: int | str | None = None
    gpus: int | str | None = None
    gpus_per_node: int | str | None = None
    gpus_per_task: int | str | None = None
    gres: str | Sequence[str] | None = None
    mem: str | None = None
    mem_per_cpu: str | None = None
    mem_per_gpu: str | None = None
    time: int | str | None = None
    partition: str | Sequence[str] | None = None
    qos: str | None = None
    account: str | None = None
    reservation: str | None = None
    constraint: str | None = None
    nodelist: str | Sequence[str] | None = None
    exclude: str | Sequence[str] | None = None
    exclusive: bool | str | None = None
    signal: str | None = None
    array: str | None = None
    dependency: str | None = None
    begin: str | None = None
    requeue: bool | str | None = None
    licenses: str | Sequence[str] | None = None
    clusters: str | Sequence[str] | None = None
    chdir: str | None = None
    output: str | None = None
    error: str | None = None
    job_name: str | None = None
    comment: str | None = None
    components: Sequence[Mapping[str, object]] | None = None
    sbatch_options: Mapping[str, object] | None = None
    env: Mapping[str, str] | None = None
    workdir: str | None = None

    sizes: ClassVar[tuple[str, ...]] = ("nodes", "cpus_per_task", "mem", "gpus_per_node")
    # Names in other tools that run jobs on Slurm.
    elsewhere: ClassVar[Mapping[str, str]] = {
        "ssh_config": "host, user and key of the login node are an Airflow connection of type ssh; "
        "name it in the operator's ssh_conn_id",
        "sbatch_config": "options of sbatch are fields of this config, time='0-01:00'; "
        "those that it has no field for go into sbatch_options",
        "batch_script_path": "write SlurmScriptOperator(script_path=...)",
        "batch_script_args": "write SlurmScriptOperator(arguments=...)",
        "script_path": "write SlurmScriptOperator(script_path=...)",
        "inputs": "write SlurmShellOperator(inputs=...)",
        "outputs": "write SlurmShellOperator(outputs=...)",
        "output_locs": "write SlurmShellOperator(outputs=...)",
    }
    checks: ClassVar[Mapping[str, Check]] = {
        "nodes": matching(_NODES, "2 or '2-4'"),
        "ntasks": config.whole(1),
        "ntasks_per_node": config.whole(1),
        "cpus_per_task": config.whole(1),
        "gpus": word,
        "gpus_per_node": word,
        "gpus_per_task": word,
        "gres": words,
        "mem": matching(_MEMORY, "'16G'"),
        "mem_per_cpu": matching(_MEMORY, "'4G'"),
        "mem_per_gpu": matching(_MEMORY, "'40G'"),
        "time": matching(_TIME, "90 (minutes) or '1-12:00:00'"),
        "partition": words,
        "qos": word,
        "account": word,
        "reservation": word,
        "constraint": word,
        "nodelist": words,
        "exclude": words,
        "exclusive": exclusive_of,
        "signal": matching(_SIGNAL, "'USR1@300' or 'B:USR1@300'"),
        "array": matching(_ARRAY, "'0-9' or '1,5,7-20:2%4'"),
        "dependency": word,
        "begin": word,
        "requeue": config.flag,
        "licenses": words,
        "clusters": words,
        "chdir": absolute_path,
        "output": word,
        "error": word,
        "job_name": word,
        "comment": word,
        "components": _components,
        "sbatch_options": _free,
        "env": config.environment,
        "workdir": absolute_path,
    }

    # Resource options that a component of a heterogeneous job may have of its own.
    _OF_COMPONENTS: ClassVar[tuple[str, ...]] = (
        *("nodes", "ntasks", "ntasks_per_node", "cpus_per_task", "gpus", "gpus_per_node", "gpus_per_task", "gres"),
        *("mem", "mem_per_cpu", "mem_per_gpu", "partition", "constraint", "nodelist", "exclude", "exclusive"),
        "licenses",
    )
    _NO_OPTIONS: ClassVar[tuple[str, ...]] = ("components", "sbatch_options", "env", "workdir")

    def check_together(self) -> None:
        memory = [name for name in ("mem", "mem_per_cpu", "mem_per_gpu") if getattr(self, name) is not None]
        if len(memory) > 1:
            raise ConfigError(memory[1], f"excludes {memory[0]}; set only one of them")
        if self.array is not None:
            if self.components:
                raise ConfigError("components", "a job array cannot be heterogeneous")
            if len(elements(self.array)) > MAX_ELEMENTS:
                raise ConfigError("array", f"has more than {MAX_ELEMENTS} elements")
        for name in ("env", "sbatch_options"):
            for key, value in (getattr(self, name) or {}).items():
                if "\0" in str(value):
                    raise ConfigError(f"{name}[{key!r}]", "holds a zero byte, which no shell takes")
        for key in self.env or {}:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
                raise ConfigError("env", f"{key!r} cannot be the name of a shell's variable")

    @classmethod
    def option_fields(cls) -> tuple[str, ...]:
        """Fields that are options of sbatch."""
        return tuple(each.name for each in dataclasses.fields(Sbatch) if each.name not in cls._NO_OPTIONS)

    @classmethod
    def from_component(cls, where: str, given: object) -> dict[str, object]:
        """Check one further component of a heterogeneous job."""
        if not isinstance(given, Mapping):
            raise ConfigError(where, f"must be a mapping of resource options; got {given!r}")
        for name in given:
            if name not in cls._OF_COMPONENTS:
                raise ConfigError(f"{where}[{name!r}]", f"a component takes {', '.join(cls._OF_COMPONENTS)}")
        try:
            checked = Sbatch(**given)
        except ConfigError as error:
            raise ConfigError(f"{where}.{error.field}", error.problem) from None
        return {name: value for name, value in checked.values().items() if value is not None}

    @property
    def tasks(self) -> int | None:
        """Tasks of the job, the world size of a function; None where only Slurm knows."""
        implied = any(name.startswith("ntasks-per-") for name in self.sbatch_options or {})
        total = None if implied and self.ntasks is None else _tasks(self.values())
        for each in self.components or ():
            more = _tasks(each)
            total = None if total is None or more is None else total + more
        return total

    @property
    def world_size(self) -> int | None:
        """The same by its usual name."""
        return self.tasks


def _tasks(options: Mapping[str, Any]) -> int | None:
    if config.holds_template(list(options.values())):
        return None
    if options.get("ntasks"):
        return int(options["ntasks"])
    if options.get("gpus_per_task"):
        return None
    nodes = str(options.get("nodes") or 1)
    return int(nodes) * int(options.get("ntasks_per_node") or 1) if nodes.isdecimal() else None


class Slurm(Sbatch):
    """A Python function on the tasks of a Slurm job: its resources, and where its Python is.

    Attributes:
        script: a batch script around the ranks, which start where it says ``{task.fn}``, a
            command of its own; everything else in it is the shell's, and its ``#SBATCH`` lines
            count where the config sets nothing else. By default just the ranks.
        modules: environment modules to load, "python/3.12".
        venv: folder of a virtual environment to activate.
        conda_env: name or folder of a conda environment to activate.
        setup: further lines of shell before the ranks start.
        srun: whether ``srun`` starts the ranks; by default where there are several, or a
            ``container_image``.
        srun_options: further options of srun, as words.
        apptainer_image: image that Apptainer (or Singularity) runs the ranks in.
        apptainer_options: further options of ``apptainer exec``, as words: "--nv".
        container_image: image that the Pyxis plugin of srun runs the ranks in (Enroot).
        container_mounts: "source:target" mounts for it; the private folder is mounted anyway.
        master_port: port that rank 0 listens on; by default one that depends on the job's id.

    All options of :class:`~airflow_distrib.Sbatch` besides.
    """

    script: str | None = None
    modules: Sequence[str] | None = None
    venv: str | None = None
    conda_env: str | None = None
    setup: Sequence[str] | None = None
    srun: bool | str | None = None
    srun_options: Sequence[str] | None = None
    apptainer_image: str | None = None
    apptainer_options: Sequence[str] | None = None
    container_image: str | None = None
    container_mounts: Sequence[str] | None = None
    master_port: int | str | None = None

    literal: ClassVar[frozenset[str]] = frozenset({"script", "setup"})
    checks: ClassVar[Mapping[str, Check]] = {
        **Sbatch.checks,
        "script": config.text,
        "modules": words_of_shell,
        "venv": absolute_path,
        "conda_env": word,
        "setup": lines,
        "srun": config.flag,
        "srun_options": words_of_shell,
        "apptainer_image": word,
        "apptainer_options": words_of_shell,
        "container_image": word,
        "container_mounts": words_of_shell,
        "master_port": config.whole(1, 65535),
    }

    def check_together(self) -> None:
        super().check_together()
        if self.script is not None and self.script.count(PLACE) != 1:
            raise ConfigError("script", f"must say {PLACE} exactly once, where the ranks are to start")
        if self.apptainer_image and self.container_image:
            raise ConfigError("container_image", "excludes apptainer_image; set only one of them")
        if self.apptainer_options and not self.apptainer_image:
            raise ConfigError("apptainer_options", "needs apptainer_image")
        if self.container_mounts and not self.container_image:
            raise ConfigError("container_mounts", "needs container_image")
        if self.venv and self.conda_env:
            raise ConfigError("conda_env", "excludes venv; set only one of them")
        if self.srun is False and (self.srun_options or self.container_image or self.tasks != 1):
            raise ConfigError("srun", "cannot be False with several tasks, srun_options or container_image")

    @property
    def uses_srun(self) -> bool:
        """Whether srun starts the ranks."""
        if self.srun is not None:
            return bool(self.srun)
        return self.tasks != 1 or bool(self.srun_options) or self.container_image is not None


# Where a function's script wants its ranks.
PLACE = "{task.fn}"


def elements(array: str) -> list[int]:
    """Indexes of a job array, in order: ``"1,5-9:2%4"`` is 1, 5, 7, 9."""
    found: set[int] = set()
    for part in array.partition("%")[0].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        if int(last or first) - int(first) > 10_000_000:
            raise ConfigError("array", f"has more than {MAX_ELEMENTS} elements")
        found.update(range(int(first), int(last or first) + 1, max(1, int(step or 1))))
    return sorted(found)
