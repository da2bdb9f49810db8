"""Keeps Airflow's own files out of the user's home, before anything imports it; makes modules of tests importable."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

_HOME = tempfile.TemporaryDirectory(prefix="airflow-home-")
os.environ["AIRFLOW_HOME"] = _HOME.name
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"
_HERE = Path(__file__).parent
for folder in (_HERE, _HERE / "extension", _HERE / "operators", _HERE / "systems/kubernetes", _HERE / "systems/local"):
    sys.path.insert(0, str(folder))
