"""Outcomes on their way from ranks on other machines to the supervisor of their launcher.

A launcher such as mpirun passes on what ranks print in pieces, which may cut into one
another. So ranks report over a connection of their own, to the machine that the launcher's
own daemons already connect to.
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading
from typing import Mapping

from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner import report
from airflow_distrib.runner.outcome import Outcome

# Environment variable with the collector's "host:port".
ADDRESS = "AIRFLOW_DISTRIB_REPORT"
# Where a pod finds its own address, filled in by Kubernetes.
POD_IP = "AIRFLOW_DISTRIB_POD_IP"

_SECONDS = 20.0
_MAX_BYTES = 4 * 1024 * 1024
_THANKS = b"ok\n"


class Collector(socketserver.ThreadingTCPServer):
    """Takes outcomes and leaves them in the job's folder, as if their ranks had run here."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, folder: str, token: str) -> None:
        super().__init__(("", 0), _Handler)
        self.folder = folder
        self.token = token

    def start(self) -> str:
        """Listen in the background; returns the address for :data:`ADDRESS`."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        host = os.environ.get(POD_IP) or socket.gethostbyname(socket.gethostname())
        return "{}:{}".format(host, self.server_address[1])


class _Handler(socketserver.StreamRequestHandler):
    server: Collector

    def handle(self) -> None:
        self.connection.settimeout(_SECONDS)
        try:
            message = json.loads(self.rfile.readline(_MAX_BYTES))
            if message["token"] != self.server.token:
                return
            report.leave(self.server.folder, outcomes.from_json(message["outcome"]))
        except (OSError, ValueError, KeyError, TypeError):
            return
        self.wfile.write(_THANKS)


def send(outcome: Outcome, token: str, environment: Mapping[str, str]) -> bool:
    """Report to the collector; False when there is none or it does not answer."""
    host, _, port = environment.get(ADDRESS, "").rpartition(":")
    if not host:
        return False
    try:
        with socket.create_connection((host, int(port)), timeout=_SECONDS) as connection:
            message = {"token": token, "outcome": outcome.to_json()}
            connection.sendall(json.dumps(message).encode() + b"\n")
            return connection.makefile("rb").readline() == _THANKS
    except (OSError, ValueError):
        return False
