"""Scripts for a login node's ``sh``: pure text, every value quoted."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from airflow_distrib.backends.slurm.script import path

# Exit statuses of our own, from sysexits.h.
NO_FOLDER, TRY_AGAIN, NO_SCRIPT = 73, 75, 66
BASE = "~/.airflow-distrib"
# How long one submission waits for another of the same job, in seconds.
_LOCK_SECONDS = 60
# How long after a cancel the job's folder is looked after, in seconds: KillWait is 30 by default.
_GOING_SECONDS = 120


def on_cluster(cluster: str) -> str:
    """The option that names a cluster of a federation."""
    return f" --clusters={shlex.quote(cluster)}" if cluster else ""


def make_folder(base: str, task: str, attempt: str) -> str:
    """Make a job's private folder and print its real path."""
    return f"""umask 077
mkdir -p -- {path(base)} && cd -- {path(base)} && mkdir -p -- {task}/{attempt} && chmod 700 {task} {task}/{attempt} &&
cd -- {task}/{attempt} && pwd -P || exit {NO_FOLDER}"""


def _lookup(name: str, clusters: str) -> str:
    """Print the job of that name as ``id`` or ``id;cluster``, also one that is over; a status of its own on failure."""
    quoted = shlex.quote(name)
    where = on_cluster(clusters)
    # The heading before the jobs of each cluster.
    lines = """awk '/^CLUSTER:/ { cluster = ";" $2; next } NF { print $1 cluster }' | sort -n | head -n 1"""
    squeue = f'squeue{where} --user="$(id -un)" --states=all --noheader --name={quoted} --format=%F'
    return f"""found=$({squeue} 2>looking) || {{
  cat looking >&2; exit {TRY_AGAIN}
}}
found=$(printf '%s\\n' "$found" | {lines})
if [ -z "$found" ]; then
  found=$(sacct{where} --noheader --parsable2 --allocations --name={quoted} --starttime=now-30days \\
    --format=JobID,Cluster 2>/dev/null | sed 's/[_+][^|]*//' | sort -n | head -n 1)
  found=${{found%%|*}}
fi"""


def submit(folder: str, name: str, words: Sequence[str], clusters: str = "", script: str | None = None) -> str:
    """Submit once, however often this runs: the answer is kept, and a lost one is looked for by name.

    Args:
        words: of sbatch, options and script.
        script: a script of the user's that has to be there.
    """
    exists = ""
    if script is not None:
        exists = f'if [ ! -r {path(script)} ]; then echo "no such script" >&2; exit {NO_SCRIPT}; fi\n'
    return f"""umask 077
cd -- {shlex.quote(folder)} || exit {NO_FOLDER}
exec 9>lock
if command -v flock >/dev/null 2>&1; then
  flock -w {_LOCK_SECONDS} 9
  if [ $? -eq 1 ]; then echo "another submission of this job still runs" >&2; exit {TRY_AGAIN}; fi
fi
if [ ! -s submitted ]; then
  found=
  if [ -e trying ]; then
{_lookup(name, clusters)}
  fi
  if [ -z "$found" ]; then
    {exists}: >trying
    (cd && exec sbatch --parsable {" ".join(words)}) >answer 2>refusal
    code=$?
    if [ $code -ne 0 ]; then cat refusal >&2; exit 1; fi
    found=$(tail -n 1 answer)
  fi
  printf '%s\\n' "$found" >submitted.new && mv submitted.new submitted || exit {NO_FOLDER}
fi
cat submitted"""


def find(folder: str, name: str, clusters: str = "") -> str:
    """Print the job that was submitted from a folder, if any was."""
    return f"""cd -- {shlex.quote(folder)} 2>/dev/null || exit 0
if [ -s submitted ]; then cat submitted; exit 0; fi
if [ -e trying ]; then
{_lookup(name, clusters)}
printf '%s\\n' "$found"
fi"""


def queue(cluster: str) -> str:
    """All jobs of the user, also those that are over and not yet forgotten."""
    return f'squeue{on_cluster(cluster)} --user="$(id -un)" --states=all --noheader --format="%i|%T|%r|%j"'


def accounting(jobs: Iterable[str], cluster: str) -> str:
    """What the accounting says of jobs; elements of arrays and components of their own."""
    ids = shlex.quote(",".join(jobs))
    return (
        f"sacct{on_cluster(cluster)} --noheader --parsable2 --allocations --jobs={ids} "
        "--format=JobID,State,ExitCode,Reason,NodeList,JobName"
    )


def details(jobs: Iterable[str], cluster: str) -> str:
    """What the controller says of jobs, one line each; nothing of those that it has forgotten."""
    return "\n".join(
        f"scontrol{on_cluster(cluster)} --oneliner show job {shlex.quote(job)} 2>/dev/null || :" for job in jobs
    )


def _gone(job: str, cluster: str) -> str:
    """A function of shell: true only if Slurm says that the job is over, or unknown."""
    squeue = f"squeue{on_cluster(cluster)} --noheader --format=%T --jobs={shlex.quote(job)}"
    return f"""gone() {{
  left=$({squeue} 2>&1); code=$?
  case "$left" in *"Invalid job id"*) return 0 ;; esac
  [ $code -eq 0 ] && [ -z "$(printf '%s\\n' "$left" | grep -v ^CLUSTER:)" ]
}}"""


def cancel(job: str, name: str, cluster: str, folder: str, wait: float) -> str:
    """Cancel a job, by id and name, and remove its folder once it is gone; both also when it is gone already.

    Prints ``gone`` if it went within ``wait`` seconds; otherwise something stays on the login
    node to look after the folder, because a job may take as long as KillWait to go.
    """
    remove = remove_folder(folder) if folder else ":"
    gone = _gone(job, cluster)
    later = f"{gone}\nfor turn in $(seq {_GOING_SECONDS}); do if gone; then {remove}; exit 0; fi; sleep 1; done"
    return f"""{gone}
told=$(scancel{on_cluster(cluster)} --name={shlex.quote(name)} {shlex.quote(job)} 2>&1)
code=$?
case "$told" in *"Invalid job id"*|*"already completed"*|*"already finished"*) code=0 ;; esac
if [ $code -ne 0 ]; then printf '%s\\n' "$told" >&2; exit $code; fi
for turn in $(seq {max(1, round(wait * 2))}); do
  if gone; then {remove}; echo gone; exit 0; fi
  sleep 0.5
done
if command -v setsid >/dev/null 2>&1; then detach=setsid; else detach=nohup; fi
$detach sh -c {shlex.quote(later)} >/dev/null 2>&1 </dev/null &"""


def remove_folder(folder: str) -> str:
    """Remove a job's folder, and that of its task when it was the last one."""
    quoted = shlex.quote(folder)
    return f'rm -rf -- {quoted}; rmdir -- "$(dirname -- {quoted})" 2>/dev/null || :'


def of_task(base: str, task: str, clusters: str) -> str:
    """Print the user's jobs that are not over, then a line of dashes, then the folders of a task."""
    return f"""squeue{on_cluster(clusters)} --user="$(id -un)" --noheader --format="%F|%j|%k" || exit {TRY_AGAIN}
echo ----
cd -- {path(base)}/{task} 2>/dev/null || exit 0
for each in */; do [ -d "$each" ] && printf '%s\\n' "$(pwd -P)/${{each%/}}"; done
:"""


def outcomes(folder: str) -> str:
    """Print what the ranks left: the name of their folder, a tab, and one line of JSON."""
    return f"""cd -- {shlex.quote(folder)} 2>/dev/null || exit 0
for each in ranks*/*/outcome-*.json; do
  if [ -e "$each" ]; then printf '%s\\t' "${{each%%/*}}"; cat -- "$each"; echo; fi
done"""


def exits(folder: str) -> str:
    """Print how the batch scripts ended: name of the file, a blank, the exit status."""
    return f"""cd -- {shlex.quote(folder)} 2>/dev/null || exit 0
for each in exit exit.*; do if [ -s "$each" ]; then printf '%s ' "$each"; cat -- "$each"; fi; done"""
