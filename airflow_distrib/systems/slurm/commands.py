"""Scripts for a login node's ``sh``: pure text, every value quoted."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from airflow_distrib.systems.slurm import usage
from airflow_distrib.systems.slurm.script import path

# Exit statuses of our own, from sysexits.h.
NO_FOLDER, TRY_AGAIN, NO_SCRIPT, GIVEN_UP = 73, 75, 66, 77
BASE = "~/.airflow-distrib"
# Files that say whose a folder is, and when forgotten ones were last looked for.
OWNER, SWEPT = "owner", ".swept"
# A folder younger than that is nobody's leftover; and how often, and for how many at once, they are looked for.
_FORGOTTEN_MINUTES, _SWEEP_MINUTES, _SWEEP_FOLDERS = 10, 1, 20
# Before every script: English messages, expressions of job arrays in full instead of their first 64
# characters, and none of the user's own settings that would filter what is asked for.
ENVIRONMENT = """\
lc=${LC_ALL-unset}
export LC_ALL=C SLURM_BITSTR_LEN=0
for each in PARTITION ACCOUNT QOS LICENSES NAMES STATES USERS FORMAT FORMAT2 SORT ALL ARRAY PRIORITY; do
  unset "SQUEUE_$each"
done
unset SACCT_FORMAT SACCT_FEDERATION SACCT_LOCAL SBATCH_WAIT SCANCEL_INTERACTIVE SCANCEL_NAME SCANCEL_STATE"""
RESTORE = 'unset SLURM_BITSTR_LEN; if [ "$lc" = unset ]; then unset LC_ALL; else LC_ALL=$lc; fi'
# How long one submission waits for another of the same job, in seconds.
_LOCK_SECONDS = 60
# How long after a cancel the job's folder is looked after, in seconds: KillWait is 30 by default.
_GOING_SECONDS = 120


def on_cluster(cluster: str) -> str:
    """The option that names a cluster of a federation."""
    return f" --clusters={shlex.quote(cluster)}" if cluster else ""


def make_folder(base: str, task: str, attempt: str, owner: str) -> str:
    """Make a job's private folder, note whose it is, and print its real path."""
    return f"""umask 077
mkdir -p -- {path(base)} && cd -- {path(base)} && mkdir -p -- {task}/{attempt} && chmod 700 {task} {task}/{attempt} &&
cd -- {task}/{attempt} && printf '%s\\n' {shlex.quote(owner)} >{OWNER} && pwd -P || exit {NO_FOLDER}"""


# Also jobs of hidden partitions, whatever the user's own settings leave out.
_SQUEUE = 'squeue --all --user="$(id -un)" --noheader'
# Answers of sbatch --parsable: an id, and in a federation a cluster.
_IDS = "grep -E '^[0-9]+(;[^ ;]+)?$'"


def _lookup(name: str, clusters: str) -> str:
    """A function of shell that prints the jobs of that name, the oldest first, also those that are over."""
    quoted, where = shlex.quote(name), on_cluster(clusters)
    # The heading before the jobs of each cluster.
    queued = """awk '/^CLUSTER:/ { cluster = ";" $2; next } NF { print $1 cluster }'"""
    cluster = '";" $2' if clusters else '""'
    accounted = f"""awk -F '|' '{{ sub(/[_+].*/, "", $1); print $1 {cluster} }}'"""
    return f"""lookup() {{
  seen=$({_SQUEUE}{where} --states=all --name={quoted} --format=%F 2>looking) || {{
    cat looking >&2; exit {TRY_AGAIN}
  }}
  seen=$(printf '%s\\n' "$seen" | {queued} | {_IDS} | sort -n -u)
  if [ -z "$seen" ]; then
    seen=$(sacct{where} --noheader --parsable2 --allocations --name={quoted} --starttime=now-30days \\
      --format=JobID,Cluster 2>looking) || {{
      grep -q -e disabled -e 'not found' looking || {{ cat looking >&2; exit {TRY_AGAIN}; }}
    }}
    seen=$(printf '%s\\n' "$seen" | {accounted} | {_IDS} | sort -n -u)
  fi
  printf '%s\\n' "$seen"
}}"""


def _once(sbatch: str) -> str:
    """Find the job that an earlier attempt made, or make it; both leave its id in ``found``."""
    return f"""  found= again=
  # Made by one alone, also where locks do not reach from one login node to the next.
  mkdir trying 2>/dev/null || again=yes
  if [ -n "$again" ]; then found=$(lookup) || exit $?; found=$(printf '%s\\n' "$found" | head -n 1); fi
  if [ -z "$found" ]; then
    answer=$( (
{sbatch}
    ) 2>refusal)
    code=$?
    found=$(printf '%s\\n' "$answer" | {_IDS} | tail -n 1)
    # What failed may have been done all the same.
    if [ -z "$found" ]; then found=$(lookup) || exit $?; found=$(printf '%s\\n' "$found" | head -n 1); fi
    if [ -z "$found" ]; then cat refusal >&2; printf '%s\\n' "$answer" >&2; exit $((code ? code : {TRY_AGAIN})); fi
    if [ -n "$again" ]; then
      oldest=$(lookup) || exit $?
      oldest=$(printf '%s\\n' "$oldest" | head -n 1)
      if [ -n "$oldest" ] && [ "${{oldest%%;*}}" != "${{found%%;*}}" ]; then withdraw "$found"; found=$oldest; fi
    fi
  fi"""


def _settle(name: str, folder: str) -> str:
    """Functions of shell: to cancel a job, and to leave nothing once the job is given up.

    The second is for every end of a submission, also a refusal, because nobody else removes what is there.
    """
    return f"""withdraw() {{
  scancel $(printf '%s' "$1" | sed -n 's/.*;/--clusters=/p') --name={shlex.quote(name)} "${{1%%;*}}"
}}
settle() {{
  code=$?
  [ -e given-up ] || exit $code
  if [ -s submitted ]; then withdraw "$(cat submitted)"; fi
  {remove_folder(folder)}
  echo "nobody wants this job any more" >&2
  exit {GIVEN_UP}
}}"""


def submit(
    folder: str,
    name: str,
    words: Sequence[str],
    clusters: str = "",
    *,
    script: str | None = None,
    exports: Sequence[str] = (),
) -> str:
    """Submit once, however often and wherever this runs: the answer is kept, a lost one is looked for by name.

    Args:
        words: of sbatch, options and script.
        script: a script of the user's that has to be there.
        exports: lines of shell that set what sbatch hands on to the job.
    """
    exists = ""
    if script is not None:
        exists = f'if [ ! -r {path(script)} ]; then echo "no such script" >&2; exit {NO_SCRIPT}; fi\n'
    # sbatch hands its own environment and umask on to the job; ours are not the user's.
    theirs = "\n".join(['umask "$mask"', RESTORE, *exports, f"cd && exec sbatch --parsable {' '.join(words)}"])
    return f"""mask=$(umask)
umask 077
cd -- {shlex.quote(folder)} || exit {NO_FOLDER}
{_lookup(name, clusters)}
{_settle(name, folder)}
{exists}exec 9>lock || exit {NO_FOLDER}
if command -v flock >/dev/null 2>&1; then
  flock -w {_LOCK_SECONDS} 9
  if [ $? -eq 1 ]; then echo "another submission of this job still runs" >&2; exit {TRY_AGAIN}; fi
fi
trap settle EXIT
# While this waited for the lock it may have been given up, and the folder removed.
if [ -e given-up ] || [ ! -e lock ]; then exit {GIVEN_UP}; fi
if [ ! -s submitted ]; then
{_once(theirs)}
  printf '%s\\n' "$found" >submitted.new && mv submitted.new submitted || {{ withdraw "$found"; exit {NO_FOLDER}; }}
fi
cat submitted"""


def give_up(folder: str) -> str:
    """Remove the folder of a job that was never submitted; one that is just being submitted is marked instead."""
    quoted = shlex.quote(folder)
    return f"""cd -- {quoted} 2>/dev/null || exit 0
: >given-up
exec 9>lock
if [ -e submitted ] || {{ command -v flock >/dev/null 2>&1 && ! flock -n 9; }}; then exit 0; fi
{remove_folder(folder)}"""


def remove_submitted(folder: str) -> str:
    """Remove a folder whose job is known, and cancelled."""
    return f"if [ -s {shlex.quote(folder)}/submitted ]; then {remove_folder(folder)}; fi"


def find(folder: str, name: str, clusters: str = "") -> str:
    """Print the job that was submitted from a folder, if any was."""
    return f"""cd -- {shlex.quote(folder)} 2>/dev/null || exit 0
if [ -s submitted ]; then cat submitted; exit 0; fi
{_lookup(name, clusters)}
if [ -e trying ]; then lookup; fi"""


def queue(cluster: str) -> str:
    """All jobs of the user, also those that are over and not yet forgotten."""
    return f'{_SQUEUE}{on_cluster(cluster)} --states=all --format="%i|%T|%r|%j"'


def accounting(jobs: Iterable[str], cluster: str) -> str:
    """What the accounting says of jobs; elements of arrays and components of their own."""
    ids = shlex.quote(",".join(jobs))
    return (
        f"sacct{on_cluster(cluster)} --noheader --parsable2 --allocations --jobs={ids} "
        "--format=JobID,State,ExitCode,Reason,NodeList,JobName"
    )


def used(job: str, cluster: str) -> str:
    """What the accounting says that a job and its steps used."""
    options = f"--noheader --parsable2 --noconvert --jobs={shlex.quote(job)} --format={usage.FORMAT}"
    return f"sacct{on_cluster(cluster)} {options}"


def details(jobs: Iterable[str], cluster: str) -> str:
    """What the controller says of jobs, one line each; nothing of those that it has forgotten."""
    ids = " ".join(map(shlex.quote, jobs))
    return f"""for job in {ids}; do
  answer=$(scontrol{on_cluster(cluster)} --oneliner show job "$job" 2>&1)
  if [ $? -eq 0 ]; then printf '%s\\n' "$answer"; continue; fi
  # That it does not answer must not be taken for that it does not know.
  case "$answer" in *"Invalid job id"*) ;; *) printf '%s\\n' "$answer" >&2; exit {TRY_AGAIN} ;; esac
done"""


def _gone(job: str, cluster: str) -> str:
    """A function of shell: true only if Slurm says that the job is over, or unknown."""
    squeue = f"squeue --all{on_cluster(cluster)} --noheader --format=%T --jobs={shlex.quote(job)}"
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
answer=$(scancel{on_cluster(cluster)} --name={shlex.quote(name)} {shlex.quote(job)} 2>&1)
code=$?
case "$answer" in *"Invalid job id"*|*"already completed"*|*"already finished"*) code=0 ;; esac
if [ $code -ne 0 ]; then printf '%s\\n' "$answer" >&2; exit $code; fi
for turn in $(seq {max(1, round(wait * 2))}); do
  if gone; then {remove}; echo gone; exit 0; fi
  sleep 0.5
done
if command -v setsid >/dev/null 2>&1; then detach=setsid; else detach=nohup; fi
$detach sh -c {shlex.quote(later)} >/dev/null 2>&1 </dev/null &"""


def remove_folder(folder: str) -> str:
    """Remove a job's folder, and that of its task when it was the last one.

    Tried for a second: a process that just ends may write there, and NFS keeps the names of open files.
    """
    quoted = shlex.quote(folder)
    tried = f"for turn in 1 2 3 4 5; do if rm -rf -- {quoted} 2>/dev/null; then break; fi; sleep 0.2; done"
    return f'{tried}; rmdir -- "$(dirname -- {quoted})" 2>/dev/null || :'


def disown(folder: str) -> str:
    """Leave a folder to the user."""
    return f"rm -f -- {shlex.quote(folder)}/{OWNER}"


def leftovers(base: str) -> str:
    """Print some folders whose jobs are over, each with a tab and its owner; nothing if that was just done."""
    return f"""cd -- {path(base)} 2>/dev/null || exit 0
if [ -n "$(find {SWEPT} -mmin -{_SWEEP_MINUTES} 2>/dev/null)" ]; then exit 0; fi
: >{SWEPT}
old=$(find . -mindepth 3 -maxdepth 3 -name {OWNER} -mmin +{_FORGOTTEN_MINUTES} 2>/dev/null)
[ -n "$old" ] || exit 0
# Ids of all that is not over, with the cluster as in the files.
active=$(for cluster in '' $(cat ./*/*/submitted 2>/dev/null | sed -n 's/.*;//p' | sort -u); do
  found=$({_SQUEUE} ${{cluster:+--clusters="$cluster"}} --format=%F) || exit {TRY_AGAIN}
  printf '%s\\n' "$found" | grep -E '^[0-9]+$' | sed "s/\\$/${{cluster:+;$cluster}}/"
done) || exit {TRY_AGAIN}
shuffled=$(printf '%s\\n' "$old" | awk 'BEGIN {{ srand() }} {{ print rand() "\\t" $0 }}' | sort | cut -f 2-)
printf '%s\\n' "$shuffled" | while read -r each; do
  folder=${{each%/*}}
  job=$(head -n 1 "$folder/submitted" 2>/dev/null)
  if [ -n "$job" ] && printf '%s\\n' "$active" | grep -qxF -- "$job"; then continue; fi
  printf '%s\\t%s\\n' "$(pwd -P)/${{folder#./}}" "$(cat -- "$each")"
done | head -n {_SWEEP_FOLDERS}"""


def of_task(base: str, task: str, clusters: str) -> str:
    """Print the user's jobs that are not over, then a line of dashes, then the folders of a task."""
    return f"""{_SQUEUE}{on_cluster(clusters)} --format="%F|%j|%k" || exit {TRY_AGAIN}
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
