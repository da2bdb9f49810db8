"""Batch scripts: pure text, from a config and what runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.slurm import directives
from airflow_distrib.systems.slurm.config import PLACE, Slurm
from airflow_distrib.systems.slurm.shell_syntax import bare, nodes, parsed

# Variables of the prelude; the user's own script sees them too.
FOLDER = "AIRFLOW_DISTRIB_FOLDER"
# Where the ranks of one element, or of the job, leave their outcomes; the runner reads it.
RANKS = "AIRFLOW_DISTRIB_RANKS"
RANKS_SCRIPT = "ranks.sh"
_SHELLS = re.compile(r"#!\s*(?:/\S+/env\s+(?:-\S+\s+)*)?(?:\S*/)?(?:ba|da|k|z)?sh\b.*")

_OTHERS = re.compile(r"#![^\n]*[kz]sh\b")

# Stands for the ranks while the script is parsed.
_COMMAND = "airflow_distrib_ranks"

# Ports that neither services nor the kernel's own choice take, one for each job of a node.
_FIRST_PORT, _PORTS = 20000, 10000

# The address by which Slurm itself reaches the first node; a node's name need not resolve.
_FIRST_NODE = f"""\
if [ -z "${{MASTER_ADDR:-}}" ]; then
  airflow_first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  MASTER_ADDR=$(scontrol --oneliner show node "$airflow_first" | sed -n 's/.* NodeAddr=\\([^ ]*\\).*/\\1/p')
  MASTER_ADDR=${{MASTER_ADDR:-$airflow_first}}
fi
MASTER_PORT=${{MASTER_PORT:-$(({_FIRST_PORT} + SLURM_JOB_ID % {_PORTS}))}}
export MASTER_ADDR MASTER_PORT
# srun takes the number of cores from here since Slurm 22.05, and gives each task one otherwise.
if [ -n "${{SLURM_CPUS_PER_TASK:-}}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi"""

_MODULES = """\
if ! type module >/dev/null 2>&1; then
  for airflow_init in /etc/profile.d/modules.sh /etc/profile.d/lmod.sh /usr/share/lmod/lmod/init/bash \
/usr/share/modules/init/bash; do
    if [ -r "$airflow_init" ]; then . "$airflow_init"; break; fi
  done
fi"""

_CONDA = """\
airflow_conda=$(command -v conda || echo "${CONDA_EXE:-}")
if [ -z "$airflow_conda" ]; then echo "airflow_distrib: there is no conda on $(hostname)" >&2; exit 127; fi
. "$("$airflow_conda" info --base)/etc/profile.d/conda.sh"
"""


def is_shell(script: str) -> bool:
    """Whether a script is one of sh, bash and the like; one that does not say is."""
    first = plain(script).partition("\n")[0]
    return not first.startswith("#!") or bool(_SHELLS.fullmatch(first.strip()))


def evaluates_little(script: str) -> bool:
    """Whether a script is for bash or sh, which unlike ksh and zsh calculate only where they are told to."""
    return is_shell(script) and not _OTHERS.match(plain(script))


def plain(script: str) -> str:
    """A script as it is meant: indented in a DAG file, begun on the line after the quotes, or with a Windows editor."""
    return dedented(script).lstrip("\n")


def dedented(script: str) -> str:
    """The same with all of its lines.

    Nothing else changes: text in quotes may hold blanks, carriage returns and form feeds of its own.
    """
    if "\n" in script and script.count("\r\n") == script.count("\n"):
        script = script.replace("\r\n", "\n")
    lines = script.split("\n")
    filled = [line for line in lines if line.strip(" \t")]
    margin = next((line[: len(line) - len(line.lstrip(" \t"))] for line in filled), "")
    while any(not line.startswith(margin) for line in filled):
        margin = margin[:-1]
    return "\n".join(line.removeprefix(margin) if line.strip(" \t") else line[len(margin) :] for line in lines)


def with_prelude(script: str, prelude: Sequence[str]) -> str:
    """A batch script with lines before its first command, after its ``#SBATCH`` lines."""
    lines = plain(script).removesuffix("\n").split("\n")
    if not lines[0].startswith("#!"):
        lines.insert(0, "#!/bin/bash")
    head = next((n for n, line in enumerate(lines) if line.strip(" \t") and not line.startswith("#")), len(lines))
    return "\n".join([*lines[:head], *prelude, *lines[head:]]) + "\n"


def prelude(folder: str, environment: Mapping[str, str]) -> list[str]:
    """Where the job's folder is, how the script ends, and the user's environment."""
    lines = [f"{FOLDER}={shlex.quote(folder)}"]
    # For a job that Slurm has forgotten by the time anybody asks.
    exit_file = f'"${FOLDER}/exit${{SLURM_ARRAY_TASK_ID:+.$SLURM_ARRAY_TASK_ID}}"'
    # A shell that gets a signal would note how the command before it had ended.
    lines += [f"rm -f -- {exit_file}", f'trap \'printf "%s\\n" "$?" >{exit_file}\' EXIT', "trap 'exit 143' TERM"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return lines


def of_function(
    config: Slurm, folder: str, python: str, *, arguments: Sequence[str], defaults: Mapping[str, str]
) -> tuple[str, str]:
    """The batch script of a function, and the script that starts its ranks.

    The second is one of its own, so that its place in the user's script takes one simple command:
    after ``if !``, after variables, after ``timeout 1h``.

    Args:
        arguments: further options of srun.
        defaults: environment variables that the user's own win over.
    """
    environment = {**defaults, **(config.env or {})}
    body = [*_python(config), *(config.setup or ()), _FIRST_NODE]
    if config.master_port is not None:
        body.insert(0, f"MASTER_PORT={int(config.master_port)}")
    ranks = _ranks(config, folder, python, arguments)
    script = config.script or f"#!/bin/bash\n{PLACE}\n"
    before = [*prelude(folder, environment), *_strictly(body), *_clean_start()]
    return with_prelude(script, before).replace(PLACE, f"sh {shlex.quote(f'{folder}/{RANKS_SCRIPT}')}"), f"{ranks}\n"


def checked_script(config: Slurm) -> Slurm:
    """Check the user's script around the ranks, and take over what its ``#SBATCH`` lines say.

    Raises:
        ConfigError: it is no script of a shell, or the ranks cannot start where it says so.
    """
    if config.script is None:
        return config
    if not is_shell(config.script):
        raise ConfigError("script", "must be a script of sh or bash, where the ranks can be started")
    text = dedented(config.script)
    config = directives.applied(config, text)
    if evaluates_little(text):
        _check_place(config, text)
    return config


def _check_place(config: Slurm, text: str) -> None:
    """The place must be a command, which starts the ranks once."""
    line = text[: text.index(PLACE)].count("\n") + 1
    calls = [each["Args"] for each in nodes(parsed(text.replace(PLACE, _COMMAND))) if each.get("Args")]
    call = next((words for words in calls if _COMMAND in map(bare, words)), None)
    if call is None:
        raise ConfigError(
            "script", f"line {line} says {PLACE} in a comment, in quotes or in a word; it must be a command of its own"
        )
    before = [bare(each) for each in call]
    starters = ["mpirun", "mpiexec", *(["srun"] if config.uses_srun else [])]
    if found := [each for each in before[: before.index(_COMMAND)] if each in starters]:
        raise ConfigError(
            "script",
            f"line {line} says {found[0]} before {PLACE}, which starts the ranks by itself; remove {found[0]}, and "
            "write its options into srun_options",
        )


def _strictly(lines: list[str]) -> list[str]:
    """Stop at the first of our lines that fails, but leave the user's script its own mode."""
    return ["case $- in *e*) airflow_e= ;; *) airflow_e=yes; set -e ;; esac", *lines, '[ -z "$airflow_e" ] || set +e']


def _clean_start() -> list[str]:
    """A job that Slurm starts again must not find what the ranks of its first start left."""
    place = f'"${RANKS}"'
    return [
        f'export {RANKS}="${FOLDER}/ranks${{SLURM_ARRAY_TASK_ID:+.$SLURM_ARRAY_TASK_ID}}"',
        f"rm -rf -- {place}",
        # Without -p: where the job is given up meanwhile, nothing may make its folder again.
        f"mkdir -- {place}",
    ]


def _python(config: Slurm) -> list[str]:
    lines = []
    if config.modules:
        lines += [_MODULES, *(f"module load {shlex.quote(name)}" for name in config.modules)]
    if config.conda_env:
        lines.append(f"{_CONDA}conda activate {shlex.quote(config.conda_env)}")
    if config.venv:
        lines.append(f". {path(config.venv)}/bin/activate")
    return lines


def path(given: str) -> str:
    """A path as a word of shell; ``~/`` is the user's home there."""
    if given == "~":
        return '"$HOME"'
    return f'"$HOME"/{shlex.quote(given[2:])}' if given.startswith("~/") else shlex.quote(given)


def _ranks(config: Slurm, folder: str, python: str, arguments: Sequence[str]) -> str:
    """The command that starts the ranks."""
    interpreter = path(python)
    runner = [interpreter, "-u", shlex.quote(f"{folder}/runner.pyz"), shlex.quote(f"{folder}/spec.json")]
    if config.apptainer_image:
        inside = ["exec", "--bind", folder, *(config.apptainer_options or ())]
        program = '"$(command -v apptainer || command -v singularity)"'
        runner = [program, *map(shlex.quote, inside), path(config.apptainer_image), *runner]
    found = [*_srun(config, folder, arguments), *runner]
    else_one = "" if found[0] == "srun" else "SLURM_NTASKS=${SLURM_NTASKS:-1} "
    check = ""
    if not (config.apptainer_image or config.container_image):
        missing = (
            f"airflow_distrib: there is no Python {python!r} on node $(hostname): set python=, modules=, venv= or "
        )
        missing += "conda_env="
        check = f"command -v {interpreter} >/dev/null || {{ echo {_double(missing)} >&2; exit 127; }}\n"
    return f"{check}{else_one}exec {' '.join(found)}" if not else_one else f"{check}{else_one}{' '.join(found)}"


def _double(text: str) -> str:
    """Text in double quotes in which only ``$(hostname)`` is the shell's."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("`", "\\`").replace("$", "\\$")
    return '"' + escaped.replace("\\$(hostname)", "$(hostname)") + '"'


def _srun(config: Slurm, folder: str, arguments: Sequence[str]) -> list[str]:
    if not config.uses_srun and not arguments:
        return []
    # One rank that fails ends the others, which would wait for it.
    words = ["--kill-on-bad-exit=1", *arguments]
    if config.components:
        words.append(f"--het-group=0-{len(config.components)}")
    if config.container_image:
        mounts = [f"{folder}:{folder}", *(config.container_mounts or ())]
        words += [f"--container-image={config.container_image}", f"--container-mounts={','.join(mounts)}"]
    return ["srun", *map(shlex.quote, [*words, *(config.srun_options or ())])]
