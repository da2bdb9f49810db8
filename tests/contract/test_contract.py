"""What every system, kind and launcher of the catalogue has to hold, so that common code can rely on it.

A new system is covered by its catalogue row and a ``sample.py`` in its test folder.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from airflow_distrib import ConfigError, catalogue
from airflow_distrib.core import archive, packing
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobState
from airflow_distrib.jobs.launcher import JobClient, JobWatch, Submission
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.jobs.waiting import Waiting
from airflow_distrib.operators import tries
from airflow_distrib.operators.base import DistributedJobOperator
from airflow_distrib.operators.launching import AnyLauncher
from airflow_distrib.runner import collector, report
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.runner.spec import Spec
from airflow_distrib.systems.kubernetes.judge import SETTLE_SECONDS, View, judge
from airflow_distrib.systems.kubernetes.kind import Kind
from airflow_distrib.systems.kubernetes.manifest import JOB_LABEL, KubernetesSubmission
from airflow_distrib.systems.kubernetes.problems import Patience
from airflow_distrib.systems.kubernetes.registry import kind_named, kinds
from airflow_distrib.systems.local.job import LocalJob
from airflow_distrib.systems.local.jobs import LocalSubmission
from airflow_distrib.systems.slurm import status as slurm_status
from airflow_distrib.systems.slurm.queue import QueueFeed
from airflow_distrib.systems.slurm.status import Part
from airflow_distrib.systems.slurm.submission import FunctionBody, SlurmSubmission

SYSTEMS = Path(__file__).parents[1] / "systems"


def add(a: int = 1) -> int:
    """Return a number."""
    return a


def samples() -> Iterator[tuple[str, type[DistributedJobOperator[Any]], dict[str, Any]]]:
    """Every sample of every operator: its name, the operator's class, and arguments."""
    for entry in catalogue.ENTRIES:
        folder = entry.config.split(".")[2]
        spec = importlib.util.spec_from_file_location(f"sample_{folder}", SYSTEMS / folder / "sample.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        operator = catalogue.load(entry.operator)
        scripts: dict[str, Any] = getattr(module, "SCRIPTS", {}).get(operator.__name__, {})
        for name, arguments in (scripts or module.SAMPLES).items():
            function = {} if scripts else {"python_callable": add}
            yield f"{operator.__name__}: {name}", operator, {"task_id": "train", **function, **arguments}


SAMPLES = {name: (operator, arguments) for name, operator, arguments in samples()}


def rendered(name: str) -> tuple[DistributedJobOperator[Any], AnyLauncher, Submission]:
    """A sample's operator, launcher and submission."""
    kind, arguments = SAMPLES[name]
    operator = kind(**arguments)
    launcher = next(each for each in kind.launchers if each.name == operator.launcher)
    request: JobRequest = operator._request(tries.identity(None, operator), payload=b"payload")
    return operator, launcher, launcher.render(operator.final_config(), request)


RENDERED = {name: rendered(name) for name in SAMPLES}
RESOURCES = {name: each[2] for name, each in RENDERED.items() if isinstance(each[2], KubernetesSubmission)}
KINDS = {kind.key: kind for kind in kinds()}


# ---------------------------------------------------------------------- operators and launchers


def test_every_launcher_of_every_operator_has_a_sample() -> None:
    """The rest of the suite is only worth what it is tried on."""
    tried = {(type(operator), launcher.name) for operator, launcher, _ in RENDERED.values()}
    for entry in catalogue.ENTRIES:
        operator = catalogue.load(entry.operator)
        assert {(operator, each.name) for each in operator.launchers} <= tried, operator


@pytest.mark.parametrize("name", SAMPLES)
def test_a_submission_is_frozen_and_shown_as_plain_values(name: str) -> None:
    """What ``render`` prints is what is submitted, and nobody changes it in between."""
    operator, _, submission = RENDERED[name]
    with pytest.raises(AttributeError):
        submission.name = "another"  # type: ignore[misc] # that is the point
    shown = operator.render()
    assert json.loads(json.dumps(shown, default=str))
    assert shown["launcher"] == operator.launcher
    assert "payload" not in json.dumps(submission.shown(), default=repr).replace("payload_", "").replace("/payload", "")


@pytest.mark.parametrize("name", SAMPLES)
def test_what_a_trigger_is_given_holds_an_address_and_no_credential(name: str) -> None:
    """Its arguments are rows in Airflow's database."""
    _, launcher, submission = RENDERED[name]
    ref = JobRef(launcher.name, submission.name, "uid")
    waiting = Waiting(ref, "conn", patience=submission.patience, log_parts=submission.log_parts)
    assert Waiting.from_json(json.loads(json.dumps(waiting.to_json()))) == waiting
    assert b"payload" not in json.dumps(waiting.to_json()).encode()


@pytest.mark.parametrize("name", SAMPLES)
def test_names_of_arguments_are_those_that_the_operator_has(name: str) -> None:
    """A launcher cannot honour what nobody can set."""
    operator, launcher, _ = RENDERED[name]
    parameters = inspect.signature(type(operator).__init__).parameters
    assert launcher.takes <= set(parameters)
    assert {each.name for each in launcher.arguments} <= launcher.takes
    assert not launcher.connection_argument or launcher.connection_argument in launcher.takes


@pytest.mark.parametrize("entry", catalogue.LAUNCHERS, ids=lambda each: each.name)
def test_every_launcher_of_the_catalogue_opens_clients_as_the_interface_says(entry: catalogue.Launcher) -> None:
    """Worker and triggerer call them without knowing which one it is."""
    connect = catalogue.load(entry.connect)
    module = importlib.import_module(connect.__module__)
    classes = [each for _, each in inspect.getmembers(module, inspect.isclass)]
    (client,) = [each for each in classes if {"reserve", "submit", "fetch"} <= set(dir(each)) and each is not JobClient]
    for name, method in inspect.getmembers(JobClient, inspect.isfunction):
        if not name.startswith("_"):
            theirs = inspect.signature(getattr(client, name)).parameters
            assert list(theirs) == list(inspect.signature(method).parameters), name
    if entry.hook:
        hook = catalogue.load(entry.hook)
        assert hook.default_conn_name
        assert {"settings", "asettings"} <= set(dir(hook))


@pytest.mark.parametrize(
    "path",
    [
        "airflow_distrib.systems.kubernetes.watch.KubernetesWatch",
        "airflow_distrib.systems.slurm.watch.SlurmWatch",
        "airflow_distrib.systems.local.jobs.LocalWatch",
    ],
)
def test_every_watch_has_what_the_wait_uses(path: str) -> None:
    """The wait is written once, for all of them."""
    assert {name for name in dir(JobWatch) if not name.startswith("_")} <= set(dir(catalogue.load(path)))


# ---------------------------------------------------------------------- kinds on Kubernetes


@pytest.mark.parametrize("name", RESOURCES)
def test_labels_reach_the_resource_and_every_pod_template(name: str) -> None:
    """The shared watch selects by them; a pod without them would be invisible."""
    submission = RESOURCES[name]
    expected = {**submission.identity.labels(), JOB_LABEL: submission.name}
    templates = list(submission.kind.templates(submission.manifest))
    assert templates
    for labels in [submission.manifest["metadata"]["labels"], *(each["metadata"]["labels"] for _, each in templates)]:
        assert expected.items() <= labels.items()


@pytest.mark.parametrize("name", RESOURCES)
def test_every_template_has_the_main_container_first_and_by_its_name(name: str) -> None:
    """Logs and outcomes are read from the container of that name."""
    submission = RESOURCES[name]
    for path, template in submission.kind.templates(submission.manifest):
        assert template["spec"]["containers"][0]["name"] == submission.kind.container, path


@pytest.mark.parametrize("name", RESOURCES)
def test_what_the_watch_keeps_does_not_change_what_is_expected(name: str) -> None:
    """Patience and the end of an elastic job depend on the number of pods."""
    submission = RESOURCES[name]
    whole = {**submission.manifest, "status": {"conditions": []}}
    kept = submission.kind.slim(whole)
    assert submission.kind.expected_pods(kept) == submission.kind.expected_pods(whole) > 0
    assert submission.kind.enough_pods(kept) == submission.kind.enough_pods(whole)
    assert submission.kind.read(kept) == submission.kind.read(whole)
    assert len(json.dumps(kept)) < len(json.dumps(whole))


@pytest.mark.parametrize("name", RESOURCES)
def test_a_job_of_a_kind_is_found_again_by_its_reference(name: str) -> None:
    """The triggerer has nothing but the key."""
    assert kind_named(RESOURCES[name].kind.key) is RESOURCES[name].kind


def ended(kind: Kind) -> Iterator[dict[str, Any]]:
    """Statuses with which a resource of a kind may say that it is over, without any time."""
    for name in ("Failed", "Succeeded"):
        for status in ({"phase": name}, {"conditions": [{"type": name, "status": "True"}]}, {"state": name}):
            if kind.read({"status": status}).state.finished:
                yield status


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_terminal_status_ends_the_wait_even_without_conditions_times_or_pods(kind: Kind) -> None:
    """A pod that kubelet rejects has no container statuses, and nothing that says when it ended."""
    found = list(ended(kind))
    assert {kind.read({"status": status}).state for status in found} == {JobState.FAILED, JobState.SUCCEEDED}
    for status in found:
        resource = {"metadata": {"name": "job", "uid": "u"}, "spec": {}, "status": status}
        seen = judge(kind, JobRef("kubernetes", "job", "u"), View(resource), Patience(), 1000.0)
        limits = [each.seconds for each in seen.obstacles if each.problem is None]
        assert seen.over or limits == [SETTLE_SECONDS]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_resource_that_is_gone_ends_the_wait(kind: Kind) -> None:
    """Somebody else has deleted it."""
    seen = judge(kind, JobRef("kubernetes", "job", "u"), View(None), Patience(), 1000.0)
    assert seen.over
    assert seen.problem is not None


VALUES: dict[str, Any] = {
    "run_policy.clean_pod_policy": "All",
    "run_policy.ttl_seconds_after_finished": 5,
    "run_policy.backoff_limit": 1,
    "suspend": True,
    "scheduling_policy": {"min_available": 1},
}


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name, each in RESOURCES.items() for option in sorted(each.kind.unsupported)]
)
def test_a_common_option_that_a_kind_cannot_honour_is_refused(name: str, option: str) -> None:
    """Nothing that a user sets is ignored in silence."""
    operator, arguments = SAMPLES[name]
    outer, _, inner = option.partition(".")
    value = {inner: VALUES[option]} if inner else VALUES[option]
    with pytest.raises(ConfigError, match=rf"task_config\.{option}: "):
        operator(**{**arguments, "task_config": {**arguments["task_config"], outer: value}})


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name, each in RESOURCES.items() for option in sorted(each.kind.moot)]
)
def test_a_common_option_that_means_nothing_for_a_kind_is_in_the_log(name: str, option: str) -> None:
    """It is met all the same, and whoever looks for its effect learns why there is none."""
    operator, arguments = SAMPLES[name]
    outer, _, inner = option.partition(".")
    value = {inner: VALUES[option]} if inner else VALUES[option]
    task = operator(**{**arguments, "task_config": {**arguments["task_config"], outer: value}})
    launcher = next(each for each in task.launchers if each.name == task.launcher)
    submission = launcher.render(task.final_config(), task._request(tries.identity(None, task)))
    assert [each for each in submission.ignored if option in each]


@pytest.mark.parametrize("name", RESOURCES)
def test_a_job_that_restarts_pods_has_a_limit_that_the_watch_knows(name: str) -> None:
    """A function that always fails ends the wait, whatever the controller does."""
    operator, arguments = SAMPLES[name]
    template = {"spec": {"restartPolicy": "OnFailure"}}
    task = operator(**{**arguments, "task_config": {**arguments["task_config"], "pod_template": template}})
    launcher = next(each for each in task.launchers if each.name == task.launcher)
    submission = launcher.render(task.final_config(), task._request(tries.identity(None, task)))
    kept = submission.kind.slim({**submission.manifest, "status": {}})
    assert submission.kind.backoff_limit(kept)


# ---------------------------------------------------------------------- Slurm


@pytest.mark.parametrize("state", [each for each, state in slurm_status.STATES.items() if state.finished])
def test_every_terminal_state_of_slurm_is_over_once_it_is_confirmed(state: str) -> None:
    """After some of them Slurm may start the job again, so they are seen twice."""
    feed = QueueFeed(JobRef("slurm", "job", "1"))
    for _ in range(2):
        feed.see({"+": Part("1", state=state, name="job")}, asked=True)
    assert slurm_status.aggregated(feed.parts.values()).state.finished
    assert not feed.is_incomplete({})


@pytest.mark.parametrize("state", [each for each, state in slurm_status.STATES.items() if state is JobState.FAILED])
def test_every_failure_of_slurm_is_a_problem_with_advice(state: str) -> None:
    """The user reads what to do, whatever the state."""
    problem = slurm_status.problem_of([Part("1", state=state, name="job")])
    assert problem.advice
    assert state in problem.message


# ---------------------------------------------------------------------- what ranks find

NAMES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"),
    *("MASTER_ADDR", "MASTER_PORT"),
)
MASTER = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "23456"}

# What the system itself gives to the process that the runner is: by launcher, or by the kind of resource.
GIVEN: Mapping[str, Mapping[str, str]] = {
    "slurm": {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", **MASTER},
    "pod": {},
    "pytorchjob": {"RANK": "0", "WORLD_SIZE": "2", **MASTER},
    "mpijob": {collector.POD_IP: "127.0.0.1"},
    "mpijob-v1": {collector.POD_IP: "127.0.0.1"},
}

MPIRUN = f"""#!{sys.executable}
import os, subprocess, sys
numbers = {{"RANK": "0", "SIZE": "1", "LOCAL_RANK": "0", "LOCAL_SIZE": "1"}}
ours = {{"OMPI_COMM_WORLD_" + name: value for name, value in numbers.items()}}
program = sys.argv[sys.argv.index({sys.executable!r}) :]
sys.exit(subprocess.call(program, env={{**os.environ, **ours}}))
"""


def variables() -> dict[str, str]:
    """What a rank sees."""
    return {name: os.environ[name] for name in NAMES if name in os.environ}


def runner_specs(submission: Submission) -> tuple[str, dict[str, Spec]]:
    """Which variables are given, and the runner's files, the one that is started first of all last."""
    if isinstance(submission, KubernetesSubmission):
        return submission.kind.key, dict(sorted(submission.specs.items(), reverse=True))
    assert isinstance(submission, SlurmSubmission)
    assert isinstance(submission.body, FunctionBody)
    return "slurm", {"spec.json": submission.body.spec}


def moved(spec: Spec, folder: Path) -> Spec:
    """The same for this machine, which is the only node."""
    program = [sys.executable, str(folder / "runner.pyz"), str(folder / "spec.json")] if spec.program else []
    command = [str(folder / "mpirun"), *spec.command[1:]] if spec.command else []
    elastic = spec.elastic
    if elastic is not None:
        elastic = elastic._replace(min_nodes=1, max_nodes=1, rdzv_endpoint="localhost:0")
    return spec._replace(
        scratch=str(folder),
        payload_file=str(folder / "payload"),
        payload_sha256=None,
        termination_log=str(folder / "log") if spec.termination_log else None,
        command=command,
        program=program,
        hostfile=None,
        elastic=elastic,
        result_path=str(folder / "result"),
    )


def on_a_cluster(submission: Submission, folder: Path) -> dict[str, str]:
    """Variables of rank 0, with this machine in place of the cluster."""
    given, specs = runner_specs(submission)
    (folder / "payload").write_bytes(packing.pack(variables, (), {}))
    (folder / "runner.pyz").write_bytes(archive.build())
    (folder / "mpirun").write_text(MPIRUN)
    (folder / "mpirun").chmod((folder / "mpirun").stat().st_mode | stat.S_IXUSR)
    first = ""
    for first, spec in specs.items():
        own = spec if spec.termination_log or spec.reports else spec._replace(directory=str(folder))
        (folder / first).write_text(moved(own, folder).to_json())
    first = "launcher.json" if "launcher.json" in specs else first
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    subprocess.run(
        [sys.executable, str(folder / "runner.pyz"), str(folder / first)],
        env={**clean, **GIVEN[given]},
        check=True,
        timeout=120,
    )
    if (folder / "log").exists():
        found = report.from_termination_message((folder / "log").read_text())
        return result_of([found] if found else [])
    return result_of(report.collect(str(folder)))


async def on_this_worker(submission: LocalSubmission) -> dict[str, str]:
    """Variables of rank 0 of a local job."""
    job = await LocalJob.start(submission.plan, packing.pack(variables, (), {}), options={})
    try:
        _, found = await job.outcomes()
    finally:
        await job.close()
    return result_of(found)


def result_of(found: list[Outcome]) -> dict[str, str]:
    """What rank 0 returned."""
    (first,) = [each for each in found if each.rank == 0]
    seen: dict[str, str] = json.loads(first.result or "")
    return seen


FUNCTIONS = [name for name, (_, _, submission) in RENDERED.items() if submission.returns]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_rank_knows_its_place_and_where_to_meet_the_others(name: str, tmp_path: Path) -> None:
    """A function that reads torchrun's variables runs unchanged on one node, on many, and on every cluster."""
    submission: Any = RENDERED[name][2]
    if isinstance(submission, LocalSubmission):
        seen = asyncio.run(on_this_worker(submission))
    else:
        seen = on_a_cluster(submission, tmp_path)
    assert [each for each in NAMES if not seen.get(each)] == []
    assert all(seen[each].isdecimal() for each in NAMES if each != "MASTER_ADDR")
    assert (seen["RANK"], seen["LOCAL_RANK"], seen["GROUP_RANK"]) == ("0", "0", "0")
