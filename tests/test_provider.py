"""What Airflow and users see of the package as a whole."""

from __future__ import annotations

import importlib
import importlib.resources
import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import airflow_distrib
from airflow_distrib.catalogue import ENTRIES, HOOKS, LINKS, PUBLIC, TRIGGERS, Entry
from airflow_distrib.get_provider_info import get_provider_info

REPOSITORY = Path(__file__).parents[1]
HEAVY = ("torch", "kubernetes", "kubernetes_asyncio", "asyncssh", "databricks", "ray", "numpy", "pandas")


def load(path: str) -> Any:
    """The object at a dotted path."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("schema", ["provider_info.schema.json", "provider.yaml.schema.json"])
def test_provider_info_fits_airflows_own_schemas(schema: str) -> None:
    """The second is the stricter one; it asks for release data that only Airflow's own providers have."""
    rules = json.loads((importlib.resources.files("airflow") / schema).read_text())
    info = get_provider_info()
    if schema.startswith("provider.yaml"):
        info |= {"state": "ready", "source-date-epoch": 0}
    jsonschema.validate(info, rules)


def test_the_entry_point_leads_to_the_provider_info() -> None:
    """Airflow finds providers by it."""
    (found,) = [point for point in entry_points(group="apache_airflow_provider") if "airflow_distrib" in point.value]
    assert found.load()() == get_provider_info()


def test_airflow_lists_the_provider_with_its_decorators_and_links() -> None:
    """As ``airflow providers`` prints it."""
    from airflow.providers_manager import ProvidersManager
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

    manager = ProvidersManager()
    assert "airflow-distrib" in manager.providers
    decorators = ProvidersManagerTaskRuntime().taskflow_decorators
    assert {entry.decorator_name for entry in ENTRIES if entry.decorator} <= set(decorators)
    assert set(LINKS) <= set(manager.extra_links_class_names)
    assert {hook.connection_type for hook in HOOKS} <= set(ProvidersManagerTaskRuntime().hooks)


def test_hooks_and_triggers_are_where_the_catalogue_says() -> None:
    """And the hook is of the type it is listed for."""
    for hook in HOOKS:
        assert load(hook.path).conn_type == hook.connection_type
    for trigger in TRIGGERS:
        assert importlib.import_module(trigger)
    declared = {each["connection-type"]: each["conn-fields"] for each in get_provider_info()["connection-types"]}
    assert "namespace" in declared["kubernetes"]


def test_public_names_are_loaded_from_where_the_catalogue_says() -> None:
    """And are all of them."""
    assert sorted(PUBLIC) == sorted(airflow_distrib.__all__)
    for name, path in PUBLIC.items():
        assert getattr(airflow_distrib, name) is load(path)
    assert set(airflow_distrib.__all__) <= set(dir(airflow_distrib))
    with pytest.raises(AttributeError, match="no attribute 'Elastc'"):
        _ = airflow_distrib.Elastc


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.system)
def test_every_row_of_the_catalogue_is_true(entry: Entry) -> None:
    """Operator, config, decorator, extra and example exist and belong together."""
    operator = load(entry.operator)
    assert operator.config_type is load(entry.config)
    if entry.decorator:
        assert callable(load(entry.decorator))
    text = (REPOSITORY / "dags" / entry.example).read_text()
    shown = f"@task.{entry.decorator_name}" if entry.decorator else operator.__name__
    assert shown in text or operator.__name__ in text
    if entry.extra:
        assert f"\n{entry.extra} = [" in (REPOSITORY / "pyproject.toml").read_text()


def test_the_readmes_table_is_the_catalogues() -> None:
    """So that it cannot promise more than there is."""
    readme = (REPOSITORY / "README.md").read_text()
    for entry in ENTRIES:
        name = entry.operator.rpartition(".")[2]
        decorator = f"`@task.{entry.decorator_name}`" if entry.decorator else "–"
        assert f"| {entry.system} | `{name}` | {decorator} | {entry.works} |" in readme


def test_importing_any_module_imports_no_systems_library() -> None:
    """DAG files are parsed over and over."""
    package = Path(airflow_distrib.__file__).parent
    modules = [
        ".".join(["airflow_distrib", *path.relative_to(package).with_suffix("").parts]).removesuffix(".__init__")
        for path in package.rglob("*.py")
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
    """Provider discovery runs before Airflow is configured."""
    code = "import airflow_distrib, airflow_distrib.get_provider_info, sys; print('airflow' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize("example", sorted((REPOSITORY / "dags").glob("*.py")), ids=lambda path: path.stem)
def test_every_example_renders_without_any_service(example: Path) -> None:
    """Through the command that users have for it."""
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
        assert "srun" in shown["ranks"]


def test_render_says_which_tasks_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    """When the name is wrong, or the task submits nothing."""
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
def test_render_says_where_a_dag_file_is_broken(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line with the place, as a compiler does."""
    from airflow_distrib.cli import main

    (tmp_path / "dag.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    for path in ("dag.py", str(tmp_path / "dag.py")):
        assert main(["render", path, "x"]) == 2
        assert f"{path}{message}" in capsys.readouterr().err


def test_render_finds_tasks_of_dags_with_dots_and_neighbours_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A DAG file imports its helpers as Airflow lets it."""
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
