"""What tells this Airflow from another one that uses the same cluster."""

from __future__ import annotations

import contextlib
import hashlib
import secrets

from airflow.sdk import Variable, conf

# A Variable, because it is what all workers of an Airflow share and no other Airflow has.
KEY = "airflow_distrib_installation"


def installation() -> str:
    """Random text that is made once; without a place to keep it, the address of the API stands for it."""
    with contextlib.suppress(Exception):
        if found := Variable.get(KEY, default=None):
            return str(found)
        Variable.set(
            KEY, secrets.token_hex(8), "Tells jobs of this Airflow from those of others; made by airflow_distrib"
        )
        if found := Variable.get(KEY, default=None):
            return str(found)
    address = conf.get("core", "execution_api_server_url", fallback="") or conf.get("api", "base_url", fallback="")
    return hashlib.sha256(str(address).encode()).hexdigest()[:16]
