"""Buttons on a task instance's page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink, conf

from airflow_distrib.core.identity import JobIdentity

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class _TemplateLink(BaseOperatorLink):
    """A link whose address is a template of the user's, in section ``[airflow_distrib]``."""

    option: ClassVar[str]

    @property
    def template(self) -> str:
        """The user's template; empty without one."""
        return str(conf.get("airflow_distrib", self.option, fallback=""))

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Fill in the template; without one there is no link.

        Every value is escaped, so that none can change where the link leads.
        """
        template = self.template
        if not template:
            return ""
        values = _values(operator, ti_key)
        try:
            return template.format_map({name: quote(str(value), safe="") for name, value in values.items()})
        except KeyError as error:
            raise ValueError(
                f"{self.option} in section [airflow_distrib] has a place {{{error.args[0]}}}; "
                f"it may have {', '.join(values)}"
            ) from None


def _values(operator: Any, ti_key: TaskInstanceKey) -> dict[str, str]:
    # On the worker this is the task instance itself, whose map_index may be None.
    index: int | None = ti_key.map_index
    map_index = -1 if index is None else index
    identity = JobIdentity(ti_key.dag_id, ti_key.run_id, ti_key.task_id, map_index, ti_key.try_number)
    ref = getattr(operator, "job_ref", None)
    return {
        "dag_id": ti_key.dag_id,
        "run_id": ti_key.run_id,
        "task_id": ti_key.task_id,
        "map_index": str(map_index),
        "try_number": str(ti_key.try_number),
        "job_name": ref.name if ref else identity.name(),
        "job_uid": ref.uid if ref else "",
        "namespace": ref.address.get("namespace", "") if ref else "",
        "kind": ref.address.get("kind", "") if ref else "",
        "cluster": ref.address.get("cluster", "") if ref else "",
    }


class JobLink(_TemplateLink):
    """Opens the job in a dashboard of the user's: ``[airflow_distrib] job_url_template``."""

    name = "Job dashboard"
    option = "job_url_template"


class LogsLink(_TemplateLink):
    """Opens the job's logs where the user collects them: ``[airflow_distrib] logs_url_template``."""

    name = "Job logs"
    option = "logs_url_template"


class ConfiguredLinks:
    """An operator's links: those with a template, because Airflow stores an XCom for each in every try.

    It is read from classes too, where Airflow looks for the links of mapped tasks.
    """

    def __get__(self, operator: object, owner: object = None) -> tuple[BaseOperatorLink, ...]:
        return tuple(link for link in (JobLink(), LogsLink()) if link.template)
