"""Outcomes on their way from ranks on other machines to the supervisor of their launcher.

A launcher such as mpirun passes on what ranks print in pieces, which may cut into one
another. So ranks report over a connection of their own, to the machine that the launcher's
own daemons already connect to.
"""

from __future__ import annotations

import hmac
import json
import os
import socket
import socketserver
import threading
import time
from typing import Mapping

from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner import report
from airflow_distrib.runner.outcome import Outcome

# Environment variable with the collector's "host:port".
ADDRESS = "AIRFLOW_DISTRIB_REPORT"
# Where a pod finds its own address, filled in by Kubernetes.
POD_IP = "AIRFLOW_DISTRIB_POD_IP"

_SECONDS = 20.0
_ATTEMPTS = 3
_MAX_BYTES = report.MAX_DOCUMENT_BYTES
_THANKS = b"ok\n"


class Collector(socketserver.ThreadingTCPServer):
    """Takes outcomes and leaves them in the job's folder, as if their ranks had run here."""

    daemon_threads = True
    allow_reuse_address = True
    # All ranks may end in the same moment.
    request_queue_size = 1024

    def __init__(self, folder: str, token: str) -> None:
        if ":" in os.environ.get(POD_IP, ""):
            self.address_family = socket.AF_INET6
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
            if not hmac.compare_digest(str(message["token"]).encode(), self.server.token.encode()):
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
    message = json.dumps({"token": token, "outcome": outcome.to_json()}).encode() + b"\n"
    for attempt in range(_ATTEMPTS):
        time.sleep(attempt)
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS) as connection:
                connection.sendall(message)
                if connection.makefile("rb").readline() == _THANKS:
                    return True
        except (OSError, ValueError):
            continue
    return False
