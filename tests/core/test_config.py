"""Every config checks its fields, renders templates and merges in the same way."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from airflow_distrib.core.config import Config
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.kubernetes.resources import CleanPodPolicy, Replica, Resources, RestartPolicy, RunPolicy


def test_a_mistyped_field_is_answered_with_the_right_one() -> None:
    """The error comes on the line that holds the mistake, and needs no look into the documentation."""
    with pytest.raises(ConfigError, match=r"Resources\.memroy: there is no such field; did you mean 'memory'\?"):
        Resources(memroy="1Gi")  # type: ignore[call-arg] # the point of the test


def test_a_field_like_no_other_is_answered_with_all_fields() -> None:
    """The user sees what there is when no field has a similar name."""
    with pytest.raises(ConfigError, match="its fields are cpu, memory, gpu"):
        Resources(zzz=1)  # type: ignore[call-arg] # the point of the test


def test_positional_arguments_are_refused() -> None:
    """The sequence of the fields would become a part of the interface."""
    with pytest.raises(ConfigError, match="keyword arguments only"):
        Resources("4")  # type: ignore[call-arg] # the point of the test


def test_configs_do_not_change() -> None:
    """One config may serve many tasks, and none of them may change it for the others."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Resources(cpu="1").cpu = "2"  # type: ignore[misc] # the point of the test


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Resources(cpu="four"), "cpu"),
        (lambda: Resources(memory="4 GB"), "memory"),
        (lambda: Resources(gpu=-1), "gpu"),
        (lambda: Resources(gpu=True), "gpu"),
        (lambda: Resources(extended={"rdma/hca": "x"}), r"extended\['rdma/hca'\]"),
        (lambda: Replica(replicas=-1), "replicas"),
        (lambda: Replica(replicas=1.5), "replicas"),  # type: ignore[arg-type] # the point of the test
        (lambda: Replica(image=""), "image"),
        (lambda: Replica(restart_policy="Sometimes"), "restart_policy"),
        (lambda: Replica(requests={"cpu": "1", "mem": "1Gi"}), r"requests\.mem"),
        (lambda: Replica(requests={"cpu": "x"}), r"requests\.cpu"),
        (lambda: Replica(requests=4), "requests"),  # type: ignore[arg-type] # the point of the test
        (lambda: Replica(pod_template={"containers": []}), "pod_template"),
        (lambda: RunPolicy(clean_pod_policy="Some"), "clean_pod_policy"),
        (lambda: RunPolicy(backoff_limit=-1), "backoff_limit"),
    ],
)
def test_a_value_that_cannot_work_names_its_field(make: Any, field: str) -> None:
    """The error holds the path to the field, also inside nested configs."""
    with pytest.raises(ConfigError, match=f"^{field}: "):
        make()


def test_values_take_their_normal_form() -> None:
    """Users may write mappings, words and numbers, and the rest of the code sees one form of each."""
    replica = Replica(replicas="3", requests={"cpu": 2, "gpu": "1"}, restart_policy="OnFailure")
    assert replica == Replica(replicas=3, requests=Resources(cpu="2", gpu=1), restart_policy=RestartPolicy.ON_FAILURE)


def test_both_names_of_the_restart_policy_mean_the_same() -> None:
    """Configs from Flyte write FAILURE where Kubernetes writes ON_FAILURE."""
    assert RestartPolicy["FAILURE"] is RestartPolicy.ON_FAILURE
    assert Replica(restart_policy="FAILURE").restart_policy is RestartPolicy.ON_FAILURE
    assert len({RestartPolicy.ALWAYS, RestartPolicy.ON_FAILURE, RestartPolicy.NEVER}) == 3


def test_zero_is_a_value_that_can_be_asked_for() -> None:
    """A backoff limit of zero differs from one that is not set."""
    policy = RunPolicy(backoff_limit=0, clean_pod_policy=CleanPodPolicy.NONE)
    assert policy.serialize() == {"backoff_limit": 0, "clean_pod_policy": "None"}


def test_templates_wait_until_they_are_rendered() -> None:
    """A field may hold a template instead of a number, and its rendered value is checked."""
    config = Replica(replicas="{{ params.n }}", requests={"cpu": "{{ params.cpu }}"})
    rendered = config.mapped(
        lambda value: value.mapped(lambda v: "2" if v else v) if isinstance(value, Config) else "4" if value else value
    )
    assert rendered == Replica(replicas=4, requests=Resources(cpu="2"))
    with pytest.raises(ConfigError, match="^replicas: "):
        config.mapped(lambda value: "many" if isinstance(value, str) else value)


def test_merging_goes_into_nested_configs_and_replaces_the_rest() -> None:
    """Overrides name only what differs, and everything else stays."""
    config = Replica(replicas=1, image="a", requests=Resources(cpu="1", memory="1Gi"))
    merged = config.merged({"replicas": 2, "requests": {"cpu": "4"}})
    assert merged == Replica(replicas=2, image="a", requests=Resources(cpu="4", memory="1Gi"))
    assert config.replicas == 1


def test_merging_an_unknown_field_is_an_error() -> None:
    """A mistyped override must not be without effect, also one level down."""
    config = Replica(requests=Resources(cpu="1"))
    with pytest.raises(ConfigError, match="did you mean 'replicas'"):
        config.merged({"replica": 2})
    with pytest.raises(ConfigError, match="did you mean 'memory'"):
        config.merged({"requests": {"memroy": "1Gi"}})
