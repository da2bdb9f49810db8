"""A shell script that the DAG holds, with inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from airflow_distrib.core import config as configs
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.jobs.launcher import Argument
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.systems.slurm import directives, interpolation, script
from airflow_distrib.systems.slurm.config import Sbatch
from airflow_distrib.systems.slurm.outputs import SlurmOutput
from airflow_distrib.systems.slurm.submission import (
    JOB_SCRIPT,
    SbatchCall,
    SlurmSubmission,
    passing_on,
    submission,
)


def check_script(name: str, value: object) -> str:
    """Check for a script in which all places can stand, whatever their values."""
    text = configs.text(name, value)
    for number, line in enumerate(script.dedented(text).split("\n"), 1):
        if line.startswith("#SBATCH") and interpolation.PLACE.search(line):
            raise ConfigError(name, f"line {number}: #SBATCH lines are no shell; use task_config=Sbatch(...)")
    if script.is_shell(text):
        _read(text)
    elif interpolation.PLACE.search(text):
        raise ConfigError(name, "takes inputs and outputs only if it is one of sh or bash; use env for others")
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
        text: with variables in its places.
        inputs: text by name, or a path below the private folder for what is uploaded.
    """

    text: str
    inputs: Mapping[str, str]
    uploaded: Mapping[str, str]
    outputs: Mapping[str, SlurmOutput]
    folder_for_output = True

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


def _read(text: str) -> interpolation.Script:
    return interpolation.read(script.dedented(text), sure=script.evaluates_little(text))


def check_known(text: str, inputs: object, outputs: object) -> None:
    """Check what is known when the DAG file is parsed; templates and upstream outputs still have to come.

    Raises:
        ConfigError: a place without a value, a value without a place, or one that could run as code.
    """
    if script.is_shell(text) and isinstance(inputs, Mapping) and isinstance(outputs, Mapping):
        places = {name: None if _comes(each) else each.remote("/folder", name) for name, each in outputs.items()}
        texts = {
            name: None if _comes(each) or _is_file(each) else interpolation.text_of(f"inputs.{name}", each)
            for name, each in inputs.items()
        }
        _check(_read(text), {"inputs": texts, "outputs": places}, outputs)


def _comes(value: object) -> bool:
    return configs.holds_template(value.values() if isinstance(value, configs.Config) else value)


def _is_file(value: object) -> bool:
    """Files and folders are Airflow's ObjectStoragePath, known by its shape."""
    return hasattr(value, "protocol")


def _check(
    made: interpolation.Script, values: Mapping[str, Mapping[str, str | None]], outputs: Mapping[str, object]
) -> None:
    # The user's home is of no matter: ~ is written out before the script begins.
    homes = {name: text and text.removeprefix("~") for name, text in values["outputs"].items()}
    made.check({**values, "outputs": homes})
    # The script itself may know where an output is.
    private = {name: each for name, each in outputs.items() if isinstance(each, SlurmOutput) and each.location is None}
    for kind, names in (("inputs", values["inputs"]), ("outputs", private)):
        if unused := made.unused(kind, names):
            raise ConfigError(f"{kind}.{unused}", f"is not in the script; put {{{kind}.{unused}}} there, or remove it")


def of_shell(config: Sbatch, request: JobRequest) -> SlurmSubmission:
    """Render the script with its variables.

    Raises:
        ConfigError: a place without a value, a value without a place, or one that could run as code.
    """
    arguments = request.arguments
    text, outputs, inputs = arguments["script"], arguments.get("outputs") or {}, arguments.get("inputs") or {}
    if not script.is_shell(text) and (inputs or outputs):
        raise ConfigError("inputs" if inputs else "outputs", "are for scripts of sh or bash; use env for others")
    files = {name: value for name, value in inputs.items() if _is_file(value)}
    paths = {name: f"inputs/{name}/{place.name or name}" for name, place in files.items()}
    texts = {
        name: interpolation.text_of(f"inputs.{name}", value) for name, value in inputs.items() if name not in files
    }
    config = directives.applied(config, script.dedented(text))
    made = _read(text) if script.is_shell(text) else interpolation.Script(text)
    body = ShellBody(made.text, texts, paths, outputs)
    _check(made, body.values(config.workdir or "/folder"), outputs)
    return submission(
        config, request, body, uploads={paths[name]: each for name, each in files.items()}, outputs=outputs
    )
