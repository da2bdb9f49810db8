"""The command line of mpirun, which differs between implementations of MPI: pure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from airflow_distrib.core.errors import ConfigError

OPEN_MPI, INTEL, MPICH = "OpenMPI", "Intel", "MPICH"

# Allow root, because most images run as root; do not bind to cores, because ranks start threads;
# use TCP, because pods have no InfiniBand by default.
DEFAULT_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    OPEN_MPI: (
        *("--allow-run-as-root", "--bind-to", "none", "--map-by", "slot"),
        *("--mca", "pml", "ob1", "--mca", "btl", "^openib"),
    ),
    INTEL: (),
    MPICH: (),
}

LIBRARIES = "LD_LIBRARY_PATH"

_COUNTS = frozenset({"np", "n", "c"})

# Options that only one implementation has, without their dashes: the manuals of Open MPI 4 and 5, and of Hydra, the
# mpirun of MPICH and of Intel MPI.
_OPEN_MPI_ONLY = frozenset(
    """
    allow-run-as-root am app aborted bynode byslot bycore bysocket continuous cpu-list cpus-per-proc
    cpus-per-rank default-hostfile disable-recovery display-allocation display-map do-not-launch enable-recovery gmca
    launch-agent leave-session-attached mca merge-stderr-to-stdout nooversubscribe npernode npersocket
    omca output output-filename oversubscribe prefix preload-binary preload-files prtemca pmixmca rank-by
    report-bindings report-child-jobs-separately report-state-on-timeout runtime-options stream-buffering tag-output
    timestamp-output use-hwthread-cpus with-ft x xml xterm
    """.split()  # noqa: SIM905 - a list of fifty words would take fifty lines
)
_HYDRA_ONLY = frozenset(
    """
    bootstrap bootstrap-exec disable-auto-cleanup disable-hostname-propagation env envall envlist envnone f genv
    genvall genvlist genvnone gdb iface info l launcher launcher-exec localhost order-nodes outfile-pattern
    errfile-pattern perhost pmi-connect pmi-port ppn prepend-pattern prepend-rank print-all-exitcodes print-rank-map rmk
    usize
    """.split()  # noqa: SIM905
)
# Both have these, but Hydra only with one dash.
_OPEN_MPI_WITH_TWO_DASHES = frozenset({"--bind-to", "--map-by"})
_INTEL_ONLY = frozenset({"binding", "check_mpi", "gtool", "gtoolfile", "ilp64", "trace", "trace-pt2pt", "aps", "mps"})


def check_arguments(name: str, value: object) -> tuple[str, ...]:
    """Check for arguments of mpirun: words that do not set the number of ranks."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        raise ConfigError(name, f"must be a list of words, such as ['--bind-to', 'core']; got {value!r}")
    for word in value:
        if word.startswith("-") and _option(word) in _COUNTS:
            raise ConfigError(name, f"{word!r} is set to worker.replicas times slots; remove it")
    return tuple(value)


def check_owner(name: str, arguments: Sequence[str], implementation: str) -> None:
    """Refuse options that another implementation of MPI has, and this one does not."""
    for word in arguments:
        owner = _owner(word) if word.startswith("-") else ()
        if owner and implementation not in owner:
            raise ConfigError(
                name,
                f"{word!r} is an option of {' and '.join(owner)}, but implementation is {implementation!r}; remove it, "
                "or set implementation",
            )


def _option(word: str) -> str:
    return word.lstrip("-").partition("=")[0]


def _owner(word: str) -> tuple[str, ...]:
    """The implementations that have an option, if not all have it."""
    option = _option(word)
    if option in _OPEN_MPI_ONLY or word.partition("=")[0] in _OPEN_MPI_WITH_TWO_DASHES:
        return (OPEN_MPI,)
    if option in _INTEL_ONLY:
        return (INTEL,)
    return (INTEL, MPICH) if option in _HYDRA_ONLY else ()


def start(implementation: str, ranks: int, given: Sequence[str] | None, variables: Sequence[str]) -> list[str]:
    """``mpirun -np RANKS ...``, without the variables to export for Open MPI, and without the program."""
    arguments = DEFAULT_ARGUMENTS[implementation] if given is None else given
    names = [] if implementation == OPEN_MPI else ["-genvlist", ",".join(variables)]
    return ["mpirun", "-np", str(ranks), *arguments, *names]


def around(command: Sequence[str], started: Sequence[str], implementation: str, variables: Sequence[str]) -> list[str]:
    """The command that starts a program on every rank, where nothing of this package runs beside mpirun."""
    if implementation != OPEN_MPI:
        return [*started, *command]
    exports = [word for name in variables if name != LIBRARIES for word in ("-x", name)]
    # Open MPI complains about -x of a variable that is not set, and only the image knows whether this one is.
    program, *rest = started
    script = f'exec {program} ${{{LIBRARIES}:+-x {LIBRARIES}}} "$@"'
    return ["sh", "-c", script, program, *rest, *exports, *command]


_STARTERS = frozenset({"mpirun", "mpiexec", "mpiexec.hydra", "mpiexec.mpich", "orterun", "prterun", "horovodrun"})
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh"})
# Programs that run the program after them.
_WRAPPERS = frozenset({"env", "exec", "nice", "nohup", "stdbuf", "time", "timeout", "tini", "dumb-init", "numactl"})
_IN_SCRIPT = re.compile(rf"(?:^|[\s;&|(`/])(?:{'|'.join(map(re.escape, sorted(_STARTERS, key=len, reverse=True)))})\s")


def starts_ranks(command: Sequence[str]) -> bool:
    """Whether a command starts the ranks itself: mpirun, or a shell with a script that calls it."""
    words = [os.path.basename(str(word)) for word in command]
    if words[0] in _SHELLS:
        return any(_IN_SCRIPT.search(f"{word} ") for word in command[1:])
    if words[0] in _WRAPPERS:
        inner = next((place for place, word in enumerate(words) if word in _STARTERS | _SHELLS), None)
        return inner is not None and starts_ranks(command[inner:])
    return words[0] in _STARTERS
