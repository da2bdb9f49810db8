"""Where outcomes are left: a folder on this machine, or a pod's own two channels.

A pod has a termination message of 4 KiB and its log. A document that does not fit the
message, compressed, is written as framed lines at the end of the log.
"""

from __future__ import annotations

import base64
import contextlib
import glob
import hashlib
import os
import re
import secrets
import zlib
from typing import Dict, Iterable, List, Optional

from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome

# Kubernetes keeps this much of /dev/termination-log.
MAX_TERMINATION_BYTES = 4096
FRAME_CHARACTERS = 8192
# A result of 1 MiB with its warnings, and no bomb.
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
FRAME_MARK = "::airflow-distrib "
_FRAME = re.compile(r"^::airflow-distrib (?P<digest>[0-9a-f]{16}) (?P<index>\d+)/(?P<count>\d+) (?P<data>\S*)$")
_INLINE = "z:"


class FramesDamaged(ValueError):
    """Lines of a document are missing or altered."""


def write_file(path: str, text: str) -> None:
    """Write ``text`` so that a reader sees all of it or nothing."""
    temporary = os.path.join(os.path.dirname(path), ".partial-" + secrets.token_hex(8))
    # Not by tempfile, whose files nobody else may read whatever the umask says.
    with open(temporary, "x", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def leave(folder: str, outcome: Outcome, name: Optional[str] = None) -> None:
    """Leave an outcome in a folder; a later one of the same rank replaces it."""
    write_file(_path(folder, name or "rank-{}".format(outcome.rank)), outcome.to_json())


def forget(folder: str, rank: int) -> None:
    """Remove what a rank left before it was started again."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_path(folder, "rank-{}".format(rank)))


def has_left(folder: str, rank: int) -> bool:
    """Whether a rank left an outcome."""
    return os.path.exists(_path(folder, "rank-{}".format(rank)))


def _path(folder: str, stem: str) -> str:
    return os.path.join(folder, "outcome-{}.json".format(stem))


def collect(folder: str) -> List[Outcome]:
    """All outcomes of a folder, lowest rank first.

    A restarted rank removes its own outcome; ranks that the job shrank below since then
    cannot, so they are left out here.
    """
    found = []
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "outcome-*.json"))):
        # A restarted rank may forget its outcome between the look and the reading.
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
            found.append(outcomes.from_json(file.read()))
    sizes = [(each.time, each.world_size) for each in found if each.world_size is not None]
    size = max(sizes)[1] if sizes else None
    current = [each for each in found if each.rank is None or size is None or each.rank < size]
    return sorted(current, key=lambda each: (each.rank is None, each.rank or 0))


def termination_message(outcome: Outcome) -> Optional[str]:
    """The document for a pod's termination message, or None when it is too large for one."""
    text = _INLINE + _compress(outcome.to_json())
    return text if len(text) <= MAX_TERMINATION_BYTES else None


def from_termination_message(text: str) -> Optional[Outcome]:
    """The reverse; None for a message that is not ours."""
    if not text.startswith(_INLINE):
        return None
    return outcomes.from_json(_decompress(text[len(_INLINE) :]))


def frames(outcome: Outcome) -> List[str]:
    """The document as log lines, each with the digest of the whole and its own number."""
    data = _compress(outcome.to_json())
    digest = hashlib.sha256(data.encode()).hexdigest()[:16]
    parts = [data[at : at + FRAME_CHARACTERS] for at in range(0, len(data), FRAME_CHARACTERS)]
    return ["::airflow-distrib {} {}/{} {}".format(digest, i, len(parts), part) for i, part in enumerate(parts, 1)]


def from_frames(lines: Iterable[str]) -> Optional[Outcome]:
    """Find the last document in log lines; None when there is no frame at all.

    Raises:
        FramesDamaged: the last document is not whole.
    """
    digest, count = "", 0
    parts: Dict[int, str] = {}
    for line in lines:
        match = _FRAME.match(line)
        if not match:
            continue
        if match["digest"] != digest:
            digest, count, parts = match["digest"], int(match["count"]), {}
        parts[int(match["index"])] = match["data"]
    if not digest:
        return None
    if sorted(parts) != list(range(1, count + 1)):
        raise FramesDamaged("{} of {} lines of the result are in the log".format(len(parts), count))
    data = "".join(parts[index] for index in range(1, count + 1))
    if hashlib.sha256(data.encode()).hexdigest()[:16] != digest:
        raise FramesDamaged("the result in the log is altered: its digest does not match")
    return outcomes.from_json(_decompress(data))


def _compress(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")


def _decompress(data: str) -> str:
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(base64.b64decode(data), MAX_DOCUMENT_BYTES)
        if unpacker.unconsumed_tail:
            raise outcomes.OutcomeUnreadable("a document of more than {} bytes".format(MAX_DOCUMENT_BYTES))
        return text.decode()
    except (zlib.error, ValueError) as error:
        raise outcomes.OutcomeUnreadable("not a packed document: {}".format(error)) from None
