"""What is submitted to Slurm for one try of a task: frozen values, rendered from a config."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from airflow_distrib.core import archive
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.jobs.launcher import Submission
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.runner import spec as specs
from airflow_distrib.runner.spec import ElasticSpec, Spec
from airflow_distrib.systems.slurm import options, script
from airflow_distrib.systems.slurm.config import Sbatch, Slurm, elements
from airflow_distrib.systems.slurm.outputs import SlurmOutput

JOB_SCRIPT, SPEC, PAYLOAD, RUNNER = "job.sh", "spec.json", "payload", "runner.pyz"
STDOUT, STDERR = "stdout", "stderr"
# Slurm's own placeholder for an element's index in the name of a file.
ELEMENT = "%a"


@dataclass(frozen=True)
class SbatchCall:
    """How sbatch is called, once the job's private folder is known.

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


class Body(Protocol):
    """What a job runs."""

    @property
    def folder_for_output(self) -> bool:
        """Whether output goes to the private folder by default; otherwise Slurm decides."""

    def call(self, config: Sbatch, folder: str, words: list[str], streams: tuple[str, str]) -> SbatchCall:
        """Complete the call of sbatch, whose options are ``words``."""


@dataclass(frozen=True, kw_only=True)
class SlurmSubmission(Submission):
    """One try's job.

    Attributes:
        seconds: after how long Slurm itself is to end the job.
        uploads: files and folders that go to the private folder too, by name.
        outputs: what the script writes, by name.
    """

    config: Sbatch
    body: Body
    seconds: int | None = None
    uploads: Mapping[str, object] = field(default_factory=dict)
    outputs: Mapping[str, SlurmOutput] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """Digest of the task instance, the name of the folder of all its tries."""
        return self.identity.task_digest

    @property
    def attempt(self) -> str:
        """Name of this try's folder in it."""
        return f"{self.identity.try_number}-{self.identity.digest}"

    @property
    def array(self) -> list[int]:
        """Indexes of the job array; empty for a single job."""
        return elements(self.config.array) if self.config.array else []

    def call(self, folder: str) -> SbatchCall:
        """The call of sbatch, with the files of the private folder."""
        config = self.config
        fixed: dict[str, object] = {"job_name": self.name, "comment": options.comment(config, self.identity)}
        where = {"output": "", "error": ""}
        if self.body.folder_for_output:
            end = f".{ELEMENT}" if config.array else ""
            for field_name, file in (("output", STDOUT), ("error", STDERR)):
                if getattr(config, field_name) is None:
                    where[field_name] = fixed[field_name] = f"{folder}/{file}{end}"
            if config.output is None and "open-mode" not in (config.sbatch_options or {}):
                # One that Slurm starts again goes on with the same file.
                fixed["open_mode"] = "append"
        if config.time is None and self.seconds is not None:
            fixed["time"] = -(-self.seconds // 60)
        return self.body.call(config, folder, options.words(config, fixed), (where["output"], where["error"]))

    def shown(self) -> dict[str, object]:
        call = self.call("<private folder>")
        found: dict[str, object] = {"name": self.name, "sbatch": [*call.words]}
        for name, key in ((JOB_SCRIPT, "script"), (script.RANKS_SCRIPT, "ranks")):
            if name in call.files:
                found[key] = call.files[name].decode().splitlines()
        if SPEC in call.files:
            found["spec"] = json.loads(call.files[SPEC])
        return found


def submission(config: Sbatch, request: JobRequest, body: Body, **fields: Any) -> SlurmSubmission:
    """Complete what is common to all jobs.

    Raises:
        ConfigError: ``log_elements`` names elements that the job has not.
    """
    parts = _log_parts(config, request.arguments.get("log_elements"))
    return SlurmSubmission(
        identity=request.identity,
        name=options.job_name(config, request.identity),
        returns=request.runs_function,
        payload=request.payload,
        log=request.shows_log,
        log_parts=parts or None,
        named=len(parts) > 1,
        config=config,
        body=body,
        seconds=request.deadline_seconds,
        **fields,
    )


def _log_parts(config: Sbatch, asked: object) -> tuple[str, ...]:
    array = elements(config.array) if config.array else []
    if not asked:
        return tuple(map(str, array[:1]))
    if not array:
        raise ConfigError("log_elements", "is for job arrays; set array, or remove it")
    wanted = asked if isinstance(asked, list) else array
    if beyond := [index for index in wanted if index not in array]:
        raise ConfigError("log_elements", f"the array {config.array!r} has no element {beyond[0]}")
    return tuple(str(index) for index in array if index in wanted)


@dataclass(frozen=True)
class FunctionBody:
    """A function on the job's ranks.

    Attributes:
        spec: the runner's.
        python: interpreter of the ranks.
        arguments: further options of srun.
        defaults: environment variables that the user's own win over.
    """

    spec: Spec
    python: str
    arguments: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    folder_for_output = True

    def call(self, config: Sbatch, folder: str, words: list[str], streams: tuple[str, str]) -> SbatchCall:
        assert isinstance(config, Slurm)
        text, ranks = script.of_function(config, folder, self.python, arguments=self.arguments, defaults=self.defaults)
        spec = self.spec._replace(payload_file=f"{folder}/{PAYLOAD}")
        files = {JOB_SCRIPT: text.encode(), script.RANKS_SCRIPT: ranks.encode()}
        files |= {SPEC: spec.to_json().encode(), RUNNER: archive.build()}
        return SbatchCall([*words, f"{folder}/{JOB_SCRIPT}"], files, *streams)


def of_function(
    config: Slurm,
    request: JobRequest,
    *,
    mode: str = specs.ENVIRONMENT,
    elastic: ElasticSpec | None = None,
    defaults: Mapping[str, str] | None = None,
) -> SlurmSubmission:
    """A function on every task.

    Args:
        mode: of the runner, which may start several ranks itself.
        elastic: what torchrun would be told.

    Raises:
        ConfigError: options that exclude each other.
    """
    config = script.checked_script(config)
    values = {
        "scratch": f"${script.RANKS}",
        "payload_sha256": hashlib.sha256(request.payload or b"").hexdigest(),
        **request.options(),
    }
    spec = Spec(mode, "", elastic=elastic, **values)
    arguments = ("--ntasks-per-node=1",) if mode == specs.ELASTIC else ()
    body = FunctionBody(spec, request.python or "python3", arguments, defaults or {})
    return submission(config, request, body)


@dataclass(frozen=True)
class ScriptBody:
    """A script that is on the cluster."""

    path: str
    arguments: tuple[str, ...]
    folder_for_output = False

    def call(self, config: Sbatch, folder: str, words: list[str], streams: tuple[str, str]) -> SbatchCall:
        del folder
        exports = dict(config.env or {})
        passed = passing_on(config) if exports else []
        return SbatchCall([*words, *passed, self.path, *self.arguments], {}, *streams, exports, self.path)


def of_script(config: Sbatch, request: JobRequest) -> SlurmSubmission:
    """A script that is on the cluster, with its arguments."""
    arguments = request.arguments
    return submission(config, request, ScriptBody(arguments["script_path"], tuple(arguments.get("arguments") or ())))


def passing_on(config: Sbatch) -> list[str]:
    """That sbatch hands its environment on, unless the user says what of it."""
    return [] if "export" in (config.sbatch_options or {}) else ["--export=ALL"]
