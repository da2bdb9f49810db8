"""A button on a task's page opens the job in a dashboard of the user's."""

from __future__ import annotations

import pytest
from airflow.sdk import DAG
from airflow.sdk.types import TaskInstanceKey

from airflow_distrib import ElasticOperator, elastic_task
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.links import JobLink

KEY = TaskInstanceKey("dag", "train", "manual__2026-01-02T00:00:00+00:00", 2, -1)


def link(monkeypatch: pytest.MonkeyPatch, template: str) -> str:
    """The address for a template."""
    monkeypatch.setenv("AIRFLOW__AIRFLOW_DISTRIB__JOB_URL_TEMPLATE", template)
    return JobLink().get_link(None, ti_key=KEY)  # type: ignore[arg-type] # the operator is not looked at


def test_the_template_is_filled_in_with_escaped_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run id holds characters that have a meaning in an address, and none may change where the link leads."""
    url = link(monkeypatch, "https://d.example/{dag_id}?run={run_id}&try={try_number}&map={map_index}")
    assert url == "https://d.example/dag?run=manual__2026-01-02T00%3A00%3A00%2B00%3A00&try=2&map=-1"


def test_the_jobs_name_is_the_one_it_runs_under(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dashboard can be filtered by the name that the task log shows."""
    name = JobIdentity(KEY.dag_id, KEY.run_id, KEY.task_id, -1, KEY.try_number).name()
    assert link(monkeypatch, "{job_name}") == name


def test_without_a_template_there_is_no_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """The button stays inactive where the user has no dashboard."""
    assert link(monkeypatch, "") == ""


def test_an_unknown_name_in_the_template_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The administrator learns which name is wrong, and Airflow logs it without failing the task."""
    with pytest.raises(ValueError, match=r"job_url_template .*\{namespce\}.*dag_id"):
        link(monkeypatch, "https://d.example/{namespce}")


def test_operators_have_only_the_links_whose_address_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow stores an XCom for each link of each try, also for those that lead nowhere."""
    operator = ElasticOperator(task_id="t", python_callable=print)
    with DAG("d", schedule=None) as dag:
        elastic_task(task_id="mapped")(lambda x: x).expand(x=[1])
    assert list(operator.operator_extra_links) == []
    assert list(ElasticOperator.operator_extra_links) == []
    assert list(dag.get_task("mapped").operator_extra_links) == []
    monkeypatch.setenv("AIRFLOW__AIRFLOW_DISTRIB__LOGS_URL_TEMPLATE", "https://logs.example/{job_name}")
    assert [each.name for each in operator.operator_extra_links] == ["Job logs"]
