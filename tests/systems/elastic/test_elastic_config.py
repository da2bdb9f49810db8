"""An Elastic config is checked where it is written, and becomes processes of one machine."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.runner import spec as specs
from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.elastic.kubernetes import kubernetes
from airflow_distrib.systems.elastic.local import local
from airflow_distrib.systems.elastic.slurm import slurm
from airflow_distrib.systems.slurm.submission import FunctionBody

REQUEST = JobRequest(identity=JobIdentity("dag", "run", "task", -1, 1))


@pytest.mark.parametrize(
    ("nnodes", "least", "most"), [(1, 1, 1), ("1", 1, 1), ("1:1", 1, 1), (2, 2, 2), ("1:4", 1, 4), (" 2 ", 2, 2)]
)
def test_nodes_are_a_number_or_a_range(nnodes: Any, least: int, most: int) -> None:
    """A config may write nodes as torchrun does, and "1:1" is one node like "1"."""
    config = Elastic(nnodes=nnodes)
    assert (config.min_nodes, config.max_nodes) == (least, most)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nnodes": "2:1"}, r"nnodes: the minimum exceeds the maximum; did you mean '1:2'\?"),
        ({"nnodes": "0"}, "nnodes: needs at least one node"),
        ({"nnodes": 0}, "nnodes: needs at least one node"),
        ({"nnodes": "a"}, "nnodes: must be a number such as 2, or a range"),
        ({"nnodes": -1}, "nnodes: must be"),
        ({"nnodes": True}, "nnodes: must be"),
        ({"nnodes": 1.5}, "nnodes: must be"),
        ({"nproc_per_node": 0}, "nproc_per_node: must be a whole number, at least 1, or 'auto', 'gpu' or 'cpu'; got 0"),
        ({"nproc_per_node": "tpu"}, "nproc_per_node: must be"),
        ({"start_method": "thread"}, "start_method: must be one of spawn, fork; got 'thread'"),
        ({"monitor_interval": 0}, "monitor_interval: must be a number of seconds above 0"),
        ({"monitor_interval": "soon"}, "monitor_interval: must be"),
        ({"max_restarts": -1}, "max_restarts: must be a whole number"),
        ({"rdzv_backend": "zookeeper"}, "rdzv_backend: must be one of c10d, static"),
        ({"rdzv_backend": "static", "nnodes": "1:2"}, "rdzv_backend: 'static' needs a fixed number of nodes"),
        ({"rdzv_endpoint": "node0"}, "rdzv_endpoint: must be 'host:port'"),
        ({"rdzv_configs": {"time_out": 5}}, r"rdzv_configs\['time_out'\]: torch has no such key; it knows timeout"),
        ({"rdzv_configs": {"join_timeout": -5}}, r"rdzv_configs\['join_timeout'\]: must be a number of seconds"),
        ({"rdzv_configs": 900}, "rdzv_configs: must be a mapping"),
        ({"env": {"A": 1}}, r"env\['A'\]: must be text; write '1' instead of 1"),
        ({"env": {"A=B": "1"}}, "env: 'A=B' cannot be the name"),
        ({"nccl_heartbeat_timeout_sec": 0}, "nccl_heartbeat_timeout_sec: must be"),
        ({"nproc": 2}, r"Elastic\.nproc: there is no such field; did you mean 'nproc_per_node'\?"),
    ],
)
def test_a_value_that_cannot_work_is_refused_where_it_is_written(fields: dict[str, Any], message: str) -> None:
    """The error names the field and what it takes, when the DAG file is parsed."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        Elastic(**fields)


def test_rendezvous_settings_are_merged_over_the_defaults() -> None:
    """A user who changes one timeout does not lose the others."""
    assert Elastic(rdzv_configs={"join_timeout": 60}).rendezvous() == {
        "timeout": 900,
        "join_timeout": 60.0,
        "read_timeout": 900,
    }


@pytest.mark.parametrize(
    ("fields", "mode"),
    [
        ({}, specs.RANKS),
        ({"nnodes": "1:1"}, specs.RANKS),
        ({"nproc_per_node": 2}, specs.RANKS),
        ({"nproc_per_node": "auto"}, specs.RANKS),
        ({"rdzv_configs": {"timeout": 5}}, specs.RANKS),
        ({"nproc_per_node": 2, "rdzv_configs": {"timeout": 5}}, specs.ELASTIC),
        ({"nproc_per_node": 2, "rdzv_endpoint": "localhost:0"}, specs.ELASTIC),
        ({"nproc_per_node": "auto", "rdzv_backend": "static"}, specs.ELASTIC),
        ({"max_restarts": 1}, specs.ELASTIC),
        ({"nnodes": 2}, specs.ELASTIC),
        ({"nnodes": "1:2"}, specs.ELASTIC),
    ],
)
def test_one_node_without_restarts_or_a_rendezvous_needs_no_agent(fields: dict[str, Any], mode: str) -> None:
    """It starts sooner and works without torch, while what is asked for of torch's agent takes that agent."""
    assert local(Elastic(**fields), REQUEST).mode == mode


@pytest.mark.parametrize(("fields", "mode"), [({}, specs.RANKS), ({"max_restarts": 1}, specs.ELASTIC)])
def test_one_node_of_a_cluster_needs_an_agent_as_little_as_this_machine(fields: dict[str, Any], mode: str) -> None:
    """The same config costs the same wherever it runs."""
    config = Elastic(nproc_per_node=8, **fields)
    pod = kubernetes(config.merged({"image": "me/x:1"}), REQUEST)
    body = slurm(config, REQUEST).body
    assert isinstance(body, FunctionBody)
    for spec in (pod.specs["spec.json"], body.spec):
        assert (spec.mode, spec.processes) == (mode, 1)
        assert spec.elastic is not None
        assert spec.elastic.nproc_per_node == 8


def test_settings_of_an_agent_that_is_not_used_are_listed() -> None:
    """Nothing that a user set is ignored without a word in the log."""
    assert local(Elastic(monitor_interval=1, rdzv_configs={"timeout": 5}), REQUEST).not_applied == (
        "monitor_interval",
        "rdzv_configs",
    )
    assert local(Elastic(nproc_per_node=2, start_method="fork"), REQUEST).not_applied == ()


def test_every_argument_of_torchrun_reaches_the_agent() -> None:
    """Moving a command line of torchrun into a config loses nothing."""
    config = Elastic(
        nnodes="1:2",
        nproc_per_node=4,
        start_method="fork",
        monitor_interval=2,
        max_restarts=3,
        rdzv_endpoint="head:29400",
        rdzv_configs={"last_call_timeout": 5},
        nccl_collective_timeout_sec=60,
    )
    plan = local(config, REQUEST)
    assert plan.processes == 2
    assert plan.elastic == specs.ElasticSpec(
        nproc_per_node=4,
        min_nodes=1,
        max_nodes=2,
        start_method="fork",
        monitor_interval=2.0,
        max_restarts=3,
        rdzv_backend="c10d",
        rdzv_endpoint="head:29400",
        rdzv_configs={"timeout": 900, "join_timeout": 900, "read_timeout": 900, "last_call_timeout": 5.0},
        rdzv_id=REQUEST.identity.name(),
        collective_timeout=60,
    )


def test_the_users_environment_wins_over_the_workers_and_the_workers_over_our_defaults() -> None:
    """Users can override an administrator's variables, and both override this package."""
    plan = local(Elastic(env={"A": "user"}), REQUEST)
    environment = plan.environment({"A": "worker", "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "9"}, 1)
    assert environment["A"] == "user"
    assert environment["TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"] == "9"
    assert environment["TORCH_NCCL_ENABLE_MONITORING"] == "1"


def test_nccl_settings_that_are_none_are_not_exported() -> None:
    """Users can have torch's own defaults back, whatever this package prefers."""
    config = Elastic(nccl_heartbeat_timeout_sec=None, nccl_async_error_handling=False, nccl_enable_monitoring=None)
    assert dict(local(config, REQUEST).env_defaults) == {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"}
