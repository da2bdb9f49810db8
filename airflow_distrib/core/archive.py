"""The archive that carries the runner: one file that any Python 3.8 or later can start."""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path

import cloudpickle

import airflow_distrib.runner

# Appended to the package's root in the archive: where airflow_distrib is installed as
# well, its other parts stay importable.
_EXTEND = """
from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
"""

_MAIN = """\
import sys

from airflow_distrib.runner.__main__ import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""

# Fixed, so that the same release always makes the same bytes.
_DATE = (2020, 1, 1, 0, 0, 0)


@functools.cache
def build() -> bytes:
    """Return the archive: the runner and the installed cloudpickle, the same bytes each time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted(_files().items()):
            archive.writestr(zipfile.ZipInfo(name, _DATE), text, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _files() -> dict[str, str]:
    root = Path(airflow_distrib.runner.__file__).parents[1]
    files = {
        "__main__.py": _MAIN,
        # Functions may say airflow_distrib.RecoverableError, which is looked up in the catalogue.
        "airflow_distrib/__init__.py": (root / "__init__.py").read_text(encoding="utf-8") + _EXTEND,
        "airflow_distrib/catalogue.py": (root / "catalogue.py").read_text(encoding="utf-8"),
    }
    for target, folder in (
        ("airflow_distrib/runner", root / "runner"),
        ("cloudpickle", Path(cloudpickle.__file__).parent),
    ):
        for path in folder.glob("*.py"):
            files[f"{target}/{path.name}"] = path.read_text(encoding="utf-8")
    return files
