"""Which rank this process is, read from the environment its launcher left."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, Mapping, MutableMapping, NamedTuple, Optional, Tuple


class Rank(NamedTuple):
    """Place of a process in its job; ``world_size`` is None where the launcher does not say."""

    rank: int
    world_size: Optional[int]
    local_rank: int
    launcher: str


class RankUnreadable(ValueError):
    """A launcher's variable is there but does not hold what it should."""


def _number(env: Mapping[str, str], name: str, default: Optional[int] = None) -> Optional[int]:
    text = env.get(name)
    if text is None or not text.strip():
        return default
    try:
        return int(text)
    except ValueError:
        raise RankUnreadable("{} is {!r}, not a whole number".format(name, text)) from None


def _from_numbers(rank: str, world: str, local: str, launcher: str) -> Callable[[Mapping[str, str]], Optional[Rank]]:
    """Make a reader for launchers that export plain numbers."""

    def read(env: Mapping[str, str]) -> Optional[Rank]:
        number = _number(env, rank)
        if number is None:
            return None
        return Rank(number, _number(env, world), _number(env, local, 0) or 0, launcher)

    return read


def _from_tf_config(env: Mapping[str, str]) -> Optional[Rank]:
    """Order of ranks: chief (or master), workers, parameter servers, evaluators.

    The evaluator is not part of TensorFlow's cluster, so it comes last and is not counted.
    """
    text = env.get("TF_CONFIG")
    if not text:
        return None
    try:
        config: Dict[str, Any] = json.loads(text)
        cluster = {role: len(hosts) for role, hosts in config.get("cluster", {}).items()}
        role, index = config["task"]["type"], int(config["task"]["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RankUnreadable("TF_CONFIG cannot be read: {!r}".format(error)) from None
    order = [name for name in ("chief", "master", "worker", "ps") if name in cluster]
    world = sum(cluster[name] for name in order)
    before = world if role not in order else sum(cluster[name] for name in order[: order.index(role)])
    return Rank(before + index, world, 0, "tf_config")


# The first that answers wins. torchrun comes first because it runs inside the others.
READERS: Tuple[Callable[[Mapping[str, str]], Optional[Rank]], ...] = (
    _from_numbers("RANK", "WORLD_SIZE", "LOCAL_RANK", "torch"),
    _from_numbers("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "openmpi"),
    _from_numbers("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "pmi"),
    _from_numbers("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "slurm"),
    _from_tf_config,
    _from_numbers("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", "LOCAL_RANK", "indexed_job"),
)


def from_env(env: Mapping[str, str]) -> Rank:
    """Return the rank that ``env`` describes; a process without a launcher is rank 0 of 1.

    Raises:
        RankUnreadable: a launcher's variable holds something else than a number.
    """
    for read in READERS:
        rank = read(env)
        if rank is not None:
            return rank
    return Rank(0, 1, 0, "none")


def export(rank: Rank, env: MutableMapping[str, str]) -> None:
    """Fill in RANK, WORLD_SIZE and LOCAL_RANK so that torch.distributed works under any launcher."""
    env.setdefault("RANK", str(rank.rank))
    env.setdefault("LOCAL_RANK", str(rank.local_rank))
    if rank.world_size is not None:
        env.setdefault("WORLD_SIZE", str(rank.world_size))
