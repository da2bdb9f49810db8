"""A real Airflow on this machine: API server, scheduler, dag-processor and triggerer.

Everything is configured through the environment and lives in one temporary folder. Each
component is a process group of its own, so that stopping never leaves one behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx

COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
T = TypeVar("T")
OVER = frozenset({"success", "failed", "upstream_failed", "skipped"})


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, look: Callable[[], T | None], seconds: float = 90.0, every: float = 0.3) -> T:
    """Call ``look`` until it answers; fails with ``what`` when it does not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (found := look()) is not None and found is not False:
            return found
        time.sleep(every)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")


class AirflowStack:
    """Starts and drives one Airflow."""

    def __init__(
        self,
        home: Path,
        dags: Path,
        *,
        database: str | None = None,
        settings: Mapping[str, str] = {},
        variables: Mapping[str, str] = {},
    ) -> None:
        self.home = home
        self.temporary = home / "tmp"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._client = httpx.Client(base_url=self.url, timeout=30)
        database = database or f"sqlite:///{home}/airflow.db"
        self.environment = {**self._environment(dags, database, settings), **variables}

    def _environment(self, dags: Path, database: str, settings: Mapping[str, str]) -> dict[str, str]:
        values = {
            "CORE__DAGS_FOLDER": str(dags),
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__UNIT_TEST_MODE": "False",
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__PARALLELISM": "4",
            "CORE__EXECUTOR": "LocalExecutor",
            "DATABASE__SQL_ALCHEMY_CONN": database,
            "API__PORT": str(self.port),
            "API__HOST": "127.0.0.1",
            "API__BASE_URL": self.url,
            "API__SECRET_KEY": secrets.token_hex(16),
            "API__WORKERS": "1",
            "API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
            "LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            # Without it Airflow may fail a healthy task that ends quickly.
            "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            # A worker that was killed is noticed within seconds instead of five minutes.
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10",
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
            "TRIGGERER__JOB_HEARTBEAT_SEC": "2",
            **settings,
        }
        inherited = {
            k: v
            for k, v in os.environ.items()
            # Jobs go where the test's own connection leads, and nowhere else.
            if not k.startswith("AIRFLOW") and k not in ("PYTHONDONTWRITEBYTECODE", "KUBECONFIG")
        }
        bin_folder = str(Path(sys.executable).parent)
        return {
            **inherited,
            "PATH": f"{bin_folder}{os.pathsep}{inherited.get('PATH', '')}",
            "AIRFLOW_HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            **{f"AIRFLOW__{name}": value for name, value in values.items()},
        }

    # ------------------------------------------------------------------ processes

    def start(self) -> None:
        """Create the database and start every component."""
        self.temporary.mkdir(parents=True, exist_ok=True)
        self.airflow("db", "migrate")
        for component in COMPONENTS:
            self.start_component(component)
        wait_for("the API server", self._is_up, 120)
        token = self._client.get("/auth/token").raise_for_status().json()["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"

    def airflow(self, *arguments: str) -> str:
        """Run one airflow command to its end and return what it printed."""
        done = subprocess.run(
            ["airflow", *arguments], env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"airflow {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start_component(self, component: str, name: str | None = None) -> None:
        """Start one component, or under another name one more; its output goes to a file of its name."""
        # A second one on this machine needs another port to serve its logs from.
        ports = {"AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port())} if name else {}
        name = name or component
        with (self.home / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                ["airflow", component],
                env={**self.environment, **ports},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def processes_of(self, name: str) -> list[int]:
        """Every process of a component's group."""
        group = self._processes[name].pid
        members = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if os.getpgid(int(folder.name)) == group:
                    members.append(int(folder.name))
        return members

    def kill_component(self, name: str) -> None:
        """End a component as a power cut does."""
        process = self._processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """Stop every component, politely first."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._client.close()

    def _is_up(self) -> bool:
        for component, process in self._processes.items():
            assert process.poll() is None, f"{component} ended:\n{self.output_of(component)[-3000:]}"
        try:
            return self._client.get("/api/v2/version").status_code == 200
        except httpx.TransportError:
            return False

    def output_of(self, component: str) -> str:
        """What a component has printed."""
        return (self.home / f"{component}.log").read_text(errors="replace")

    # ------------------------------------------------------------------ REST

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One call of the public API; asked again when SQLite was locked by another component."""
        for pause in (0.5, 1.0, 2.0, 0.0):
            response = self._client.request(method, f"/api/v2{path}", **arguments)
            if response.status_code != 500 or "Database error" not in response.text:
                break
            time.sleep(pause)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run; waits for the DAG to be known first."""

        def known() -> bool:
            return self._client.get(f"/api/v2/dags/{dag_id}").status_code == 200

        wait_for(f"DAG {dag_id} to be parsed; import errors: {self.import_errors()}", known)
        self.call("PATCH", f"/dags/{dag_id}", json={"is_paused": False})
        run = self.call("POST", f"/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": dict(conf or {})})
        return str(run["dag_run_id"])

    def import_errors(self) -> list[str]:
        """Stack traces of DAG files that could not be parsed."""
        return [each["stack_trace"] for each in self.call("GET", "/importErrors")["import_errors"]]

    def run_state(self, dag_id: str, run_id: str) -> str:
        """State of a DAG run."""
        return str(self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def task(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """State and times of a task instance."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        return dict(self.call("GET", path if map_index < 0 else f"{path}/{map_index}"))

    def wait_for_state(self, dag_id: str, run_id: str, task_id: str, *states: str, seconds: float = 120) -> str:
        """Wait until a task instance is in one of ``states``; fails as soon as it ended otherwise."""

        def look() -> str | None:
            state = self.task(dag_id, run_id, task_id)["state"]
            if state in states:
                return str(state)
            assert state not in OVER, (
                f"{task_id} is {state}, not {states}:\n{self.log(dag_id, run_id, task_id)[-6000:]}"
            )
            return None

        return wait_for(f"{dag_id}.{task_id} to be {states}", look, seconds)

    def set_state(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Mark a task instance, as the button in the UI does."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        self.call("PATCH", path, json={"new_state": state})

    def set_slots(self, slots: int) -> None:
        """How many tasks the default pool takes at once."""
        self.call("PATCH", "/pools/default_pool", params={"update_mask": "slots"}, json={"slots": slots})

    def clear(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Clear a task instance, as the button in the UI does."""
        body = {
            "dry_run": False,
            "task_ids": [task_id],
            "dag_run_id": run_id,
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self.call("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)

    def xcom(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Any:
        """What a task returned, as the API shows it."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        value = self.call("GET", path, params={"deserialize": "false", "map_index": map_index})["value"]
        return json.loads(value) if isinstance(value, str) and value[:1] in '{["' else value

    def events(
        self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1
    ) -> list[dict[str, Any]]:
        """Entries of the task log of one try; none before it begins."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        response = self._client.get(path, params={"map_index": map_index}, headers={"Accept": "application/json"})
        if response.status_code == 404:
            return []
        return list(response.raise_for_status().json()["content"])

    def log(self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1) -> str:
        """The task log of one try as text, with the types and messages of errors."""
        return "\n".join(_text_of(entry) for entry in self.events(dag_id, run_id, task_id, try_number, map_index))

    def wait_for_log(self, dag_id: str, run_id: str, task_id: str, text: str) -> str:
        """Wait until a task's log holds ``text``."""

        def look() -> str | None:
            log = self.log(dag_id, run_id, task_id)
            return log if text in log else None

        return wait_for(f"{text!r} in the log of {task_id}", look, 120)


def _text_of(entry: dict[str, Any]) -> str:
    details = entry.get("error_detail") or []
    causes = [f"{each.get('exc_type')}: {each.get('exc_value')}" for each in details]
    return "\n".join([str(entry.get("event", "")), *causes])


@contextlib.contextmanager
def running(home: Path, dags: Path, **options: Any) -> Iterator[AirflowStack]:
    """A started stack that is stopped in the end."""
    stack = AirflowStack(home, dags, **options)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def processes_with(marker: str) -> dict[int, str]:
    """Living processes whose environment or command line holds ``marker``: pid to command line."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (folder / "environ").read_bytes().decode(errors="replace")
            if state not in "ZX" and marker in command + environment:
                found[int(folder.name)] = command
    return found
