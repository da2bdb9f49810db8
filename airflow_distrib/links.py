"""Buttons on a task instance's page."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink, conf

from airflow_distrib.core.identity import JobIdentity

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class JobLink(BaseOperatorLink):
    """Opens the job in a dashboard of the user's: ``[airflow_distrib] job_url_template``."""

    name = "Job dashboard"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Fill in the template; without one there is no link.

        Every value is escaped, so that none can change where the link leads.
        """
        del operator  # the task instance says it all
        template = conf.get("airflow_distrib", "job_url_template", fallback="")
        if not template:
            return ""
        # On the worker this is the task instance itself, whose map_index may be None.
        index: int | None = ti_key.map_index
        map_index = -1 if index is None else index
        identity = JobIdentity(ti_key.dag_id, ti_key.run_id, ti_key.task_id, map_index, ti_key.try_number)
        values = {
            "dag_id": ti_key.dag_id,
            "run_id": ti_key.run_id,
            "task_id": ti_key.task_id,
            "map_index": str(identity.map_index),
            "try_number": str(ti_key.try_number),
            "job_name": identity.name(),
        }
        try:
            return template.format_map({name: quote(str(value), safe="") for name, value in values.items()})
        except KeyError as error:
            raise ValueError(
                f"job_url_template in section [airflow_distrib] has a place {{{error.args[0]}}}; "
                f"it may have {', '.join(values)}"
            ) from None
