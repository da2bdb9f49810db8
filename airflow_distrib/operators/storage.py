"""Files by Airflow's object storage: paths, and URLs of whatever Airflow has a provider for."""

from __future__ import annotations

import shutil
from pathlib import Path

from airflow.sdk import ObjectStoragePath


class AirflowStorage:
    """See :class:`~airflow_distrib.jobs.launcher.Storage`."""

    def read_text(self, place: str) -> str:
        return str(ObjectStoragePath(place).read_text())

    def download(self, place: object, local: Path) -> None:
        source = place if isinstance(place, ObjectStoragePath) else ObjectStoragePath(str(place))
        if source.is_dir():
            source.fs.get(source.path, str(local), recursive=True)
        else:
            source.fs.get_file(source.path, str(local))

    def upload(self, local: Path, place: str) -> None:
        _upload(local, ObjectStoragePath(place))


def _upload(local: Path, target: ObjectStoragePath) -> None:
    if local.is_dir():
        for path in sorted(local.rglob("*")):
            if path.is_file():
                _upload(path, target / str(path.relative_to(local)))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with local.open("rb") as source, target.open("wb") as sink:  # type: ignore[no-untyped-call] # Airflow's
        shutil.copyfileobj(source, sink)
