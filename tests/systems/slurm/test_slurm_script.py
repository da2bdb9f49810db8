"""Batch scripts: run by a real bash, with srun, module, conda and apptainer played by small scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.slurm import plan as plans
from airflow_distrib.systems.slurm.config import Sbatch, Slurm
from airflow_distrib.systems.slurm.plan import Plan, Request, Submission
from airflow_distrib.systems.slurm.script import with_prelude
from airflow_distrib.core import packing
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.runner import report

IDENTITY = JobIdentity("dag", "run", "task", -1, 1, "scope")


class Node:
    """A compute node: a folder with commands, and what they were called with."""

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
        """Put a command in the search path; it notes its words."""
        path = self.bin / name
        path.write_text(f'#!/bin/bash\nprintf "%s\\n" "{name} $*" >>{self.folder}/calls\n{text}\n')
        path.chmod(0o755)

    def run(self, plan: Plan, payload: bytes | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a job's script as Slurm would."""
        submission = plan.build(str(self.job))
        for name, content in {**submission.files, **({"payload": payload} if payload else {})}.items():
            (self.job / name).write_bytes(content)
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
        """Commands with their words."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def value(self, ranks: str = "ranks") -> Any:
        """What rank 0 returned."""
        (folder,) = (self.job / ranks).iterdir()
        (outcome,) = report.collect(str(folder))
        return json.loads(outcome.result or "null")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node."""
    return Node(tmp_path)


def tell() -> dict[str, str | None]:
    """What a rank sees."""
    import os

    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "FROM_DAG", "FROM_SETUP", "SRUN_CPUS_PER_TASK")
    return {name: os.environ.get(name) for name in names}


PAYLOAD = packing.pack(tell, [], {}, [Path(__file__).parent])


def function(config: Slurm, python: str = sys.executable, **fields: Any) -> Plan:
    """A function's plan."""
    return plans.of_function(config, Request(IDENTITY, {"grace_seconds": 1.0}, python, payload=PAYLOAD, **fields))


def test_a_rank_finds_the_first_node_and_its_environment(node: Node) -> None:
    """The address is the one by which Slurm itself reaches the node."""
    config = Slurm(ntasks=2, env={"FROM_DAG": "a $b"}, setup=["export FROM_SETUP=${#FROM_DAG}"])
    done = node.run(function(config), PAYLOAD, SLURM_CPUS_PER_TASK="3")
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
    """Unless it is asked for."""
    assert node.run(function(Slurm(master_port=1234)), PAYLOAD).returncode == 0
    assert (node.value()["WORLD_SIZE"], node.value()["MASTER_PORT"]) == ("1", "1234")
    assert not any(call.startswith("srun") for call in node.calls)
    assert function(Slurm(srun=True)).build("/f").files["ranks.sh"].count(b"srun --kill") == 1


def test_elements_of_an_array_leave_their_results_apart(node: Node) -> None:
    """And one that Slurm starts again begins anew."""
    for element in ("3", "4", "3"):
        assert node.run(function(Slurm(array="3-4")), PAYLOAD, SLURM_ARRAY_TASK_ID=element).returncode == 0
    assert node.value("ranks.3") == node.value("ranks.4")
    assert (node.job / "exit.3").read_text() == "0\n"


def test_a_script_of_the_users_own_stays_what_it_is(node: Node) -> None:
    """Its mode, its braces, its exit status; our lines come after its #SBATCH lines."""
    script = "#!/bin/bash\n#SBATCH --nice=3\n\nxs=(1 2)\nfalse\necho ${#xs[@]} {a..c}\n{task.fn}\nexit 7\n"
    plan = function(Slurm(script=script))
    timed = function(Slurm(script="#!/bin/bash -e\nif ! X=1 timeout 60 {task.fn}; then exit 5; fi\nfalse\n"))
    assert node.run(timed, PAYLOAD).returncode == 1
    lines = plan.build(str(node.job)).files["job.sh"].decode().splitlines()
    assert lines[1] == "#SBATCH --nice=3"
    done = node.run(plan, PAYLOAD)
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
    """Conda environments, and images of Apptainer and of Pyxis."""
    (node.folder / "conda/etc/profile.d").mkdir(parents=True)
    (node.folder / "conda/etc/profile.d/conda.sh").write_text('conda() { echo "conda $*" >&2; }\n')
    for name, text in commands.items():
        node.command(name, text.replace("{folder}", str(node.folder)))
    done = node.run(function(config), PAYLOAD)
    assert done.returncode == 0, done.stderr
    assert node.value()["RANK"] == "0"
    assert any(call.startswith(expected.replace("{job}", str(node.job))) for call in node.calls)
    assert ("conda activate my env" in done.stderr) == (config.conda_env is not None)


def test_modules_and_virtual_environments_are_activated(node: Node) -> None:
    """What cannot be ends the script before any rank."""
    (node.folder / "venv/bin").mkdir(parents=True)
    (node.folder / "venv/bin/activate").write_text("export FROM_SETUP=venv\n")
    profile = 'module() { echo "module $*"; }; export -f module\n'
    (node.folder / "profile").write_text(profile)
    config = Slurm(modules=["python/3", "cuda"], venv="~/venv")
    done = node.run(function(config), PAYLOAD, BASH_ENV=str(node.folder / "profile"))
    assert done.stdout.splitlines()[:2] == ["module load python/3", "module load cuda"]
    assert node.value()["FROM_SETUP"] == "venv"
    done = node.run(function(Slurm(venv="/nowhere")), PAYLOAD)
    assert done.returncode != 0
    assert "/nowhere/bin/activate" in done.stderr
    assert (node.job / "exit").read_text() == f"{done.returncode}\n"


def test_a_python_that_is_not_there_is_named(node: Node) -> None:
    """With what to set."""
    done = node.run(function(Slurm(), python="python9 $(id)"), PAYLOAD)
    assert done.returncode == 127
    assert "there is no Python 'python9 $(id)' on node" in done.stderr
    assert "set python=, modules=, venv= or conda_env=" in done.stderr


def test_elastic_agents_are_one_task_on_each_node() -> None:
    """The rendezvous is left to the first node, which the job itself finds."""
    request = Request(IDENTITY, payload=b"")
    plan = plans.of_function(Slurm(partition="p"), request, elastic=Elastic(nnodes="1:3", nproc_per_node=2))
    submission = plan.build("/folder")
    assert "--nodes=1-3" in submission.words
    assert "--ntasks-per-node=1" in submission.words
    spec = json.loads(submission.files["spec.json"])
    assert (spec["mode"], spec["elastic"]["rdzv_endpoint"], spec["elastic"]["max_nodes"]) == ("elastic", "", 3)
    assert "TORCH_NCCL_ENABLE_MONITORING=1" in submission.files["job.sh"].decode()
    for other in (Slurm(nodes=2), Slurm(array="0-1")):
        with pytest.raises(ConfigError, match=r"slurm\..*: follows from nnodes"):
            plans.of_function(other, request, elastic=Elastic(nnodes=2))


def of_text(text: str, **config: Any) -> Submission:
    """A shell script's submission."""
    return plans.of_text(Sbatch(**config), Request(IDENTITY), text, lambda folder: ["X=1"]).build("/folder")


def test_only_shells_get_lines_put_before_them() -> None:
    """Other scripts get their environment through sbatch."""
    for first in ("#!/bin/bash -e", "#!/bin/sh", "#!/usr/bin/env bash", "#!/usr/bin/env -S bash -eu", "#! /bin/zsh"):
        assert "X=1" in of_text(f"{first}\necho").files["job.sh"].decode().splitlines()
    assert of_text("echo").files["job.sh"].startswith(b"#!/bin/bash\n")
    python = of_text("#!/usr/bin/env python3\nprint()\n", env={"A": "b"})
    assert python.files["job.sh"] == b"#!/usr/bin/env python3\nprint()\n"
    assert python.exports == {"A": "b", "AIRFLOW_DISTRIB_FOLDER": "/folder"}
    assert "--export=ALL" in python.words


def test_output_goes_where_it_is_wanted() -> None:
    """In the private folder, by element; or where the user says."""
    assert (of_text("x").stdout, of_text("x", array="0-1").stderr) == ("/folder/stdout", "/folder/stderr.%a")
    mine = of_text("x", output="logs/%j.out")
    assert (mine.stdout, mine.stderr) == ("", "/folder/stderr")
    assert "--output=logs/%j.out" in mine.words
    assert not any(word.startswith("--open-mode") for word in mine.words)


def test_slurm_ends_the_job_where_airflow_would() -> None:
    """In minutes, rounded up; a time of the user's own stays."""
    request = Request(IDENTITY, deadline_seconds=90)
    for config, expected in ((Sbatch(), "--time=2"), (Sbatch(time=60), "--time=60")):
        words = plans.of_script(config, request, "/x", []).build("/f").words
        assert [word for word in words if word.startswith("--time")] == [expected]


def test_windows_line_ends_do_no_harm() -> None:
    """Bash would take them for part of the words."""
    assert with_prelude("#!/bin/bash\r\necho a\r\n", ["b"]) == "#!/bin/bash\nb\necho a\n"


def test_a_script_may_be_indented_as_its_dag_file_is() -> None:
    """Its first line may follow the quotes; what it says of its time counts."""
    text = "\n    #!/bin/bash\n    #SBATCH --time=30\n    echo hi\n"
    request = Request(IDENTITY, deadline_seconds=90)
    made = plans.of_text(Sbatch(), request, text, lambda _: []).build("/f")
    assert made.files["job.sh"].decode().splitlines()[:2] == ["#!/bin/bash", "#SBATCH --time=30"]
    assert not any(word.startswith("--time") for word in made.words)
    assert of_text("\n#!/usr/bin/env python3\nprint()\n").files["job.sh"].startswith(b"#!/usr/bin/env python3\n")


def test_the_users_home_is_expanded_by_the_shell() -> None:
    """sbatch itself takes it for a folder of that name."""
    words = of_text("x", chdir="~/my work", output="~/%j.out").shell_words()
    assert "--chdir=\"$HOME\"/'my work'" in words
    assert '--output="$HOME"/%j.out' in words
