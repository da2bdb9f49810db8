"""What is submitted for one try of a task: pure, made by each operator from its config."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_distrib.backends.elastic.config import Elastic
from airflow_distrib.backends.elastic.render import elastic_spec, nccl_environment
from airflow_distrib.backends.slurm import options, script
from airflow_distrib.backends.slurm.config import Sbatch, Slurm, elements
from airflow_distrib.backends.slurm.outputs import SlurmOutput
from airflow_distrib.core import archive
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.runner import spec as specs
from airflow_distrib.runner.spec import ElasticSpec, Spec

JOB_SCRIPT, SPEC, PAYLOAD, RUNNER = "job.sh", "spec.json", "payload", "runner.pyz"
STDOUT, STDERR = "stdout", "stderr"
_OWN_TIME = re.compile(r"(?m)^\s*#SBATCH\s+(?:--time[=\s]|-t)")
# Slurm's own place for an element's index in the name of a file.
ELEMENT = "%a"


@dataclass(frozen=True)
class Submission:
    """What sbatch is given, once the job's private folder is known.

    Attributes:
        words: of sbatch after ``--parsable``: options, the script, its arguments.
        files: contents of files in the folder, by name.
        stdout: file of standard output, with :data:`ELEMENT` for an array; empty where only Slurm knows.
        stderr: likewise.
        exports: environment variables for sbatch to hand on.
        script: path of a script of the user's on the cluster; None for one in ``files``.
    """

    words: Sequence[str]
    files: Mapping[str, bytes] = field(default_factory=dict)
    stdout: str = ""
    stderr: str = ""
    exports: Mapping[str, str] = field(default_factory=dict)
    script: str | None = None

    def shell_words(self) -> list[str]:
        """The words, quoted; a path that begins with ``~/`` is the user's."""
        return [script.path(word) if word == self.script else _quoted(word) for word in self.words]


def _quoted(word: str) -> str:
    """An option whose value is in the user's home is expanded there: sbatch itself does not."""
    name, equals, value = word.partition("=")
    if name in ("--chdir", "--output", "--error") and value.startswith("~/"):
        return f"{name}{equals}{script.path(value)}"
    return shlex.quote(word)


@dataclass(frozen=True)
class Plan:
    """One try's job.

    Attributes:
        name: of the job, by which it is found again.
        task: digest of the task instance, the name of the folder of all its tries.
        attempt: name of this try's folder in it.
        build: makes the submission from the path of the private folder.
        uploads: files and folders that go there too, by name; each copies itself to a path of this worker.
        outputs: what the script leaves, by name.
    """

    config: Sbatch
    name: str
    task: str
    attempt: str
    build: Callable[[str], Submission]
    uploads: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    outputs: Mapping[str, SlurmOutput] = field(default_factory=dict)

    @property
    def array(self) -> list[int]:
        """Indexes of the job array; empty for a single job."""
        return elements(self.config.array) if self.config.array else []


@dataclass(frozen=True)
class Request:
    """What a task wants besides its config.

    Attributes:
        options: fields of the runner's spec.
        python: interpreter of the ranks.
        deadline_seconds: after how long Slurm itself is to end the job.
        payload: the pickled call, for its digest; None where nothing is submitted.
    """

    identity: JobIdentity
    options: Mapping[str, Any] = field(default_factory=dict)
    python: str = "python3"
    deadline_seconds: int | None = None
    payload: bytes | None = None


def _plan(config: Sbatch, request: Request, build: Callable[[str], Submission], **fields: Any) -> Plan:
    identity = request.identity
    name = options.job_name(config, identity)
    return Plan(config, name, identity.task_digest, f"{identity.try_number}-{identity.digest}", build, **fields)


def _words(
    config: Sbatch, request: Request, folder: str | None, *, own_time: bool = False
) -> tuple[list[str], str, str]:
    """Options of sbatch, and where output and errors go; without a folder Slurm decides.

    Args:
        own_time: the script says itself how long it may run.
    """
    fixed: dict[str, Any] = {
        "job_name": options.job_name(config, request.identity),
        "comment": options.comment(config, request.identity),
    }
    where = {"output": "", "error": ""}
    if folder is not None:
        end = f".{ELEMENT}" if config.array else ""
        for field_name, file in (("output", STDOUT), ("error", STDERR)):
            if getattr(config, field_name) is None:
                # One that Slurm starts again goes on with the same file.
                where[field_name] = fixed[field_name] = f"{folder}/{file}{end}"
        if config.output is None and "open-mode" not in (config.sbatch_options or {}):
            fixed["open_mode"] = "append"
    if config.time is None and request.deadline_seconds is not None and not own_time:
        fixed["time"] = -(-request.deadline_seconds // 60)
    return options.words(config, fixed), where["output"], where["error"]


def of_function(config: Slurm, request: Request, *, elastic: Elastic | None = None) -> Plan:
    """The plan of a function.

    Args:
        elastic: torch's agent on every node, instead of a rank for every task.

    Raises:
        ConfigError: options that exclude each other.
    """
    if elastic is not None:
        config = _of_agents(config, elastic)

    def build(folder: str) -> Submission:
        words, out, err = _words(config, request, folder)
        digest = hashlib.sha256(request.payload or b"").hexdigest()
        values = {
            "scratch": f"${script.RANKS}",
            "payload_file": f"{folder}/{PAYLOAD}",
            "payload_sha256": digest,
            **request.options,
        }
        arguments: list[str] = []
        if elastic is not None and not elastic.calls_directly:
            spec = Spec(specs.ELASTIC, "", elastic=_agent(elastic, request.identity.name()), **values)
            arguments = ["--ntasks-per-node=1"]
        else:
            spec = Spec(specs.ENVIRONMENT, "", **values)
        text, ranks = script.of_function(
            config, folder, request.python, arguments=arguments, defaults=nccl_environment(elastic) if elastic else {}
        )
        files = {JOB_SCRIPT: text.encode(), script.RANKS_SCRIPT: ranks.encode()}
        files |= {SPEC: spec.to_json().encode(), RUNNER: archive.build()}
        return Submission([*words, f"{folder}/{JOB_SCRIPT}"], files, out, err)

    return _plan(config, request, build)


def _of_agents(config: Slurm, elastic: Elastic) -> Slurm:
    """One task on each node: torch's agent, which starts the ranks itself."""
    for name in ("nodes", "ntasks", "ntasks_per_node", "array", "components"):
        if getattr(config, name) is not None:
            raise ConfigError(f"slurm.{name}", "follows from nnodes of the Elastic config; leave it out")
    if elastic.rdzv_backend == "static":
        raise ConfigError("rdzv_backend", "'static' is for launcher='local'; the nodes find each other by c10d")
    nodes = elastic.min_nodes if elastic.min_nodes == elastic.max_nodes else f"{elastic.min_nodes}-{elastic.max_nodes}"
    env = {**(config.env or {}), **(elastic.env or {})}
    return config.merged({"nodes": nodes, "ntasks_per_node": 1, "env": env or None})


def _agent(elastic: Elastic, rendezvous_id: str) -> ElasticSpec:
    """Without an endpoint of the user's it is the first node, which only the job itself knows."""
    return elastic_spec(elastic, rendezvous_id)


def of_script(config: Sbatch, request: Request, path: str, arguments: Sequence[str]) -> Plan:
    """The plan of a script that is on the cluster."""

    def build(folder: str) -> Submission:
        del folder
        words, out, err = _words(config, request, None)
        exports = dict(config.env or {})
        words += _handing_on(config) if exports else []
        return Submission([*words, path, *arguments], {}, out, err, exports, path)

    return _plan(config, request, build)


def _handing_on(config: Sbatch) -> list[str]:
    """That sbatch hands its environment on, unless the user says what of it."""
    return [] if "export" in (config.sbatch_options or {}) else ["--export=ALL"]


def of_text(config: Sbatch, request: Request, text: str, lines: Callable[[str], list[str]], **fields: Any) -> Plan:
    """The plan of a script that the task holds.

    Args:
        lines: sets the script's variables; made from the private folder's path.
    """
    in_shell = script.is_shell(text)

    def build(folder: str) -> Submission:
        words, out, err = _words(config, request, folder, own_time=_OWN_TIME.search(text) is not None)
        exports: dict[str, str] = {}
        if in_shell:
            whole = script.with_prelude(text, [*script.prelude(folder, config.env or {}), *lines(folder)])
        else:
            # Python, Perl and so on: nothing can be put in front of them.
            whole, exports = script.plain(text), {**(config.env or {}), script.FOLDER: folder}
            words += _handing_on(config)
        return Submission([*words, f"{folder}/{JOB_SCRIPT}"], {JOB_SCRIPT: whole.encode()}, out, err, exports)

    return _plan(config, request, build, **fields)
