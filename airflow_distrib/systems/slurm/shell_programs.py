"""What programs do with their words: a table.

Programs that are not in it are the user's own, which take their words as data.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORD = re.compile(r"[A-Za-z0-9_.:,/][A-Za-z0-9_.:,/-]*")


class Takes(enum.IntEnum):
    """What a place in a script takes, from the strictest to any text."""

    NUMBER = 0
    WORD = 1
    OPERAND = 2
    TEXT = 3

    def fits(self, value: str) -> bool:
        """Whether a value may stand there."""
        if self is Takes.TEXT or _NUMBER.fullmatch(value):
            return True
        if self is Takes.OPERAND:
            return not value.startswith("-")
        return self is Takes.WORD and _WORD.fullmatch(value) is not None

    @property
    def needs(self) -> str:
        """For messages."""
        return (
            "a number",
            "a number, or only letters, digits and _ . : , / - without a - at the beginning",
            "text that does not begin with a -",
            "text",
        )[self]


NUMBER, WORD, OPERAND, TEXT = Takes.NUMBER, Takes.WORD, Takes.OPERAND, Takes.TEXT


def words(text: str) -> frozenset[str]:
    """A set of words."""
    return frozenset(text.split())


_BODIES = words("--command --eval --exec --expression --file --from-file --module --print --run --source")


@dataclass(frozen=True)
class Program:
    """How a program reads its words.

    Attributes:
        code: options whose value it runs, or reads code from; short ones as letters, long ones whole.
        data: options whose value is only data.
        flags: options without a value.
        starts: options that a command follows.
        before: operands before what it runs.
        first: what the operand after those takes: its code, its script, or what else comes first.
        rest: what further operands take.
        command: whether that operand is the name of a command, with words of its own.
        stops: whether words after that operand are never its own options.
        stdin: what standard input takes where no operand says what runs.
        any_stdin: what standard input takes in any case.
    """

    code: str = ""
    data: str = ""
    flags: str = ""
    starts: str = ""
    before: int = 0
    first: Takes = NUMBER
    rest: Takes = TEXT
    command: bool = False
    stops: bool = False
    stdin: Takes = NUMBER
    any_stdin: Takes = TEXT

    def is_body(self, option: str) -> bool:
        """Whether an option's value is the code that runs, so that what follows are its words."""
        return option in _BODIES or (not option.startswith("--") and bool(set(option) & set("Ecefm")))

    def has(self, which: str, option: str) -> bool:
        """Whether an option, with or without a value in the same word, is one of a kind."""
        names = getattr(self, which).split()
        if option.partition("=")[0] in names:
            return True
        letters, short = set(option[1:]), {each for each in names if len(each) == 1}
        if option.startswith("--") or not letters:
            return False
        return letters <= short if which == "flags" else bool(letters & short)


_ALL_CODE = Program(rest=NUMBER, any_stdin=NUMBER)
_SHELL = Program(
    code="c --command --init-file --rcfile --init-command",
    data="o O",
    flags="l i e u x v f n p a b h k m t r B C E H P T D s --login --noprofile --norc --posix --restricted --verbose",
    stops=True,
)
_SCRIPTED = Program(code="c d e f i l p r x E L -e -r --eval --file --import --print --require --run", stops=True)
_DATA_TOOL = Program(first=OPERAND, rest=OPERAND, stdin=TEXT)
_WORDS_ONLY = Program(first=WORD, rest=WORD, stdin=TEXT)
_STARTER = Program(
    code="--entrypoint --env-file --launch-agent --prolog --epilog --task-prolog --task-epilog --multi-prog",
    data=(
        "--volume --mount -B --bind -w --workdir --pwd -D --chdir -o --output -e --error -J --job-name --comment "
        "--name --mpi -N --nodes -n --ntasks -c --cpus-per-task -p --partition -A --account -q --qos -t --time --mem "
        "-G --gpus --gres --cpu-bind --gpu-bind --distribution -m --ntasks-per-node --gpus-per-task --mem-per-cpu -np "
        "--bind-to --map-by --rank-by --hostfile --machinefile -hostfile -machinefile "
        "-H --host -ppn --network --shm-size --ipc --user "
        "--hostname --env --cpunodebind --membind --signal --kill-after -k -s -x"
    ),
    flags=(
        "v E H K O Q i k l q s t -l --label --unbuffered --exclusive --overlap --exact --overcommit --pty --no-kill "
        "--kill-on-bad-exit --oversubscribe --allow-run-as-root --report-bindings --use-hwthread-cpus --tag-output "
        "--display-map --foreground --preserve-status --verbose --quiet --rm --nv --rocm --cleanenv --contain "
        "--containall --no-home --writable-tmpfs --fakeroot --ignore-environment --no-capture-output --interactive "
        "--tty --live-stream --localalloc"
    ),
    command=True,
    stops=True,
)


def _with(program: Program, **changes: object) -> Program:
    return Program(**{**vars(program), **changes})


_STARTS_LATER = _with(_STARTER, before=1, code=f"c --command --rsh {_STARTER.code}")
_KINDS: Iterable[tuple[str, Program]] = [
    (
        "eval let trap su runuser alias unalias unset ssh parallel watch at batch hash enable bind complete compgen "
        "compopt getopts expect dc bc ed ex vi vim emacs gdb lldb m4 telnet nc ncat socat tclsh wish sftp hyperfine "
        "pdsh clush psh dsh crontab jobs declare typeset local",
        _ALL_CODE,
    ),
    ("sh bash dash ash ksh mksh zsh csh tcsh fish rbash pwsh", _SHELL),
    ("source .", Program(stops=True)),
    (
        "python ipython pypy",
        Program(code="c m", data="W X --check-hash-based-pycs", flags="b B d E h i I O P q s S u v V x", stops=True),
    ),
    ("perl ruby raku", Program(code="e E I M r --eval", flags="0 a c i l n p s S T t u U w W", rest=WORD, stops=True)),
    ("node nodejs deno bun lua luajit php groovy scala guile racket gnuplot root sage julia", _SCRIPTED),
    ("Rscript", Program(code="e f --file", flags="--vanilla --no-save", rest=OPERAND, stops=True)),
    (
        "R matlab octave scilab maxima gap magma maple",
        Program(code="b d e f r -batch -r -sd --eval --file", rest=WORD, any_stdin=NUMBER),
    ),
    (
        "awk gawk mawk nawk",
        Program(
            code="E e f i l --exec --file --include --load --source",
            data="F v --assign --field-separator",
            stops=True,
            stdin=TEXT,
        ),
    ),
    (
        "sed gsed",
        Program(
            code="e f --expression --file",
            data="l --line-length",
            flags="E i n r s u z --in-place --null-data --quiet --regexp-extended --silent",
            rest=OPERAND,
            stdin=TEXT,
        ),
    ),
    (
        "jq yq",
        Program(
            code="L f --from-file",
            data="--arg --argjson --slurpfile --rawfile --indent",
            flags="C M R S a c e j n r s --compact-output --null-input --raw-output --slurp --exit-status",
            rest=OPERAND,
            stdin=TEXT,
        ),
    ),
    (
        "psql mysql mariadb sqlite3 duckdb sqlplus",
        Program(code="c e f --command --execute --file --eval -cmd -init", first=WORD, rest=NUMBER, any_stdin=NUMBER),
    ),
    (
        "make gmake ninja rake snakemake nextflow",
        Program(code="E f s --eval --file --makefile --snakefile", flags="B k n", first=WORD, rest=WORD, stdin=TEXT),
    ),
    ("cmake", Program(code="E P", first=OPERAND, rest=WORD, stdin=TEXT)),
    ("find", _with(_DATA_TOOL, starts="-exec -execdir -ok -okdir")),
    (
        "tar bsdtar cpio",
        _with(
            _DATA_TOOL,
            code="F I --checkpoint-action --info-script --new-volume-script --rmt-command --rsh-command "
            "--to-command --use-compress-program",
        ),
    ),
    (
        "git",
        _with(
            _DATA_TOOL, code="c u x --config --config-env --exec --exec-path --receive-pack --upload-pack", first=WORD
        ),
    ),
    ("rsync scp", _with(_DATA_TOOL, code="D F M S e o --remote-option --rsh --rsync-path")),
    ("wget curl aria2c", _with(_DATA_TOOL, code="K e --config --execute --on-download-complete --use-askpass")),
    (
        "sort split zip less more man pip gcc g++ cc gfortran nvcc ld install",
        _with(_DATA_TOOL, code="-TT -unzip-command -wrapper --compress-program --filter --strip-program"),
    ),
    ("module ml spack conda mamba micromamba", _WORDS_ONLY),
    ("set", _with(_DATA_TOOL, rest=TEXT)),
    ("sbatch", Program(code="--wrap --bb --bbf --export-file", flags="H W --hold --parsable --wait", stops=True)),
    (
        "xargs",
        Program(
            code="a --arg-file",
            data="E I L P d n s --delimiter --max-args --max-procs --replace",
            flags="0 p r t x --no-run-if-empty --null",
            command=True,
            stops=True,
            any_stdin=WORD,
        ),
    ),
    ("env", _with(_STARTER, code=f"S --split-string {_STARTER.code}", data="C u --chdir --unset", flags="0 i v -")),
    (
        "sudo doas",
        _with(_STARTER, code="i s", data="C D R T g h p r t u --user --group --host", flags="A E H K P S b k n"),
    ),
    ("setsid command exec", _with(_STARTER, data="a", flags="c f l p w v V")),
    ("stdbuf", _with(_STARTER, data="e i o --error --input --output")),
    ("time", _with(_STARTER, data="f o --format --output", flags="a p q v --append --portability --verbose")),
    ("taskset", _with(_STARTER, before=1, data="", flags="a c p --all-tasks --cpu-list --pid")),
    (
        "builtin nohup nice ionice unbuffer strace ltrace valgrind ncu numactl srun "
        "ibrun aprun jsrun prun lrun mpirun mpiexec orterun fakeroot catchsegv unshare nsenter busybox setarch",
        _STARTER,
    ),
    ("timeout chrt flock chroot perf nsys poetry pipenv uv pixi accelerate coverage setpriv", _STARTS_LATER),
    ("script", _with(_DATA_TOOL, code="c --command", any_stdin=NUMBER)),
    (
        "docker podman apptainer singularity nerdctl enroot shifter udocker",
        _with(_STARTER, before=2, data=f"-v {_STARTER.data}"),
    ),
    ("torchrun deepspeed horovodrun", Program(code="m --module", flags="--standalone", stops=True, stdin=TEXT)),
]
_PROGRAMS = {name: program for names, program in _KINDS for name in names.split()}

# Looked for behind programs that are not known, which may be ways to start them.
INTERPRETERS = words(
    "sh bash dash ash ksh mksh zsh csh tcsh python perl ruby node Rscript awk sed eval ssh xargs parallel env sudo"
)

# Programs to which every word is data, and which pass on their input as it is.
DATA = words(
    ": [ base64 basename break bunzip2 bzip2 cat cd chgrp chmod chown cksum cmp column comm continue cp cut date dd df "
    "diff dirname du echo egrep exit expand false fgrep file fmt fold free grep gunzip gzip head hostname id join kill "
    "ln logger ls mapfile md5sum mkdir mktemp mv nl nproc nvidia-smi od paste popd printenv printf pushd pwd read "
    "readarray readlink realpath return rev rm rmdir sacct scancel scontrol seq sha1sum sha256sum sha512sum "
    "shift sinfo sleep squeue sstat stat tac tail tee test touch tr true truncate ulimit umask uname uniq unxz wc "
    "xxd xz zcat zstd"
)

# Variables that the shell, or a program, takes for more than text.
_SPECIAL = re.compile(
    r"PATH|CDPATH|IFS|PS[0-4]|ENV|BASH\w*|PROMPT_COMMAND|SHELL|SHELLOPTS|HOME|LD_\w+|DYLD_\w+|GCONV_PATH|"
    r"PYTHON(PATH|STARTUP|HOME|INSPECT|BREAKPOINT|EXECUTABLE|WARNINGS)|PERL\w+|RUBY(OPT|LIB)|NODE_(OPTIONS|PATH)|"
    r"GIT_\w+|\w*EDITOR|VISUAL|\w*PAGER|LESS\w*|BROWSER|R_\w+|JULIA_\w+|LUA_\w+|_?JAVA_(TOOL_)?OPTIONS|JDK_\w+|CLASSPATH|"
    r"MAKE\w*|MFLAGS|CC|CXX|FC|RSYNC_\w+|SSH_ASKPASS|TAR_OPTIONS|OPENSSL_CONF|AWK(LIB)?PATH|TERMINFO|"
    r"(SBATCH|SRUN|SALLOC|SLURM|OMPI_MCA|PRTE|PMIX|I_MPI|HYDRA)_\w+|(APPTAINER|SINGULARITY)\w*|"
    r"RANDOM|SRANDOM|SECONDS|LINENO|OPTIND|HISTCMD|EPOCH\w+|DIRSTACK|FUNCNAME|GROUPS"
)


def of_variable(name: str) -> Takes:
    """What a variable of this name takes."""
    return NUMBER if _SPECIAL.fullmatch(name) else TEXT


def is_shell(name: str) -> bool:
    """Whether a program is a shell."""
    return _PROGRAMS.get(name) is _SHELL


def program(name: str | None) -> Program | None:
    """How a program of this name reads its words; None for one of the user's own."""
    # With a version: python3.12.
    return _PROGRAMS.get(name) or _PROGRAMS.get(re.sub(r"[-.]?[0-9][0-9.]*$", "", name)) if name else None
