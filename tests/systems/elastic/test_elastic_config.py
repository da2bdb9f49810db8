"""Elastic: what it takes, and what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.elastic.local import local_plan
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.runner import spec as specs


@pytest.mark.parametrize(
    ("nnodes", "least", "most"), [(1, 1, 1), ("1", 1, 1), ("1:1", 1, 1), (2, 2, 2), ("1:4", 1, 4), (" 2 ", 2, 2)]
)
def test_nodes_are_a_number_or_a_range(nnodes: Any, least: int, most: int) -> None:
    """ "1" and "1:1" are one node."""
    config = Elastic(nnodes=nnodes)
    assert (config.min_nodes, config.max_nodes) == (least, most)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nnodes": "2:1"}, r"nnodes: the least is more than the most; did you mean '1:2'\?"),
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
def test_what_cannot_work_is_refused_where_it_is_written(fields: dict[str, Any], message: str) -> None:
    """Naming the field and what it takes."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        Elastic(**fields)


def test_rendezvous_settings_are_merged_over_the_defaults() -> None:
    """Naming one does not lose the others."""
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
        ({"nproc_per_node": 2}, specs.ELASTIC),
        ({"nproc_per_node": "auto"}, specs.ELASTIC),
        ({"max_restarts": 1}, specs.ELASTIC),
        ({"nnodes": 2}, specs.ELASTIC),
    ],
)
def test_one_rank_that_never_restarts_needs_no_agent(fields: dict[str, Any], mode: str) -> None:
    """An asked-for restart is honoured, so it takes torch's agent."""
    assert local_plan(Elastic(**fields), "id").mode == mode


def test_settings_of_an_agent_that_is_not_there_are_listed() -> None:
    """Nothing is ignored without a word."""
    assert local_plan(Elastic(start_method="fork", nccl_collective_timeout_sec=60), "id").not_applied == (
        "start_method",
        "nccl_collective_timeout_sec",
    )
    assert local_plan(Elastic(nproc_per_node=2, start_method="fork"), "id").not_applied == ()


def test_every_argument_of_torchrun_reaches_the_agent() -> None:
    """None is lost on the way."""
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
    plan = local_plan(config, "the-id")
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
        rdzv_id="the-id",
        collective_timeout=60,
    )


def test_the_users_environment_wins_over_the_workers_and_the_workers_over_our_defaults() -> None:
    """In that order."""
    plan = local_plan(Elastic(env={"A": "user"}), "id")
    environment = plan.environment({"A": "worker", "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "9"}, 1)
    assert environment["A"] == "user"
    assert environment["TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"] == "9"
    assert environment["TORCH_NCCL_ENABLE_MONITORING"] == "1"


def test_nccl_settings_that_are_none_are_left_to_torch() -> None:
    """Every one can be switched off."""
    config = Elastic(nccl_heartbeat_timeout_sec=None, nccl_async_error_handling=False, nccl_enable_monitoring=None)
    assert dict(local_plan(config, "id").env_defaults) == {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"}
