"""A shell script that the DAG holds, with inputs and outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from airflow_distrib.core import config as configs
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.jobs.launcher import Argument
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.systems.slurm import interpolation, script
from airflow_distrib.systems.slurm.config import Sbatch
from airflow_distrib.systems.slurm.outputs import SlurmOutput
from airflow_distrib.systems.slurm.submission import (
    JOB_SCRIPT,
    SbatchCall,
    SlurmSubmission,
    passing_on,
    sets_time,
    submission,
)


def check_script(name: str, value: object) -> str:
    """Check for a script; placeholders that would stay as they are, which nobody means, are refused."""
    text = configs.text(name, value)
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#SBATCH") and interpolation.PLACE.search(line):
            raise ConfigError(name, f"line {number}: #SBATCH lines are no shell; use task_config=Sbatch(...)")
        if wrong := re.search(r"\{(input|output)\.\w+\}", line):
            raise ConfigError(name, f"line {number} says {wrong[0]}; write {{{wrong[1]}s. ...}}")
    return text


def check_inputs(name: str, value: object) -> Mapping[str, object]:
    """Check for a mapping by name."""
    if not isinstance(value, Mapping):
        raise ConfigError(name, f"must be a mapping by name; got {value!r}")
    for key in value:
        if not isinstance(key, str) or not interpolation.NAME.fullmatch(key):
            raise ConfigError(f"{name}[{key!r}]", "must be a name of letters, digits and _")
    return value


def check_outputs(name: str, value: object) -> dict[str, object]:
    """Check for outputs by name; those that an upstream task still has to say stay as they are."""
    check = configs.of(SlurmOutput)
    return {
        key: each if configs.is_template(each) else check(f"{name}.{key}", each)
        for key, each in check_inputs(name, value).items()
    }


ARGUMENTS = (
    Argument("script", check_script, templated=False, runs=True, part_of_job=True),
    Argument("inputs", check_inputs, renderer="json", part_of_job=True),
    Argument("outputs", check_outputs, renderer="json", part_of_job=True),
)


@dataclass(frozen=True)
class ShellBody:
    """A script with variables before its first command.

    Attributes:
        text: with the variables in it that its placeholders stand for.
        inputs: text by name, or a path below the private folder for what is uploaded.
    """

    text: str
    inputs: Mapping[str, str]
    uploaded: Mapping[str, str]
    outputs: Mapping[str, SlurmOutput]
    folder_for_output = True

    @property
    def own_time(self) -> bool:
        return sets_time(self.text)

    def values(self, folder: str) -> dict[str, dict[str, str]]:
        """What the placeholders stand for."""
        files = {name: f"{folder}/{path}" for name, path in self.uploaded.items()}
        return {
            "inputs": {**self.inputs, **files},
            "outputs": {name: each.remote(folder, name) for name, each in self.outputs.items()},
        }

    def call(self, config: Sbatch, folder: str, words: list[str], streams: tuple[str, str]) -> SbatchCall:
        exports: dict[str, str] = {}
        if script.is_shell(self.text):
            lines = [*script.prelude(folder, config.env or {}), *self._variables(folder)]
            whole = script.with_prelude(self.text, lines)
        else:
            # Python, Perl and so on: nothing can be put in front of them.
            whole, exports = script.plain(self.text), {**(config.env or {}), script.FOLDER: folder}
            words = [*words, *passing_on(config)]
        return SbatchCall([*words, f"{folder}/{JOB_SCRIPT}"], {JOB_SCRIPT: whole.encode()}, *streams, exports)

    def _variables(self, folder: str) -> list[str]:
        """Set the variables, and make the folder for outputs that stay in the private one."""
        home = {name for name, each in self.outputs.items() if each.location and each.location.startswith("~/")}
        lines = interpolation.assignments(self.values(folder))
        for name in sorted(home):
            variable = interpolation.variable("outputs", name)
            lines.append(f'{variable}="$HOME"/${{{variable}#"~/"}}')
        kept = [each for each in self.outputs.values() if each.location is None]
        return [*lines, f'mkdir -p -- "${script.FOLDER}"/outputs'] if kept else lines


def of_shell(config: Sbatch, request: JobRequest) -> SlurmSubmission:
    """Render the script with its variables.

    Raises:
        ConfigError: a placeholder without a value, or where a value could run as code.
    """
    arguments = request.arguments
    text, outputs = arguments["script"], arguments.get("outputs") or {}
    if not script.is_shell(text) and interpolation.PLACE.search(text):
        raise ConfigError("script", "takes inputs and outputs only if it is one of sh or bash; use env for others")
    inputs = arguments.get("inputs") or {}
    # Files and folders are Airflow's ObjectStoragePath, known by its shape.
    files = {name: value for name, value in inputs.items() if hasattr(value, "protocol")}
    paths = {name: f"inputs/{name}/{place.name or name}" for name, place in files.items()}
    texts = {
        name: interpolation.text_of(f"inputs.{name}", value) for name, value in inputs.items() if name not in files
    }
    unplaced = ShellBody(text, texts, paths, outputs)
    body = ShellBody(interpolation.interpolated(text, unplaced.values("/folder")), texts, paths, outputs)
    uploads = {paths[name]: place for name, place in files.items()}
    return submission(config, request, body, uploads=uploads, outputs=outputs)
