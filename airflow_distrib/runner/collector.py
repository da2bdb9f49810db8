"""What ranks on other machines and the supervisor of their launcher have to say to each other.

A launcher such as mpirun passes on what ranks print in pieces, which may cut into one
another. So ranks report over a connection of their own, to the machine that the launcher's
own daemons already connect to. There they also learn where rank 0 is, which mpirun does not say.
"""

from __future__ import annotations

import hmac
import json
import os
import socket
import socketserver
import threading
import time
from typing import Any, Dict, Mapping

from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner import rank, report
from airflow_distrib.runner.outcome import Outcome

# Environment variable with the collector's "host:port".
ADDRESS = "AIRFLOW_DISTRIB_REPORT"
# Where a pod finds its own address, filled in by Kubernetes.
POD_IP = "AIRFLOW_DISTRIB_POD_IP"

_SECONDS = 20.0
_ATTEMPTS = 3
_MAX_BYTES = report.MAX_DOCUMENT_BYTES
_THANKS = "ok"
_MAPPED = "::ffff:"


class Collector(socketserver.ThreadingTCPServer):
    """Takes outcomes and leaves them in the job's folder, as if their ranks had run here; knows where ranks meet."""

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
        self._meeting, self._known = "", threading.Event()

    def start(self) -> str:
        """Listen in the background; returns the address for :data:`ADDRESS`."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        host = os.environ.get(POD_IP) or socket.gethostbyname(socket.gethostname())
        return "{}:{}".format(host, self.server_address[1])

    def meet_at(self, host: str, port: int) -> None:
        """Remember where rank 0 is and which port it has free."""
        # A server for both versions of IP sees the older one's addresses in the newer one's form.
        self._meeting = "{} {}".format(host[len(_MAPPED) :] if host.startswith(_MAPPED) else host, port)
        self._known.set()

    def meeting(self) -> str:
        """Wait for that; empty if it takes too long."""
        self._known.wait(_SECONDS)
        return self._meeting


class _Handler(socketserver.StreamRequestHandler):
    server: Collector

    def handle(self) -> None:
        self.connection.settimeout(_SECONDS)
        try:
            message = json.loads(self.rfile.readline(_MAX_BYTES))
            if not hmac.compare_digest(str(message["token"]).encode(), self.server.token.encode()):
                return
            answer = self._answer(message)
        except (OSError, ValueError, KeyError, TypeError):
            return
        self.wfile.write((answer + "\n").encode())

    def _answer(self, message: Dict[str, Any]) -> str:
        if "outcome" in message:
            report.leave(self.server.folder, outcomes.from_json(message["outcome"]))
            return _THANKS
        if message["port"]:
            self.server.meet_at(self.client_address[0], int(message["port"]))
        return self.server.meeting()


def send(outcome: Outcome, token: str, environment: Mapping[str, str]) -> bool:
    """Report to the collector; False when there is none or it does not answer."""
    return _ask({"token": token, "outcome": outcome.to_json()}, environment) == _THANKS


def meeting_point(place: rank.Rank, token: str, environment: Mapping[str, str]) -> Dict[str, str]:
    """MASTER_ADDR and MASTER_PORT as rank 0 has told them; none when the collector does not know in time."""
    answer = _ask({"token": token, "port": 0 if place.rank else rank.free_port()}, environment)
    host, _, port = answer.partition(" ")
    return {"MASTER_ADDR": host, "MASTER_PORT": port} if port else {}


def _ask(question: Dict[str, Any], environment: Mapping[str, str]) -> str:
    """The collector's answer; empty when there is none."""
    host, _, port = environment.get(ADDRESS, "").rpartition(":")
    if not host:
        return ""
    message = json.dumps(question).encode() + b"\n"
    for attempt in range(_ATTEMPTS):
        time.sleep(attempt)
        try:
            # A little longer than the collector itself may wait.
            with socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS + 1) as connection:
                connection.sendall(message)
                answer = connection.makefile("rb").readline().decode().strip()
                if answer:
                    return answer
        except (OSError, ValueError):
            continue
    return ""
