"""torch's elastic agent for one node: starts the ranks, restarts them, says who failed."""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
import traceback
from typing import Any, Dict, List, Mapping, Optional, Set

from airflow_distrib.runner import call, outcome, payload, process, rank, report, streams, work
from airflow_distrib.runner.counting import TorchNotInstalled
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.runner.spec import ElasticSpec, Spec

# Set by fork's parent so that its children need not load the function again.
_preloaded: List[payload.Call] = []


def main(spec: Spec, node: int, nproc: int) -> int:
    """Run the ``nproc`` ranks of node number ``node``; returns the exit status."""
    assert spec.elastic is not None
    try:
        return _launch(spec, of_first_node(spec.elastic, os.environ), node, nproc)
    except BaseException as error:  # noqa: BLE001 - the last place where the cause is still known
        if type(error).__name__ == "SignalException":
            # The supervisor forwarded a signal; it reports the job as terminated.
            return 1
        traceback.print_exception(type(error), error, error.__traceback__)
        failed = outcome.now(outcome.FAILURE, None, **outcome.failure_fields(error))
        report.leave(spec.directory, failed, "agent-{}".format(node))
        return 1


def _launch(spec: Spec, elastic: ElasticSpec, node: int, nproc: int) -> int:
    launcher = _import_launcher()
    if elastic.start_method == "fork":
        _preloaded.append(call.load(spec))
    pump = streams.Pump(spec.directory, node, nproc, functools.partial(_forget_round, spec.directory))
    config = launcher.LaunchConfig(
        min_nodes=elastic.min_nodes,
        max_nodes=elastic.max_nodes,
        nproc_per_node=nproc,
        run_id=elastic.rdzv_id,
        # torchrun's name, which is not the one of LaunchConfig.
        role="default",
        rdzv_backend=elastic.rdzv_backend,
        rdzv_endpoint=elastic.rdzv_endpoint,
        rdzv_configs=_rendezvous_configs(elastic, node),
        max_restarts=elastic.max_restarts,
        monitor_interval=elastic.monitor_interval,
        start_method=elastic.start_method,
        # Otherwise torch makes a folder of its own and leaves it behind.
        logs_specs=_logs_specs(os.path.join(spec.directory, "torch-{}".format(node))),
        # The agent's own children get less time than the agent, or it cannot report.
        **_supported(launcher.LaunchConfig, shutdown_timeout=max(1, int(spec.grace_seconds) - 1)),
    )
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    pump.start()
    try:
        launcher.elastic_launch(config, worker)(spec, node, os.getpid())
    except ChildFailedError as error:
        pump.finish()
        _leave_silent_deaths(spec, pump, error)
        return 1
    finally:
        pump.finish()
    return 0


def _import_launcher() -> Any:
    try:
        import torch.distributed.launcher.api as launcher

        # Its traceback of a failed rank is about torch's own code; the rank's is reported by us.
        logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    except ModuleNotFoundError as error:
        raise TorchNotInstalled.instead_of(error) from None
    return launcher


def _logs_specs(folder: str) -> Any:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs

    return DefaultLogsSpecs(log_dir=folder)


def _forget_round(folder: str, restart: int, ranks: Set[int]) -> None:
    """Remove what this node's ranks left before a restart.

    A rank does so itself, but it may be ended before it gets there.
    """
    for each in report.collect(folder):
        if each.rank in ranks and each.restart < restart:
            report.forget(folder, each.rank)


def of_first_node(elastic: ElasticSpec, env: Mapping[str, str]) -> ElasticSpec:
    """Without an endpoint the rendezvous is where MASTER_ADDR says: on the first task of a Slurm job.

    torch would compare the address with this machine's own names, which need not be among them.
    """
    if elastic.rdzv_endpoint or "MASTER_ADDR" not in env:
        return elastic
    endpoint = "{}:{}".format(env["MASTER_ADDR"], env["MASTER_PORT"])
    configs = dict(elastic.rdzv_configs)
    if "SLURM_PROCID" in env:
        configs.setdefault("is_host", env["SLURM_PROCID"] == "0")
    return elastic._replace(rdzv_endpoint=endpoint, rdzv_configs=configs)


def _rendezvous_configs(elastic: ElasticSpec, node: int) -> Dict[str, Any]:
    configs = dict(elastic.rdzv_configs)
    if elastic.rdzv_backend == "static":
        configs.setdefault("rank", node)
    return configs


def _supported(kind: Any, **options: Any) -> Dict[str, Any]:
    """Leave out what this release of torch does not know yet."""
    return {name: value for name, value in options.items() if name in kind.__dataclass_fields__}


def worker(spec: Spec, node: int, agent: int) -> None:
    """Entry of every rank; torch calls it in a process of its own, so it must be importable."""
    process.die_with(agent)
    process.restore_signals()
    process.keep_pipes()
    place = rank.from_env(os.environ)
    restart = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    streams.redirect_output(streams.pipe_path(spec.directory, node, place.local_rank), place.rank, restart)
    status = work.run(spec, _preloaded[0] if _preloaded else None)
    if status:
        # Not an exception: torch would print its own traceback below the user's.
        sys.exit(status)


def _leave_silent_deaths(spec: Spec, pump: streams.Pump, error: Any) -> None:
    """Write outcomes for ranks that could not.

    torch names one failing rank per node, not always the first, and then ends the others
    itself. So besides the one it names, only the rank whose stream ended before all others
    is taken for a cause.
    """
    left = report.collect(spec.directory)
    failed = {each.rank for each in left if each.kind != outcome.SUCCESS}
    returned = {each.rank for each in left} - failed
    # A rank that returned may still have crashed while it waited for the others to return.
    suspects = set(error.failures) | (_first_ended(pump.ended_at) - returned)
    for number in sorted(suspects - failed):
        failure = error.failures.get(number)
        code = failure.exitcode if failure is not None else None
        ended = pump.ended_at.get(number, time.time())
        report.leave(spec.directory, _silent_death(number, ended, code))


def _first_ended(ended_at: Dict[int, float]) -> Set[int]:
    first = min(ended_at.values(), default=0.0)
    ranks = {number for number, ended in ended_at.items() if ended == first}
    # Several at once: nobody can tell which was first.
    return ranks if len(ranks) == 1 else set()


def _silent_death(number: int, ended: float, code: Optional[int]) -> Outcome:
    if code is None:
        how = "killed from outside, most likely by SIGKILL"
    else:
        how = process.signal_name(-code) if code < 0 else "exit status {}".format(code)
    return outcome.now(
        outcome.FAILURE,
        number,
        error_type=outcome.PROCESS_KILLED,
        message="the process of rank {} ended without a word: {}".format(number, how),
        exit_code=code,
    )._replace(time=ended)
