"""Which rank this process is: read from the environment its launcher left, completed, or made here."""

from __future__ import annotations

import json
import re
import socket
from typing import Any, Callable, Dict, List, Mapping, MutableMapping, NamedTuple, Optional, Tuple

from airflow_distrib.runner.spec import ElasticSpec


class Rank(NamedTuple):
    """Place of a process in its job.

    Attributes:
        world_size: None where the launcher does not say.
        local_world_size: ranks on this machine.
        node: number of this machine; None where the launcher does not say.
    """

    rank: int
    world_size: Optional[int]
    local_rank: int
    launcher: str
    local_world_size: int = 1
    node: Optional[int] = None


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


def _from_numbers(
    launcher: str, rank: str, world: str, local: str, local_world: str = "", node: str = ""
) -> Callable[[Mapping[str, str]], Optional[Rank]]:
    """Make a reader for launchers that export plain numbers, in variables of these names."""

    def read(env: Mapping[str, str]) -> Optional[Rank]:
        number = _number(env, rank)
        if number is None:
            return None
        place = Rank(number, _number(env, world), _number(env, local, 0) or 0, launcher)
        return place._replace(local_world_size=_number(env, local_world, 1) or 1, node=_number(env, node))

    return read


_slurm = _from_numbers("slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", node="SLURM_NODEID")


def _from_slurm(env: Mapping[str, str]) -> Optional[Rank]:
    """A step says how many tasks each of its nodes has, as in ``2(x3),1``."""
    place = _slurm(env)
    if place is None or place.node is None:
        return place
    sizes: List[int] = []
    tasks = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE") or ""
    for size, _, nodes in re.findall(r"(\d+)(\(x(\d+)\))?", tasks):
        sizes += [int(size)] * int(nodes or 1)
    return place._replace(local_world_size=sizes[place.node]) if place.node < len(sizes) else place


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


_OPEN_MPI = "OMPI_COMM_WORLD_"

# The first that answers wins. torchrun comes first because it runs inside the others.
READERS: Tuple[Callable[[Mapping[str, str]], Optional[Rank]], ...] = (
    _from_numbers("torch", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"),
    _from_numbers("openmpi", *(_OPEN_MPI + each for each in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))),
    _from_numbers("pmi", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    _from_slurm,
    _from_tf_config,
    _from_numbers("indexed_job", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", "LOCAL_RANK"),
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
    """Fill in what torchrun would set, so that torch.distributed works under any launcher."""
    env.setdefault("RANK", str(rank.rank))
    env.setdefault("LOCAL_RANK", str(rank.local_rank))
    env.setdefault("LOCAL_WORLD_SIZE", str(rank.local_world_size))
    # A launcher that does not number its machines fills one after the other.
    node = rank.rank // rank.local_world_size if rank.node is None else rank.node
    env.setdefault("GROUP_RANK", str(node))
    if rank.world_size is not None:
        env.setdefault("WORLD_SIZE", str(rank.world_size))


def numbers(rank: int, count: int) -> Dict[str, str]:
    """Variables of one of ``count`` ranks that all run on this machine."""
    env: Dict[str, str] = {}
    export(Rank(rank, count, rank, "torch", local_world_size=count, node=0), env)
    return env


def torchrun_variables(elastic: ElasticSpec, rank: int, count: int, environment: Mapping[str, str]) -> Dict[str, str]:
    """What torchrun sets besides, for a rank that runs without its agent."""
    return {
        "ROLE_NAME": "default",
        "ROLE_RANK": str(rank),
        "ROLE_WORLD_SIZE": str(count),
        "GROUP_WORLD_SIZE": "1",
        "TORCHELASTIC_RUN_ID": elastic.rdzv_id,
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        # Rank 0 opens the store itself.
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": environment.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
    }


def meeting_here(environment: Mapping[str, str]) -> Dict[str, str]:
    """Where ranks of this machine meet, unless their launcher says so already."""
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **environment}


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        # Of all interfaces, as torch will bind it.
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
