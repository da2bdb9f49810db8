"""A quantity with the wrong unit is refused where it is written, because Kubernetes would take it."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.kubernetes.options import SchedulingPolicy
from airflow_distrib.systems.kubernetes.quantities import amount
from airflow_distrib.systems.kubernetes.resources import Resources
from airflow_distrib.systems.pytorchjob.config import PyTorchJob


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (4, "4Gi"),
        ("4", "4Gi"),
        (1.5, "1.5Gi"),
        (512, "512Mi"),
        ("4m", "4Mi"),
        ("512m", "512Mi"),
        ("64k", "64Mi"),
        ("8GB", "8Gi"),
        ("8gb", "8Gi"),
        ("8g", "8Gi"),
        ("8 GiB", "8Gi"),
        ("512 MB", "512Mi"),
    ],
)
@pytest.mark.parametrize("field", ["memory", "ephemeral_storage"])
def test_a_size_that_nobody_can_mean_is_refused_with_the_likely_one(field: str, given: Any, meant: str) -> None:
    """Four bytes of memory are valid in Kubernetes, and would kill every pod."""
    with pytest.raises(ConfigError, match=rf"^{field}: .*did you mean '{re.escape(meant)}'\?") as refused:
        Resources(**{field: given})
    assert repr(given) in str(refused.value)


@pytest.mark.parametrize("given", ["1Mi", "4Gi", "1.5Gi", "500M", "4e9", 4294967296, "1E", "0"])
def test_a_size_with_a_unit_or_of_many_bytes_is_taken(given: Any) -> None:
    """Every way to write a quantity that Kubernetes has stays open."""
    assert Resources(memory=given) == Resources(memory=str(given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("4Gi", "cpu: is a number of cores, but '4Gi' is a size; write '4', or set memory"),
        ("2G", "cpu: is a number of cores, but '2G' is a size; write '2', or set memory"),
        (8000, r"cpu: 8000 is 8000 cores; did you mean '8000m' \(thousandths\)\?"),
        ("four", "cpu: must be a number of cores such as 2, '0.5' or '500m'; got 'four'"),
        (True, "cpu: must be a number of cores"),
    ],
)
def test_a_number_of_cores_is_not_a_size(given: Any, message: str) -> None:
    """A mistaken unit would ask for billions of cores, which no node will ever have."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        Resources(cpu=given)


@pytest.mark.parametrize("given", [0, 2, 0.5, "0.5", "500m", "192"])
def test_cores_are_numbers_or_thousandths(given: Any) -> None:
    """Small and large numbers of cores are taken as they are."""
    assert Resources(cpu=given).cpu == str(given)


@pytest.mark.parametrize(
    ("extended", "message"),
    [
        ({"cpu": 4}, r"extended\['cpu'\]: is the field cpu; set it there"),
        ({"memory": "4Gi"}, r"extended\['memory'\]: is the field memory; set it there"),
        ({"ephemeral-storage": "4Gi"}, r"extended\['ephemeral-storage'\]: is the field ephemeral_storage"),
        ({"gpu": 1}, r"extended\['gpu'\]: is the field gpu; set it there"),
        ({"tpu": 1}, r"extended\['tpu'\]: is not the name of a resource; write its full name, such as"),
        ({"": 1}, r"extended\[''\]: is not the name of a resource"),
        ({"google.com/tpu": 0.5}, r"extended\['google.com/tpu'\]: must be a whole number.*got 0.5"),
        ({"google.com/tpu": "500m"}, r"extended\['google.com/tpu'\]: must be a whole number.*got '500m'"),
        ({"hugepages-2Mi": 4}, r"extended\['hugepages-2Mi'\]: 4 is a number of bytes; did you mean '4Gi'"),
    ],
)
def test_a_resource_without_a_field_needs_its_full_name_and_a_whole_number(
    extended: dict[str, Any], message: str
) -> None:
    """The API server would refuse the pods one by one, long after the DAG file was parsed."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        Resources(extended=extended)


def test_devices_and_huge_pages_are_extended_resources() -> None:
    """Whatever a device plugin offers can be asked for, by the name that it has in the cluster."""
    given: dict[str, str | int] = {
        "rdma/hca": 1,
        "amd.com/gpu": "2",
        "nvidia.com/mig-1g.5gb": 1,
        "hugepages-2Mi": "64Mi",
    }
    assert Resources(extended=given).extended == {name: str(value) for name, value in given.items()}


LOW = {"resources": {"limits": {"memory": "4"}}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shared_memory": 2}, "shared_memory: 2 is a number of bytes; did you mean '2Gi'"),
        ({"shared_memory": "512m"}, "shared_memory: '512m' is thousandths of a byte; did you mean '512Mi'"),
        ({"shared_memory": "8GB"}, "shared_memory: .*did you mean '8Gi'"),
        ({"shared_memory": 0}, "shared_memory: 0 is no shared memory at all"),
        (
            {"scheduling_policy": {"min_resources": {"memory": 4}}},
            r"scheduling_policy.min_resources\['memory'\]: 4 is a number of bytes",
        ),
        ({"scheduling_policy": {"min_resources": {"gpu": 4}}}, r"scheduling_policy.min_resources\['gpu'\]: is not the"),
        ({"requests": {"memory": "4"}}, "requests.memory: '4' is a number of bytes; did you mean '4Gi'"),
        ({"limits": {"cpu": "4Gi"}}, "limits.cpu: is a number of cores"),
        (
            {"pod_template": {"spec": {"containers": [{"name": "rank", **LOW}]}}},
            r"pod_template.spec.containers\[0\].resources.limits\['memory'\]: '4' is a number of bytes",
        ),
        (
            {"pod_template": {"spec": {"initContainers": [{"name": "init", **LOW}]}}},
            r"pod_template.spec.initContainers\[0\].resources.limits\['memory'\]: '4' is a number of bytes",
        ),
        (
            {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": 4}}]},
            r"volumes\[0\].emptyDir.sizeLimit: 4 is a number of bytes; did you mean '4Gi'",
        ),
        (
            {"pod_template": {"spec": {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "4GB"}}]}}},
            r"pod_template.spec.volumes\[0\].emptyDir.sizeLimit: .*did you mean '4Gi'",
        ),
    ],
)
def test_every_field_that_holds_a_quantity_is_checked_alike(fields: dict[str, Any], message: str) -> None:
    """A mistake is met with its path wherever it is made, also in a pod template."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        Elastic(image="x", **fields)


def test_a_quantity_may_be_a_template_until_it_is_rendered() -> None:
    """Sizes can come from parameters of the DAG run."""
    template = "{{ params.size }}"
    volume = {"name": "v", "emptyDir": {"sizeLimit": template}}
    config = PyTorchJob(
        worker={"replicas": 1, "requests": {"memory": template, "extended": {"a/b": template}}},
        volumes=[volume],
        scheduling_policy=SchedulingPolicy(min_resources={"memory": template}),
    )
    assert config.volumes == [volume]


@pytest.mark.parametrize(
    ("text", "number"),
    [("500m", "0.5"), ("4Gi", 4 * 2**30), ("1e3", 1000), ("2k", 2000), ("1E", 10**18), (2, 2), (0.5, "0.5")],
)
def test_quantities_can_be_compared_as_numbers(text: Any, number: Any) -> None:
    """A request in one unit is compared with a limit in another."""
    assert amount(text) == Decimal(number)
