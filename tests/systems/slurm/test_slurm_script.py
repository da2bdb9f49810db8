"""Batch scripts run in a real bash here, with small scripts that play srun, module, conda and apptainer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_distrib.core import packing
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.runner import report
from airflow_distrib.systems.elastic import slurm as elastic
from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.slurm import shell, submission
from airflow_distrib.systems.slurm.config import Sbatch, Slurm
from airflow_distrib.systems.slurm.outputs import SlurmOutput
from airflow_distrib.systems.slurm.script import with_prelude
from airflow_distrib.systems.slurm.submission import SbatchCall, SlurmSubmission

IDENTITY = JobIdentity("dag", "run", "task", -1, 1, "scope")


class Node:
    """A compute node, which is a folder with commands that note how they are called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job = folder / "my job"
        self.job.mkdir()
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.command("scontrol", 'case "$2" in hostnames) echo n1;; *) echo "x NodeAddr=10.1.2.3 y";; esac')
        # One task, like srun's first.
        skip = 'while [ "${1#-}" != "$1" ]; do shift; done; SLURM_PROCID=0 SLURM_NTASKS=1 exec "$@"'
        self.command("srun", skip)

    def command(self, name: str, text: str) -> None:
        """Put a command into the search path; it notes its words."""
        path = self.bin / name
        path.write_text(f'#!/bin/bash\nprintf "%s\\n" "{name} $*" >>{self.folder}/calls\n{text}\n')
        path.chmod(0o755)

    def run(self, job: SlurmSubmission, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a job's script as Slurm would."""
        for name, content in job.call(str(self.job)).files.items():
            (self.job / name).write_bytes(content)
        if job.payload is not None:
            (self.job / submission.PAYLOAD).write_bytes(job.payload)
        variables = {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_PROCID": "0", **environment}
        return subprocess.run(
            ["bash", self.job / "job.sh"],
            env={"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.folder), **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        """All commands that were called, with their words."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def value(self, ranks: str = "ranks") -> Any:
        """The value that rank 0 returned."""
        (folder,) = (self.job / ranks).iterdir()
        (outcome,) = report.collect(str(folder))
        return json.loads(outcome.result or "null")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A fresh compute node."""
    return Node(tmp_path)


def look_around() -> dict[str, str | None]:
    """Return what a rank sees of its environment."""
    import os

    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "FROM_DAG", "FROM_SETUP", "SRUN_CPUS_PER_TASK")
    return {name: os.environ.get(name) for name in names}


PAYLOAD = packing.pack(look_around, [], {}, [Path(__file__).parent])


def function(config: Slurm, python: str = sys.executable) -> SlurmSubmission:
    """The submission of a function."""
    request = JobRequest(identity=IDENTITY, python=python, grace_seconds=1.0, payload=PAYLOAD)
    return submission.of_function(config, request)


def test_a_rank_finds_the_first_node_and_its_environment(node: Node) -> None:
    """Ranks can connect to the first node, by the address that Slurm itself uses, and find their variables."""
    config = Slurm(ntasks=2, env={"FROM_DAG": "a $b"}, setup=["export FROM_SETUP=${#FROM_DAG}"])
    done = node.run(function(config), SLURM_CPUS_PER_TASK="3")
    assert done.returncode == 0, done.stderr
    assert node.value() == {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "10.1.2.3",
        "MASTER_PORT": "20012",
        "FROM_DAG": "a $b",
        "FROM_SETUP": "4",
        "SRUN_CPUS_PER_TASK": "3",
    }
    assert (node.job / "exit").read_text() == "0\n"
    assert any(call.startswith("srun --kill-on-bad-exit=1 ") for call in node.calls)


def test_one_task_needs_no_srun(node: Node) -> None:
    """A single rank starts without a job step, unless the user asks for one."""
    assert node.run(function(Slurm(master_port=1234))).returncode == 0
    assert (node.value()["WORLD_SIZE"], node.value()["MASTER_PORT"]) == ("1", "1234")
    assert not any(call.startswith("srun") for call in node.calls)
    assert function(Slurm(srun=True)).call("/f").files["ranks.sh"].count(b"srun --kill") == 1


def test_elements_of_an_array_leave_their_results_apart(node: Node) -> None:
    """Every element keeps its own result, and one that Slurm starts again begins with an empty folder."""
    for element in ("3", "4", "3"):
        assert node.run(function(Slurm(array="3-4")), SLURM_ARRAY_TASK_ID=element).returncode == 0
    assert node.value("ranks.3") == node.value("ranks.4")
    assert (node.job / "exit.3").read_text() == "0\n"


def test_a_script_of_the_users_own_stays_what_it_is(node: Node) -> None:
    """Users can wrap the ranks in their own script, whose mode, braces, #SBATCH lines and exit status still count."""
    script = "#!/bin/bash\n#SBATCH --nice=3\n\nxs=(1 2)\nfalse\necho ${#xs[@]} {a..c}\n{task.fn}\nexit 7\n"
    wrapped = function(Slurm(script=script))
    timed = function(Slurm(script="#!/bin/bash -e\nif ! X=1 timeout 60 {task.fn}; then exit 5; fi\nfalse\n"))
    assert node.run(timed).returncode == 1
    lines = wrapped.call(str(node.job)).files["job.sh"].decode().splitlines()
    assert lines[1] == "#SBATCH --nice=3"
    done = node.run(wrapped)
    assert (done.returncode, done.stdout.splitlines()[0]) == (7, "2 a b c")
    assert (node.job / "exit").read_text() == "7\n"


@pytest.mark.parametrize(
    ("config", "commands", "expected"),
    [
        (Slurm(conda_env="my env"), {"conda": "echo {folder}/conda"}, "conda info --base"),
        (
            Slurm(apptainer_image="docker://me/x", apptainer_options=["--nv"]),
            {"apptainer": 'shift 3; while [ "$1" != docker://me/x ]; do shift; done; shift; exec "$@"'},
            "apptainer exec --bind {job} --nv docker://me/x ",
        ),
        (
            Slurm(container_image="me/x", container_mounts=["/data:/data"], srun_options=["--mpi=none"]),
            {},
            "srun --kill-on-bad-exit=1 --container-image=me/x --container-mounts={job}:{job},/data:/data --mpi=none ",
        ),
    ],
)
def test_python_comes_from_where_the_config_says(
    node: Node, config: Slurm, commands: dict[str, str], expected: str
) -> None:
    """Ranks run in the conda environment, or the image of Apptainer or Pyxis, that the config names."""
    (node.folder / "conda/etc/profile.d").mkdir(parents=True)
    (node.folder / "conda/etc/profile.d/conda.sh").write_text('conda() { echo "conda $*" >&2; }\n')
    for name, text in commands.items():
        node.command(name, text.replace("{folder}", str(node.folder)))
    done = node.run(function(config))
    assert done.returncode == 0, done.stderr
    assert node.value()["RANK"] == "0"
    assert any(call.startswith(expected.replace("{job}", str(node.job))) for call in node.calls)
    assert ("conda activate my env" in done.stderr) == (config.conda_env is not None)


def test_modules_and_virtual_environments_are_activated(node: Node) -> None:
    """Ranks find the libraries that the config names, and the job fails before any rank starts if they are missing."""
    (node.folder / "venv/bin").mkdir(parents=True)
    (node.folder / "venv/bin/activate").write_text("export FROM_SETUP=venv\n")
    profile = 'module() { echo "module $*"; }; export -f module\n'
    (node.folder / "profile").write_text(profile)
    config = Slurm(modules=["python/3", "cuda"], venv="~/venv")
    done = node.run(function(config), BASH_ENV=str(node.folder / "profile"))
    assert done.stdout.splitlines()[:2] == ["module load python/3", "module load cuda"]
    assert node.value()["FROM_SETUP"] == "venv"
    done = node.run(function(Slurm(venv="/nowhere")))
    assert done.returncode != 0
    assert "/nowhere/bin/activate" in done.stderr
    assert (node.job / "exit").read_text() == f"{done.returncode}\n"


def test_a_python_that_is_not_there_is_named(node: Node) -> None:
    """The output names the missing interpreter and the arguments that would help."""
    done = node.run(function(Slurm(), python="python9 $(id)"))
    assert done.returncode == 127
    assert "there is no Python 'python9 $(id)' on node" in done.stderr
    assert "set python=, modules=, venv= or conda_env=" in done.stderr


def of_agents(config: Elastic, options: Slurm) -> SlurmSubmission:
    """The submission of a function under torch's elastic agents."""
    return elastic.slurm(config, JobRequest(identity=IDENTITY, payload=b"", arguments={"slurm": options}))


def test_elastic_agents_are_one_task_on_each_node() -> None:
    """One agent starts on each node, and they meet on the first one, which only the job itself can know."""
    call = of_agents(Elastic(nnodes="1:3", nproc_per_node=2), Slurm(partition="p")).call("/folder")
    assert "--nodes=1-3" in call.words
    assert "--ntasks-per-node=1" in call.words
    spec = json.loads(call.files["spec.json"])
    assert (spec["mode"], spec["elastic"]["rdzv_endpoint"], spec["elastic"]["max_nodes"]) == ("elastic", "", 3)
    assert "TORCH_NCCL_ENABLE_MONITORING=1" in call.files["job.sh"].decode()
    for other in (Slurm(nodes=2), Slurm(array="0-1")):
        with pytest.raises(ConfigError, match=r"slurm\..*: follows from nnodes"):
            of_agents(Elastic(nnodes=2), other)


def of_text(text: str, deadline_seconds: int | None = None, **config: Any) -> SbatchCall:
    """How sbatch is called for a shell script with an input."""
    arguments = {"script": text, "inputs": {"x": 1} if "{inputs.x}" in text else {}}
    request = JobRequest(identity=IDENTITY, deadline_seconds=deadline_seconds, arguments=arguments)
    return shell.of_shell(Sbatch(**config), request).call("/folder")


def test_only_shells_get_lines_put_before_them() -> None:
    """Scripts in other languages stay as they are, and get their environment through sbatch."""
    for first in ("#!/bin/bash -e", "#!/bin/sh", "#!/usr/bin/env bash", "#!/usr/bin/env -S bash -eu", "#! /bin/zsh"):
        assert "AIRFLOW_INPUTS_x=1" in of_text(f"{first}\necho {{inputs.x}}").files["job.sh"].decode().splitlines()
    assert of_text("echo").files["job.sh"].startswith(b"#!/bin/bash\n")
    python = of_text("#!/usr/bin/env python3\nprint()\n", env={"A": "b"})
    assert python.files["job.sh"] == b"#!/usr/bin/env python3\nprint()\n"
    assert python.exports == {"A": "b", "AIRFLOW_DISTRIB_FOLDER": "/folder"}
    assert "--export=ALL" in python.words


def test_output_goes_to_the_private_folder_or_where_the_user_wants_it() -> None:
    """Elements do not overwrite each other's output, and a file of the user's choice wins."""
    assert (of_text("x").stdout, of_text("x", array="0-1").stderr) == ("/folder/stdout", "/folder/stderr.%a")
    mine = of_text("x", output="logs/%j.out")
    assert (mine.stdout, mine.stderr) == ("", "/folder/stderr")
    assert "--output=logs/%j.out" in mine.words
    assert not any(word.startswith("--open-mode") for word in mine.words)


@pytest.mark.parametrize(
    ("asked", "parts", "named"),
    [(None, ("1",), False), ([], ("1",), False), ("all", ("1", "3", "5"), True), ([5, 3], ("3", "5"), True)],
)
def test_the_log_shows_the_chosen_elements_of_an_array(
    asked: list[int] | str | None, parts: tuple[str, ...], named: bool
) -> None:
    """An array of many elements does not flood the task log, and lines of several elements can be distinguished."""
    request = JobRequest(identity=IDENTITY, payload=b"", arguments={"log_elements": asked})
    made = submission.of_function(Slurm(array="1-5:2"), request)
    assert (made.log_parts, made.named) == (parts, named)


@pytest.mark.parametrize(("array", "text"), [(None, "is for job arrays"), ("1-5:2", "'1-5:2' has no element 2")])
def test_elements_that_a_job_does_not_have_are_refused(array: str | None, text: str) -> None:
    """A mistake in log_elements appears when the DAG file is parsed, instead of as an empty log."""
    request = JobRequest(identity=IDENTITY, payload=b"", arguments={"log_elements": [1, 2]})
    with pytest.raises(ConfigError, match=f"log_elements: .*{text}"):
        submission.of_function(Slurm(array=array), request)


def test_slurm_ends_the_job_where_airflow_would() -> None:
    """A job ends even if Airflow is gone, after whole minutes, unless the user sets a time."""
    request = JobRequest(identity=IDENTITY, deadline_seconds=90, arguments={"script_path": "/x"})
    for config, expected in ((Sbatch(), "--time=2"), (Sbatch(time=60), "--time=60")):
        words = submission.of_script(config, request).call("/f").words
        assert [word for word in words if word.startswith("--time")] == [expected]


def test_windows_line_ends_do_no_harm() -> None:
    """Scripts from a Windows editor run, although bash would read a carriage return as part of a word."""
    assert with_prelude("#!/bin/bash\r\necho a\r\n", ["b"]) == "#!/bin/bash\nb\necho a\n"


@pytest.mark.parametrize("odd", ["\f", "\r", "\r\n", "\u2028", "\x85", "\n\n   \n\t\n", "  \n    a\n"])
def test_text_in_quotes_stays_as_it_is(odd: str) -> None:
    """Whatever a script holds in quotes reaches the job unchanged, even what other programs take for ends of lines."""
    text = f"#!/bin/bash\nprintf '%s' 'a{odd}b'\n"
    assert with_prelude(text, []) == text
    assert of_text(text).files["job.sh"].decode().endswith(text.removeprefix("#!/bin/bash\n"))


WRAPPER = "#!/bin/bash\n#SBATCH -J mine --comment='my own' # of two\n#SBATCH -t5 -o %j.out\n#SBATCH -n 3 --nice\n"


def test_sbatch_lines_of_a_script_count() -> None:
    """Lines that a user copies from a working script are honoured, though options of each job go before them."""
    for made in (of_text(f"{WRAPPER}echo\n"), function(Slurm(script=f"{WRAPPER}{{task.fn}}\n")).call("/folder")):
        assert any(word.startswith("--job-name=mine-") for word in made.words)
        assert any(word.startswith("--comment=my own dag.task ") for word in made.words)
        assert {"--time=5", "--output=%j.out", "--ntasks=3", "--error=/folder/stderr"} <= set(made.words)
        assert made.stdout == ""
        assert "#SBATCH -n 3 --nice" in made.files["job.sh"].decode()
    wide = function(Slurm(script=f"{WRAPPER}{{task.fn}}\n"))
    assert b"srun --kill" in wide.call("/f").files["ranks.sh"]
    assert of_text("#SBATCH -a 2-3\n#SBATCH --open-mode truncate\necho").words.count("--open-mode=truncate") == 1
    assert function(Slurm(script="#!/bin/sh\n#SBATCH --array=2-3\n{task.fn}")).array == [2, 3]


def test_options_of_the_config_win_over_sbatch_lines() -> None:
    """One script serves several tasks, as with sbatch itself, whose options win over a script's lines."""
    assert "--time=7" in of_text(f"{WRAPPER}echo\n", time=7).words
    assert "--time=5" not in of_text(f"{WRAPPER}echo\n", time=7).words
    # What follows the first command, or a second #, is no line of sbatch's.
    assert not any(word.startswith("--time") for word in of_text("##SBATCH -t 5\necho\n#SBATCH -t 5\n").words)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("#SBATCH --test-only", "script: line 2 sets --test-only, which cannot be set: nothing would run"),
        ("#SBATCH -W", "script: line 2 sets --wait, which cannot be set"),
        ("#SBATCH --time=soon", "script: line 2 sets --time, which must be such as 90 (minutes)"),
        ("#SBATCH --ntasks", "script: line 2 sets --ntasks without a value"),
        ("#SBATCH -n 2\n#SBATCH hetjob\n", "script: line 3 begins a component; use task_config"),
        ("#SBATCH ntasks=2", "script: line 2 says 'ntasks=2', which is no option of sbatch"),
        ("#SBATCH --comment='a", "script: line 2 cannot be taken apart into options"),
        ("#SBATCH --time={inputs.x}", "script: line 2: #SBATCH lines are no shell"),
    ],
)
def test_sbatch_lines_that_cannot_count_are_refused(lines: str, text: str) -> None:
    """The error names the line and the option, instead of a job that quietly runs otherwise."""
    with pytest.raises(ConfigError) as refused:
        shell.check_script("script", f"#!/bin/bash\n{lines}\necho\n")
        of_text(f"#!/bin/bash\n{lines}\necho\n")
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("true\n# {task.fn}\n", "script: line 2 says {task.fn} in a comment, in quotes or in a word"),
        ("echo '{task.fn}'", "line 1 says {task.fn} in a comment, in quotes"),
        ('bash -c "{task.fn}"', "line 1 says {task.fn} in a comment, in quotes"),
        ("x{task.fn}", "line 1 says {task.fn} in a comment, in quotes or in a word"),
        ("cat <<E\n{task.fn}\nE", "line 2 says {task.fn} in a comment"),
        (
            "cd /\nsrun -n 2 {task.fn}",
            "line 2 says srun before {task.fn}, which starts the ranks by itself",
        ),
        ("time mpirun {task.fn}", "line 1 says mpirun before {task.fn}"),
        ("if {task.fn}; fi", "script: line 1 cannot be read"),
        ("#!/usr/bin/env python3\n{task.fn}", "script: must be a script of sh or bash"),
    ],
)
def test_ranks_that_would_not_start_once_are_refused(script: str, text: str) -> None:
    """A wrapper script that starts no ranks, or ranks within ranks, is an error when the DAG file is parsed."""
    with pytest.raises(ConfigError) as refused:
        function(Slurm(ntasks=2, script=script))
    assert text in str(refused.value)
    function(Slurm(ntasks=2, script="if ! X=1 timeout 1h {task.fn} >out; then exit 3; fi"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"script": "echo", "inputs": {"x": 1}}, "inputs.x: is not in the script; put {inputs.x} there, or remove it"),
        ({"script": "echo", "outputs": {"y": SlurmOutput(to="/y")}}, "outputs.y: is not in the script"),
        ({"script": "#!/usr/bin/perl\n", "inputs": {"x": 1}}, "inputs: are for scripts of sh or bash"),
        ({"script": "eval {inputs.x}", "inputs": {"x": "{{ rm }}"}}, "line 1 says {inputs.x} for eval"),
    ],
)
def test_inputs_and_outputs_without_effect_are_refused(arguments: dict[str, Any], text: str) -> None:
    """A forgotten placeholder is an error, instead of a script that runs without its input."""
    with pytest.raises(ConfigError) as refused:
        shell.of_shell(Sbatch(), JobRequest(identity=IDENTITY, arguments=arguments))
    assert text in str(refused.value)


def test_outputs_and_variables_that_a_script_knows_itself_are_no_mistake() -> None:
    """A script may write to a fixed location, or use the variable behind a placeholder."""
    arguments = {
        "script": 'tool "$AIRFLOW_INPUTS_x" >/data/y',
        "inputs": {"x": 1},
        "outputs": {"y": SlurmOutput(location="/data/y")},
    }
    assert shell.of_shell(Sbatch(), JobRequest(identity=IDENTITY, arguments=arguments)).outputs


def test_a_script_may_be_indented_as_its_dag_file_is() -> None:
    """A script can be indented like the code around it, and its own #SBATCH time still counts."""
    text = "\n    #!/bin/bash\n    #SBATCH --time=30\n    echo hi\n"
    made = of_text(text, deadline_seconds=90)
    assert made.files["job.sh"].decode().splitlines()[:2] == ["#!/bin/bash", "#SBATCH --time=30"]
    assert [word for word in made.words if word.startswith("--time")] == ["--time=30"]
    assert of_text("\n#!/usr/bin/env python3\nprint()\n").files["job.sh"].startswith(b"#!/usr/bin/env python3\n")


def test_the_users_home_is_expanded_by_the_shell() -> None:
    """Users can write ~/, which sbatch itself would take for a folder of that name."""
    words = of_text("x", chdir="~/my work", output="~/%j.out").shell_words()
    assert "--chdir=\"$HOME\"/'my work'" in words
    assert '--output="$HOME"/%j.out' in words
