"""Airflow and users see the package as a whole as the catalogue describes it."""

from __future__ import annotations

import importlib
import importlib.resources
import json
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import jsonschema
import pytest
import yaml

import airflow_distrib
from airflow_distrib import catalogue
from airflow_distrib.catalogue import ENTRIES, LAUNCHERS, LINKS, TRIGGERS, Entry, Launcher
from airflow_distrib.get_provider_info import get_provider_info
from airflow_distrib.systems.kubernetes import registry

REPOSITORY = Path(__file__).parents[1]
PACKAGE = Path(airflow_distrib.__file__).parent
HOOKED = [each for each in LAUNCHERS if each.hook]
HEAVY = ("torch", "kubernetes", "kubernetes_asyncio", "asyncssh", "databricks", "ray", "numpy", "pandas")


@pytest.mark.parametrize("schema", ["provider_info.schema.json", "provider.yaml.schema.json"])
def test_provider_info_fits_airflows_own_schemas(schema: str) -> None:
    """Airflow loads the provider, and also the stricter schema for its own providers finds nothing wrong."""
    rules = json.loads((importlib.resources.files("airflow") / schema).read_text())
    info = get_provider_info()
    if schema.startswith("provider.yaml"):
        info |= {"state": "ready", "source-date-epoch": 0}
    jsonschema.validate(info, rules)


def test_the_entry_point_leads_to_the_provider_info() -> None:
    """Airflow finds providers by this entry point only."""
    (found,) = [point for point in entry_points(group="apache_airflow_provider") if "airflow_distrib" in point.value]
    assert found.load()() == get_provider_info()


def test_airflow_lists_the_provider_with_its_decorators_and_links() -> None:
    """What ``airflow providers`` prints is what users find in the UI and in DAG files."""
    from airflow.providers_manager import ProvidersManager
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

    manager = ProvidersManager()
    assert "airflow-distrib" in manager.providers
    decorators = ProvidersManagerTaskRuntime().taskflow_decorators
    assert {entry.decorator for entry in ENTRIES if entry.decorator} <= set(decorators)
    assert set(LINKS) <= set(manager.extra_links_class_names)
    assert {each.connection_type for each in HOOKED} <= set(ProvidersManagerTaskRuntime().hooks)


def test_hooks_and_triggers_exist_as_the_catalogue_lists_them() -> None:
    """Airflow offers a form for each connection type, and the hook behind it is of that type."""
    for each in HOOKED:
        assert catalogue.load(each.hook).conn_type == each.connection_type
    for trigger in TRIGGERS:
        importlib.import_module(trigger)
    declared = {each["connection-type"]: each["conn-fields"] for each in get_provider_info()["connection-types"]}
    assert "namespace" in declared["kubernetes"]


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda launcher: launcher.name)
def test_every_launcher_of_the_catalogue_exists(launcher: Launcher) -> None:
    """The trigger connects to a job by this row alone, whichever operator submitted the job."""
    assert catalogue.launcher(launcher.name) is launcher
    assert callable(catalogue.load(launcher.connect))
    used = {each.name: each for entry in ENTRIES for each in catalogue.load(entry.operator).launchers}
    assert used[launcher.name].outlives_worker is bool(launcher.hook)
    if launcher.hook:
        assert used[launcher.name].connection_argument == catalogue.load(launcher.hook).conn_name_attr


def test_every_launcher_of_an_operator_is_in_the_catalogue() -> None:
    """A job that the trigger could not connect to would be lost with its task."""
    used = {each.name for entry in ENTRIES for each in catalogue.load(entry.operator).launchers}
    assert used == {each.name for each in LAUNCHERS}


def test_the_public_names_are_exactly_the_catalogues() -> None:
    """A name that the catalogue lists can be imported from the package, and no other is promised."""
    public = catalogue.public()
    assert sorted(airflow_distrib.__all__) == sorted(public)
    for name, path in public.items():
        assert getattr(airflow_distrib, name) is catalogue.load(path)
    assert set(airflow_distrib.__all__) <= set(dir(airflow_distrib))
    with pytest.raises(AttributeError, match="no attribute 'Elastc'"):
        _ = airflow_distrib.Elastc


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.system)
def test_every_row_of_the_catalogue_is_true(entry: Entry) -> None:
    """The operator, config, decorator, extra and example of a system exist and belong together."""
    operator = catalogue.load(entry.operator)
    assert operator.config_type is catalogue.load(entry.config)
    if entry.decorator:
        assert callable(catalogue.load(entry.decorator_path))
    text = (REPOSITORY / "dags" / entry.example).read_text()
    shown = f"@task.{entry.decorator}" if entry.decorator else operator.__name__
    assert shown in text or operator.__name__ in text
    if entry.extra:
        assert f"\n{entry.extra} = [" in (REPOSITORY / "pyproject.toml").read_text()


def row(entry: Entry) -> str:
    """A system's row in a table of the documentation."""
    decorator = f"`@task.{entry.decorator}`" if entry.decorator else "–"
    return f"| {entry.system} | `{entry.operator.rpartition('.')[2]}` | {decorator} | {entry.works} |"


def test_the_readmes_table_is_the_catalogues() -> None:
    """The README cannot promise more than there is."""
    lines = (REPOSITORY / "README.md").read_text().splitlines()
    assert [line for line in lines if re.match(r"\| [^|]+ \| `\w+Operator` \|", line)] == [
        row(each) for each in ENTRIES
    ]


@pytest.mark.parametrize("document", sorted((REPOSITORY / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_tables_of_systems_in_the_documentation_are_the_catalogues(document: Path) -> None:
    """A page that lists systems lists what there is, in the same words as the README."""
    lines = document.read_text().splitlines()
    rows = {line for line in lines if re.match(r"\| [^|]+ \| `\w+Operator` \|", line)}
    assert rows <= {row(each) for each in ENTRIES}


def test_the_role_in_the_documentation_grants_exactly_what_the_package_asks_for() -> None:
    """An administrator grants no right too many, and a new kind of job cannot be forgotten."""
    documents = yaml.safe_load_all((REPOSITORY / "docs" / "rbac.yaml").read_text())
    granted: dict[tuple[str, str], set[str]] = {}
    for document in documents:
        for rule in document.get("rules", ()):
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    assert (group, resource) not in granted
                    granted[group, resource] = set(rule["verbs"])
    assert granted == {(each.group, each.resource): set(each.verbs) for each in registry.rights()}


# Whole words where the name is short enough to be a part of others, such as "array".
SHORT = 4


def names_of_systems() -> set[str]:
    """Names of systems and launchers, but for local ranks, also of systems that are still to come."""
    launchers = {each.name for each in LAUNCHERS}
    folders = {each.name for each in (PACKAGE / "systems").iterdir() if (each / "__init__.py").exists()}
    others = {"kubeflow", "torchjob", "databricks", "ray", "spark", "dask"}
    return (launchers | folders | others) - {"local"}


@pytest.mark.parametrize(
    "module",
    [
        *(path for folder in ("core", "jobs", "triggers") for path in sorted((PACKAGE / folder).rglob("*.py"))),
        PACKAGE / "operators" / "base.py",
    ],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_the_common_code_names_no_system(module: Path) -> None:
    """A system or launcher is added, or taken out, without a change in what all of them share."""
    names = sorted(names_of_systems())
    assert {"kubernetes", "slurm", "elastic", "mpijob", "pytorchjob"} <= set(names)
    pattern = "|".join(rf"\b{name}\b" if len(name) <= SHORT else name for name in names)
    text = module.read_text()
    found = [text[: match.start()].count("\n") + 1 for match in re.finditer(pattern, text, re.IGNORECASE)]
    assert [f"{number}: {text.splitlines()[number - 1].strip()}" for number in found] == []


def test_importing_any_module_imports_no_systems_library() -> None:
    """DAG files are parsed over and over, on machines that have none of these libraries."""
    modules = [
        ".".join(["airflow_distrib", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
        if path.stem != "__main__"
    ]
    assert len(modules) > 20
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip().splitlines()[-1] == "[]"


def test_importing_the_package_imports_nothing_of_airflow() -> None:
    """Airflow discovers providers before it is configured, and an import would configure it too early."""
    code = "import airflow_distrib, airflow_distrib.get_provider_info, sys; print('airflow' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize("example", sorted((REPOSITORY / "dags").glob("*.py")), ids=lambda path: path.stem)
def test_every_example_renders_without_any_service(example: Path) -> None:
    """Users can look at what an example would submit before they have a cluster."""
    tasks = {
        "digits_ddp": "train",
        "mpi_job_kubernetes": "estimate",
        "pytorch_job_kubernetes": "fit",
        "pytorch_job_local": "add_up",
        "slurm_function": "estimate",
        "slurm_scripts": "count",
    }
    command = [str(Path(sys.executable).parent / "airflow-distrib"), "render", str(example), tasks[example.stem]]
    shown = json.loads(subprocess.check_output(command, text=True))
    launcher = {"kubernetes": "kubernetes", "slurm": "slurm"}
    words = example.stem.split("_")
    assert shown["launcher"] == next((launcher[word] for word in words if word in launcher), "local")
    assert ("manifest" in shown) == (shown["launcher"] == "kubernetes")
    open_fields = {"pytorch_job_local": ["task_config_overrides"], "slurm_scripts": ["inputs"]}
    assert shown.get("known at run time") == open_fields.get(example.stem)
    if shown["launcher"] == "slurm" and "known at run time" not in shown:
        assert "srun" in "\n".join(shown["ranks"])


def test_render_lists_the_tasks_when_the_name_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """A user who mistyped a name, or chose a task that submits nothing, sees what to write instead."""
    from airflow_distrib.cli import main

    dag = str(REPOSITORY / "dags" / "digits_ddp.py")
    assert main(["render", dag, "trian"]) == 2
    assert "'trian' is no task of" in (error := capsys.readouterr().err)
    assert "digits_ddp.train" in error
    assert main(["render", dag, "report"]) == 2
    assert "does not submit a job" in capsys.readouterr().err
    assert main(["render", "/no/such/file.py", "x"]) == 2
    assert "there is no file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nimport no_such_module\n", ":2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1\n\nx = = 2\n", ":3: SyntaxError: "),
        (
            "from airflow_distrib import Elastic\nElastic(nproc=1)\n",
            ":2: ConfigError: Elastic.nproc: there is no such field",
        ),
    ],
)
def test_render_names_the_line_where_a_dag_file_is_broken(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is one line with file and line number, which editors can jump to."""
    from airflow_distrib.cli import main

    (tmp_path / "dag.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    for path in ("dag.py", str(tmp_path / "dag.py")):
        assert main(["render", path, "x"]) == 2
        assert f"{path}{message}" in capsys.readouterr().err


def test_render_finds_tasks_of_dags_with_dots_and_neighbours_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A DAG file imports its helpers as Airflow lets it, and a DAG id may look like a task's prefix."""
    from airflow_distrib.cli import main

    (tmp_path / "neighbour_of_test_provider.py").write_text("SIZE = 2\n")
    (tmp_path / "dag.py").write_text(
        "from airflow.sdk import DAG, task\n"
        "from airflow_distrib import Elastic\n"
        "from neighbour_of_test_provider import SIZE\n"
        "with DAG('a.b', schedule=None):\n"
        "    @task.elastic(Elastic(nproc_per_node=SIZE))\n"
        "    def train(x=1): ...\n"
        "    train()\n"
        "    train.override(task_id='many').expand(x=[1, 2])\n"
    )
    for name in ("train", "a.b.train"):
        assert main(["render", str(tmp_path / "dag.py"), name]) == 0
        assert json.loads(capsys.readouterr().out)["config"] == {"nproc_per_node": 2}
    assert main(["render", str(tmp_path / "dag.py"), "many"]) == 2
    assert "is mapped" in capsys.readouterr().err
