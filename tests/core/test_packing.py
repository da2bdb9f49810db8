"""Functions are packed on the worker, so that ranks need neither the DAG file nor Airflow."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import airflow_distrib
from airflow_distrib.core import archive, packing
from airflow_distrib.core.errors import FunctionNotPicklable
from airflow_distrib.runner import payload

LOCK = threading.Lock()


def call_elsewhere(packed: bytes, tmp_path: Path) -> str:
    """Run a payload in a process that knows nothing but the archive."""
    (tmp_path / "runner.pyz").write_bytes(archive.build())
    (tmp_path / "payload").write_bytes(packed)
    code = (
        "import sys; sys.path.insert(0, 'runner.pyz')\n"
        "from airflow_distrib.runner.payload import unwrap\n"
        "function, args, kwargs = unwrap(open('payload', 'rb').read())\n"
        "print(function(*args, **kwargs))\n"
    )
    return subprocess.check_output([sys.executable, "-I", "-c", code], cwd=tmp_path, text=True).strip()


def load(path: Path, name: str) -> Any:
    """Import a file as a DAG file is imported."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


NAME_OF_AIRFLOW = f"unusual_prefix_{'0' * 40}_dag"


def pack_from(source: str, tmp_path: Path) -> bytes:
    """The payload of the function ``train`` of a DAG file, imported as Airflow does."""
    (tmp_path / "dag.py").write_text(source)
    try:
        return packing.pack(load(tmp_path / "dag.py", NAME_OF_AIRFLOW).train, [], {}, [tmp_path])
    finally:
        del sys.modules[NAME_OF_AIRFLOW]


@pytest.mark.parametrize(
    ("source", "returned"),
    [
        (
            "from functools import lru_cache\n"
            "@lru_cache(maxsize=8)\n"
            "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
            "def train():\n    return fib(30), fib.cache_info().maxsize\n",
            "(832040, 8)",
        ),
        ("import functools\n@functools.cache\ndef train():\n    return 5\n", "5"),
        ("import functools\nsix = functools.cache(lambda: 6)\ndef train():\n    return six()\n", "6"),
        (
            "import functools\n"
            "class Model:\n"
            "    @functools.cache\n    def a(self):\n        return 1\n"
            "    @functools.cached_property\n    def b(self):\n        return 2\n"
            "    @staticmethod\n    @functools.lru_cache\n    def c():\n        return 3\n"
            "    @functools.singledispatchmethod\n    def d(self, x):\n        return 4\n"
            "    @d.register\n    def _(self, x: int):\n        return self.a() + x\n"
            "def train():\n    m = Model()\n    return m.a(), m.b, m.c(), m.d(''), m.d(4)\n",
            "(1, 2, 3, 4, 5)",
        ),
        (
            "import functools\n"
            "@functools.singledispatch\ndef size(x):\n    return 1\n"
            "@size.register\ndef _(x: list):\n    return sum(size(each) for each in x)\n"
            "size([1])\n"
            "def train():\n    return size([1, [2, 3]])\n",
            "3",
        ),
        (
            "import contextvars\n"
            "plain, given, changed = (contextvars.ContextVar(n) for n in 'abc')\n"
            "given = contextvars.ContextVar('given', default=1)\n"
            "changed.set(2)\n"
            "def train():\n    return plain.get(0), given.get(), changed.get()\n",
            "(0, 1, 2)",
        ),
        (
            "import typing, enum, weakref\n"
            "Id = typing.NewType('Id', int)\n"
            "P = typing.ParamSpec('P')\n"
            "class Color(enum.Enum):\n    RED = 1\n"
            "known = weakref.WeakValueDictionary(red=Color)\n"
            "def train():\n    return Id(3), str(P), known['red'](1) is Color.RED\n",
            "(3, '~P', True)",
        ),
        (
            "class Missing:\n"
            "    def __reduce__(self):\n        return 'MISSING'\n"
            "    def __repr__(self):\n        return 'missing'\n"
            "MISSING = Missing()\n"
            "def train(x=MISSING):\n    return x, x is MISSING\n",
            "(missing, True)",
        ),
    ],
)
def test_what_pickle_finds_by_its_name_only_travels_from_a_dag_file(source: str, returned: str, tmp_path: Path) -> None:
    """Ranks do not have the DAG file, so nothing of it can be looked up there."""
    assert call_elsewhere(pack_from(source, tmp_path), tmp_path) == returned


def test_what_cannot_travel_is_named_inside_a_class_or_a_module(tmp_path: Path) -> None:
    """A whole class or module is no help to somebody who looks for the one variable at fault."""
    source = "import threading\nclass Model:\n    lock = threading.Lock()\ndef train():\n    return Model()\n"
    with pytest.raises(FunctionNotPicklable, match="Model: its variable 'lock' is a _thread.lock"):
        pack_from(source, tmp_path)
    source = "import sys\nimport threading\nLOCK = threading.Lock()\nthis = sys.modules[__name__]\n"
    source += "def train():\n    return this\n"
    with pytest.raises(FunctionNotPicklable, match="module dag: its variable 'LOCK' .* Import dag inside the function"):
        pack_from(source, tmp_path)


def test_functions_of_a_dag_file_and_of_its_neighbours_travel_by_value(tmp_path: Path) -> None:
    """The ranks have neither the DAG file nor the modules beside it."""
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "helper_of_test_packing.py").write_text("FACTOR = 3\ndef triple(x):\n    return x * FACTOR\n")
    (dags / "dag.py").write_text(
        "import helper_of_test_packing\n"
        "from helper_of_test_packing import triple\n"
        "def train(x):\n    return triple(x) + helper_of_test_packing.FACTOR\n"
    )
    sys.path.insert(0, str(dags))
    try:
        module = load(dags / "dag.py", "unusual_prefix_dag")
        packed = packing.pack(module.train, [2], {}, [dags])
    finally:
        sys.path.remove(str(dags))
        sys.modules.pop("helper_of_test_packing", None)
        sys.modules.pop("unusual_prefix_dag", None)
    assert call_elsewhere(packed, tmp_path) == "9"


def test_helpers_that_the_function_imports_while_it_runs_travel_too(tmp_path: Path) -> None:
    """Imports inside the function, as in the examples, find modules that behave like any other."""
    dags = tmp_path / "dags"
    (dags / "package_of_test_packing").mkdir(parents=True)
    (dags / "package_of_test_packing" / "__init__.py").write_text("")
    (dags / "package_of_test_packing" / "deep.py").write_text("def triple(x):\n    return x * 3\n")
    (dags / "package_of_test_packing" / "near.py").write_text("from .deep import triple\n")
    (dags / "later_of_test_packing.py").write_text(
        "import threading\n"
        "import other_of_test_packing\n"
        "LOCK = threading.Lock()\n"
        "FACTOR = None\n"
        "def prepare():\n    global FACTOR\n    FACTOR = other_of_test_packing.TWO\n"
    )
    (dags / "other_of_test_packing.py").write_text("TWO = 2\n")
    (dags / "dag.py").write_text(
        "def helper():\n"
        "    import later_of_test_packing as later\n"
        "    later.prepare()\n"
        "    return later\n"
        "def train(x):\n"
        "    from package_of_test_packing.near import triple\n"
        "    return triple(x) * helper().FACTOR\n"
    )
    sys.path.insert(0, str(dags))
    try:
        packed = packing.pack(load(dags / "dag.py", "unusual_prefix_later").train, [5], {}, [dags])
    finally:
        sys.path.remove(str(dags))
        for name in [name for name in sys.modules if "of_test_packing" in name or name == "unusual_prefix_later"]:
            del sys.modules[name]
    assert call_elsewhere(packed, tmp_path) == "30"


def test_helpers_are_not_imported_on_the_worker(tmp_path: Path) -> None:
    """They may be meant for ranks only, and importing them here could even end the worker."""
    (tmp_path / "exits_of_test_packing.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "dag.py").write_text("def train():\n    import exits_of_test_packing\n")
    module = load(tmp_path / "dag.py", "unusual_prefix_exits")
    packed = packing.pack(module.train, [], {}, [tmp_path])
    sys.modules.pop("unusual_prefix_exits")
    assert b"raise SystemExit(3)" in packed
    assert "exits_of_test_packing" not in sys.modules


def test_the_whole_package_is_there_where_it_is_installed(tmp_path: Path) -> None:
    """Airflow, when a local rank imports it, looks for this provider and has to find all of it."""
    (tmp_path / "runner.pyz").write_bytes(archive.build())
    code = (
        "import sys; sys.path.insert(0, 'runner.pyz')\n"
        "import airflow_distrib, airflow_distrib.get_provider_info\n"
        "print(airflow_distrib.__file__, airflow_distrib.__version__, airflow_distrib.Elastic.__name__)\n"
    )
    shown = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, text=True).split()
    assert "runner.pyz" in shown[0]
    assert shown[1:] == [airflow_distrib.__version__, "Elastic"]


def test_libraries_below_the_dag_folder_travel_by_reference(tmp_path: Path) -> None:
    """A virtual environment may be in the DAG folder, and the ranks have its libraries themselves."""
    library = tmp_path / "venv" / "lib" / "site-packages" / "library_of_test_packing.py"
    library.parent.mkdir(parents=True)
    library.write_text("def thing():\n    return 'much code'\n")
    module = load(library, "library_of_test_packing")
    packed = packing.pack(module.thing, [], {}, [tmp_path])
    sys.modules.pop("library_of_test_packing")
    assert b"much code" not in packed
    assert b"library_of_test_packing" in packed


def test_no_module_stays_registered_with_cloudpickle() -> None:
    """Other users of cloudpickle in this process are not affected."""
    packing.pack(lambda: None, [], {}, [Path(__file__).parent])
    assert cloudpickle.list_registry_pickle_by_value() == set()


def test_partial_functions_and_methods_travel() -> None:
    """Anything callable that can be pickled may be the function of a task."""
    function, args, _ = payload.unwrap(packing.pack(functools.partial(max, 3), [7], {}))
    assert function(*args) == 7


def test_a_closure_variable_that_cannot_travel_is_named() -> None:
    """The error holds its type and its function, so that the user knows what to change."""
    connection = threading.Lock()

    def train() -> None:
        connection.acquire()

    with pytest.raises(FunctionNotPicklable, match=r"train: its closure variable 'connection' is a _thread.lock"):
        packing.pack(train, [], {})


def test_a_global_variable_that_cannot_travel_is_named() -> None:
    """A nested function may be the one that uses it, which pickle's own error does not tell."""

    def train() -> Any:
        return [LOCK for _ in range(3)]

    with pytest.raises(FunctionNotPicklable, match=r"global variable 'LOCK' is a _thread.lock"):
        packing.pack(train, [], {}, [Path(__file__).parent])


def test_a_variable_of_a_helper_is_named_with_the_helper() -> None:
    """The function that the task calls need not be the one at fault."""
    connection = threading.Lock()

    def helper() -> None:
        connection.acquire()

    def train() -> None:
        helper()

    with pytest.raises(FunctionNotPicklable, match=r"helper: its closure variable 'connection'"):
        packing.pack(train, [], {})


def test_a_default_that_cannot_travel_is_named() -> None:
    """Defaults are a part of the function, and easily overlooked."""

    def train(lock: Any = LOCK) -> None:
        del lock

    with pytest.raises(FunctionNotPicklable, match="default of 'lock'"):
        packing.pack(train, [], {})


@pytest.mark.parametrize(
    ("args", "kwargs", "what"), [([1, LOCK], {}, "argument 2"), ([], {"lock": LOCK}, "argument 'lock'")]
)
def test_an_argument_that_cannot_travel_is_named(args: list[Any], kwargs: dict[str, Any], what: str) -> None:
    """The user sees which of the arguments it is, by position or by name."""
    with pytest.raises(FunctionNotPicklable, match=f"cannot ship {what} of print, a _thread.lock"):
        packing.pack(print, args, kwargs)


def test_the_archive_is_the_same_bytes_each_time() -> None:
    """What was submitted can be compared with what would be submitted now."""
    archive.build.cache_clear()
    first = archive.build()
    archive.build.cache_clear()
    assert archive.build() == first


def test_recoverable_error_can_be_raised_where_the_package_is_not_installed(tmp_path: Path) -> None:
    """Functions use the name that users import, on images that know nothing of this package."""

    def names() -> str:
        return ",".join(
            [airflow_distrib.RecoverableError.__name__, airflow_distrib.RecoverableError.__mro__[1].__name__]
        )

    error = airflow_distrib.RecoverableError

    def direct() -> str:
        return error.__module__

    assert call_elsewhere(packing.pack(names, [], {}), tmp_path) == "RecoverableError,Exception"
    assert call_elsewhere(packing.pack(direct, [], {}), tmp_path) == "airflow_distrib.runner.errors"
