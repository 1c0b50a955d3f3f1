"""Batch scripts: each site's vocabulary and rules, and that nothing of a stranger's site file ever runs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st

from envbuilder import job, job_script, site, verify_job
from envbuilder.environment import Environment
from envbuilder.errors import InputError
from envbuilder.evidence import Evidence, Outcome, Verdict
from envbuilder.job import Billing, Shape
from envbuilder.nodes import Nodes
from envbuilder.partition import Cpu, Export, Gpu, Partition
from envbuilder.scheduler import JobEnd
from envbuilder.site import Modules, Scheduler, Site
from envbuilder.store import Store

# Made-up sites, each with one real site's vocabulary: these are tests of the words, not facts about the machines.
TOTAL = """
schema: 1
name: total
summary: GPUs of the whole job, modules, mandatory options
default_partition: gpu
modules: {system: lmod}
scheduler:
  kind: slurm
  required: [account, partition, qos, time]
  export: none
  qos:
    gpu-shd: {partitions: [gpu], max_nodes: 1, max_minutes: 720}
    gpu-exc: {partitions: [gpu], max_nodes: 2, max_minutes: 720, options: [--exclusive]}
    standard: {partitions: [standard], max_nodes: 1024, max_minutes: 1440}
partitions:
  gpu:
    cpu: {cores: 32}
    gpu: {vendor: amd, arch: gfx90a, count: 4}
    module_paths: [/opt/some modules]
    modules: [cpe/22.12, PrgEnv-gnu, rocm/5.2.3]
    promises: [CRAY_MPICH_DIR]
    exports_after_modules:
      - {prepend: LD_LIBRARY_PATH, to: "${CRAY_LD_LIBRARY_PATH}", why: the modules are not the default ones}
      - {set: HDF5_USE_FILE_LOCKING, to: "FALSE", why: Lustre}
      - {unset: PYTHONPATH, why: it hides what is installed}
    scheduler: {partition: gpu, gpus: total, refuses: [ntasks, ntasks-per-node, cpus-per-task]}
    launch: {launcher: srun, options: [--hint=nomultithread], env: {MPICH_GPU_SUPPORT_ENABLED: "1"}}
  cpu:
    cpu: {cores: 128}
    scheduler: {partition: standard}
    launch: {launcher: srun, options: [--hint=nomultithread, --distribution=block:block, --cpu-freq=2250000]}
"""
GRES = """
schema: 1
name: gres
summary: GPUs as a generic resource, a login shell for modules
default_partition: gpu
modules: {system: tcl}
scheduler: {kind: slurm, login_shell: true, qos: {gpu: {max_minutes: 5760}}}
partitions:
  gpu:
    cpu: {cores: 40}
    gpu: {vendor: nvidia, arch: sm_70, count: 4}
    modules: [python/3.10.8-gpu]
    scheduler: {partition: gpu, gpus: gres, gres: "gpu:v100", options: [--exclusive], refuses: [ntasks, cpus-per-task]}
"""
PER_NODE = """
schema: 1
name: per-node
summary: GPUs per node, tasks said to sbatch
default_partition: g
scheduler: {kind: slurm, required: [account, time], srun_options: [--cpu-bind=cores]}
partitions:
  g:
    cpu: {cores: 56}
    gpu: {vendor: amd, arch: gfx90a, count: 8}
    scheduler: {partition: standard-g, gpus: per-node}
"""
PER_TASK = """
schema: 1
name: per-task
summary: GPUs to tasks, on srun only
default_partition: batch
scheduler: {kind: slurm, required: [account, time]}
partitions:
  batch:
    cpu: {cores: 56}
    gpu: {vendor: amd, arch: gfx90a, count: 8}
    scheduler:
      partition: batch
      constraint: nvme
      gpus: per-task
      options: [--network=disable_rdzv_get]
      refuses: [gpus-per-task, ntasks, ntasks-per-node, cpus-per-task]
    launch: {launcher: srun, options: [--gpu-bind=closest]}
"""


def made(text: str, name: str = "") -> tuple[Site, Partition]:
    one = site.parse(text, "made-up.yaml")
    return one, one.partition(name or one.default_partition)


def options(text: str, shape: Shape, billing: Billing | None = None, partition: str = "") -> tuple[str, ...]:
    one, part = made(text, partition)
    return job.directives(one, part, shape, billing or Billing(account="z19"), name="t", output="/o/%j.out")


GOLDEN_TOTAL = """\
#!/bin/bash
#SBATCH --job-name=t
#SBATCH --output=/o/%j.out
#SBATCH --partition=gpu
#SBATCH --qos=gpu-exc
#SBATCH --account=z19
#SBATCH --time=1:30:00
#SBATCH --export=none
#SBATCH --nodes=2
#SBATCH --gpus=8
#SBATCH --exclusive

unset SLURM_EXPORT_ENV
export PATH

_envbuilder_stop() { echo "envbuilder: $1" >&2; exit 98; }
type module >/dev/null 2>&1 || _envbuilder_stop 'this shell has no module command'
module use '/opt/some modules' || _envbuilder_stop 'no modules in /opt/some modules'
_envbuilder_loaded() {
    case ":${LOADEDMODULES-}:" in *":$1:"* | *":$1/"*) return 0 ;; esac
    module is-loaded "$1" >/dev/null 2>&1
}
module load cpe/22.12 || _envbuilder_loaded cpe/22.12 || _envbuilder_stop 'the module cpe/22.12 cannot be loaded'
module load PrgEnv-gnu || _envbuilder_loaded PrgEnv-gnu || _envbuilder_stop 'the module PrgEnv-gnu cannot be loaded'
module load rocm/5.2.3 || _envbuilder_loaded rocm/5.2.3 || _envbuilder_stop 'the module rocm/5.2.3 cannot be loaded'
_envbuilder_loaded cpe/22.12 || _envbuilder_stop 'the module cpe/22.12 does not stay loaded'
_envbuilder_loaded PrgEnv-gnu || _envbuilder_stop 'the module PrgEnv-gnu does not stay loaded'
_envbuilder_loaded rocm/5.2.3 || _envbuilder_stop 'the module rocm/5.2.3 does not stay loaded'
[ -n "${CRAY_MPICH_DIR-}" ] || _envbuilder_stop 'CRAY_MPICH_DIR has no value; the modules promise it'

set -euo pipefail
# the modules are not the default ones
[ -n "${CRAY_LD_LIBRARY_PATH-}" ] || _envbuilder_stop 'CRAY_LD_LIBRARY_PATH has no value; LD_LIBRARY_PATH is set from it'
export LD_LIBRARY_PATH="${CRAY_LD_LIBRARY_PATH}""${LD_LIBRARY_PATH:+:${LD_LIBRARY_PATH}}"
# Lustre
export HDF5_USE_FILE_LOCKING=FALSE
# it hides what is installed
unset PYTHONPATH
export MPICH_GPU_SUPPORT_ENABLED=1

srun --nodes=2 --ntasks=8 --ntasks-per-node=4 --cpus-per-task=8 --gpus=8 --hint=nomultithread true
"""


def test_a_whole_script_with_the_gpus_of_the_job_and_what_sbatch_refuses_on_srun() -> None:
    one, part = made(TOTAL)
    shape = job.shape_for(part, nodes=2, ranks=8, minutes=90)
    said = job.directives(one, part, shape, Billing(account="z19"), name="t", output="/o/%j.out")

    assert job.script(one, part, said, [" ".join((*job.srun(one, part, shape), "true"))]) == GOLDEN_TOTAL


def test_a_whole_script_without_modules() -> None:
    one, part = made(TOTAL, "cpu")
    shape = job.shape_for(part, nodes=4, ranks=32, minutes=20)
    said = job.directives(one, part, shape, Billing(account="z19"), name="t", output="/o/%j.out")

    assert job.script(one, part, said, ["true"], with_modules=False) == (
        "#!/bin/bash\n#SBATCH --job-name=t\n#SBATCH --output=/o/%j.out\n#SBATCH --partition=standard\n"
        "#SBATCH --qos=standard\n#SBATCH --account=z19\n#SBATCH --time=0:20:00\n#SBATCH --export=none\n#SBATCH --nodes=4\n"
        "#SBATCH --ntasks=32\n#SBATCH --ntasks-per-node=8\n#SBATCH --cpus-per-task=16\n\nunset SLURM_EXPORT_ENV\nexport PATH\n\n"
        "set -euo pipefail\nexport SRUN_CPUS_PER_TASK=16\n\ntrue\n"
    )
    assert job.srun(one, part, shape) == (
        "srun", "--nodes=4", "--ntasks=32", "--ntasks-per-node=8", "--cpus-per-task=16",
        "--hint=nomultithread", "--distribution=block:block", "--cpu-freq=2250000",
    )  # fmt: skip


def test_gpus_as_a_generic_resource_and_a_login_shell_for_modules() -> None:
    one, part = made(GRES)
    shape = job.shape_for(part, nodes=2, ranks=8, minutes=10)
    said = options(GRES, shape)

    assert said == (
        "--job-name=t", "--output=/o/%j.out", "--partition=gpu", "--qos=gpu", "--account=z19", "--time=0:10:00",
        "--nodes=2", "--ntasks-per-node=4", "--gres=gpu:v100:4", "--exclusive",
    )  # fmt: skip
    text = job.script(one, part, said, [])
    assert text.startswith("#!/bin/bash --login\n")
    assert job.script(one, part, said, [], with_modules=False).startswith("#!/bin/bash\n")
    # profile scripts and modulefiles are over when the shell begins to be strict
    assert text.index("set -euo") > text.index("module load python/3.10.8-gpu") > text.index("#SBATCH")
    assert "--gres=gpu:v100:4" in job.srun(one, part, shape)


def test_gpus_per_node() -> None:
    one, part = made(PER_NODE)
    shape = job.shape_for(part, nodes=3, ranks=24, minutes=2880)

    assert options(PER_NODE, shape)[3:] == (
        "--account=z19", "--time=48:00:00", "--nodes=3", "--ntasks=24", "--ntasks-per-node=8",
        "--cpus-per-task=7", "--gpus-per-node=8",
    )  # fmt: skip
    assert job.srun(one, part, shape)[4:] == ("--cpus-per-task=7", "--gpus-per-node=8", "--cpu-bind=cores")


def test_gpus_per_task_on_the_launcher_alone() -> None:
    one, part = made(PER_TASK)
    shape = job.shape_for(part, nodes=2, ranks=16, minutes=60)

    assert options(PER_TASK, shape)[2:] == (
        "--partition=batch", "--account=z19", "--time=1:00:00", "--constraint=nvme", "--nodes=2",
        "--network=disable_rdzv_get",
    )  # fmt: skip
    assert job.srun(one, part, shape)[4:] == ("--cpus-per-task=7", "--gpus-per-task=1", "--gpu-bind=closest")
    assert "--gpus-per-task=4" in job.srun(one, part, replace(shape, ranks=4))
    with pytest.raises(InputError, match="16 GPUs cannot be shared out among 3 ranks"):
        job.srun(one, part, replace(shape, ranks=3))


def test_some_of_a_nodes_gpus_come_with_their_part_of_its_cores() -> None:
    one, part = made(TOTAL)
    shape = job.shape_for(part, nodes=1, ranks=1, minutes=10, gpus_per_node=1)

    assert "--gpus=1" in options(TOTAL, shape)
    assert "--cpus-per-task=8" in job.srun(one, part, shape)
    assert "--cpus-per-task=3" in job.srun(one, part, replace(shape, cpus_per_rank=3))
    assert not [each for each in job.srun(one, replace(part, cpu=Cpu()), shape) if "cpus" in each]


def test_no_gpus_are_asked_for_where_none_are_wanted() -> None:
    one, part = made(PER_NODE)
    shape = job.shape_for(part, nodes=1, ranks=2, minutes=1, gpus_per_node=0)

    assert not [each for each in (*options(PER_NODE, shape), *job.srun(one, part, shape)) if "gpu" in each]


@pytest.mark.parametrize(
    ("nodes", "minutes", "asked", "chosen"),
    [(1, 60, "", "gpu-shd"), (2, 60, "", "gpu-exc"), (1, 60, "gpu-exc", "gpu-exc"), (2, 0, "", "gpu-exc")],
)
def test_the_first_qos_that_holds_the_job_is_taken(nodes: int, minutes: int, asked: str, chosen: str) -> None:
    one, part = made(TOTAL)

    name, rules = job.qos_for(one, part, Shape(nodes=nodes, ranks=nodes, minutes=minutes), asked)

    assert name == chosen
    assert rules is one.scheduler.qos[chosen]


def test_a_qos_that_the_site_file_does_not_know_is_for_slurm_to_judge() -> None:
    one, part = made(TOTAL)

    assert job.qos_for(one, part, Shape(nodes=99, ranks=99), "course") == ("course", None)
    assert job.qos_for(*made(PER_NODE), Shape()) == ("", None)


@pytest.mark.parametrize(
    ("shape", "asked", "message", "hint"),
    [
        (Shape(nodes=3, ranks=3, minutes=60), "", "no QoS of total holds 3 nodes for 1:00:00 on partition gpu",
         "gpu-shd: at most 1 node, at most 12:00:00, on gpu; gpu-exc: at most 2 nodes, at most 12:00:00, on gpu"),
        (Shape(nodes=1, minutes=721), "", "no QoS of total holds 1 node for 12:01:00 on partition gpu", "at most 12:00:00"),
        (Shape(nodes=2, ranks=2, minutes=60), "gpu-shd", "gpu-shd does not hold 2 nodes for 1:00:00 on partition gpu", "gpu-exc would"),
        (Shape(), "standard", "standard does not hold 1 node on partition gpu", "gpu-shd and gpu-exc would"),
    ],
)  # fmt: skip
def test_a_job_that_no_qos_holds_is_refused_with_the_limits(shape: Shape, asked: str, message: str, hint: str) -> None:
    with pytest.raises(InputError) as error:
        options(TOTAL, shape, Billing(qos=asked, account="x"))

    assert message in error.value.message
    assert hint in error.value.hint


def test_everything_that_is_missing_is_said_at_once() -> None:
    one, part = made(TOTAL)
    bare = replace(one, scheduler=replace(one.scheduler, qos={}))
    nameless = replace(part, scheduler=replace(part.scheduler, partition=""))

    with pytest.raises(InputError) as error:
        job.directives(bare, nameless, Shape(), Billing(), name="t", output="o")

    assert error.value.message == "jobs at total must say account and partition and qos and time"
    for word in ("--account", *job.ACCOUNT_VARIABLES, "--qos", *job.QOS_VARIABLES, "--time", "site file"):
        assert word in error.value.hint


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape(nodes=0), "cannot be"),
        (Shape(nodes=2, ranks=1), "1 ranks on 2 nodes cannot be"),
        (Shape(minutes=-1), "cannot be"),
        (Shape(ranks=33), "33 ranks on a node of 32 cores"),
        (Shape(gpus_per_node=5), "5 GPUs of a node were asked for on partition gpu"),
        (Shape(gpus_per_node=-1), "-1 GPUs"),
    ],
)
def test_an_impossible_shape_is_refused(shape: Shape, message: str) -> None:
    one, part = made(TOTAL)

    with pytest.raises(InputError, match=re.escape(message)):
        options(TOTAL, shape)
    with pytest.raises(InputError, match=re.escape(message)):
        job.srun(one, part, shape)


def test_of_two_options_with_one_name_the_later_wins_and_the_user_has_the_last_word() -> None:
    one, part = made(PER_NODE)
    rules = Scheduler(kind="slurm", options=("--mem=1G", "--exclusive", "--hint=a"), srun_options=("--mpi=pmi2",))
    part = replace(part, scheduler=replace(part.scheduler, options=("--mem=2G",)))
    part = replace(part, launch=replace(part.launch, options=("--mpi=pmix", "--ntasks-per-node=4")))
    billing = Billing(options=("--mem=3G", "--exclusive=user"), reservation="course")

    said = job.directives(replace(one, scheduler=rules), part, Shape(), billing, name="t", output="o")

    assert [each for each in said if "mem" in each or "exclusive" in each] == ["--mem=3G", "--exclusive=user"]
    assert "--hint=a" in said
    assert "--reservation=course" in said
    assert job.srun(replace(one, scheduler=rules), part, Shape())[3:] == (
        "--ntasks-per-node=4",
        "--cpus-per-task=56",
        "--mpi=pmix",
    )


@pytest.mark.parametrize("option", ["mem=3G", "--", "--a b=c", "-C=gpu", "--x\n=y"])
def test_what_is_not_an_option_is_refused(option: str) -> None:
    with pytest.raises(InputError, match="is not an option"):
        options(PER_NODE, Shape(minutes=1), Billing(account="a", options=(option,)))


ALL = (
    "job-name",
    "output",
    "partition",
    "nodes",
    "ntasks",
    "ntasks-per-node",
    "cpus-per-task",
    "gpus",
    "time",
    "mem",
    "qos",
)


@given(refused=st.sets(st.sampled_from(ALL)))
def test_what_a_partition_refuses_is_never_said_to_sbatch(refused: set[str]) -> None:
    one, part = made(TOTAL)
    scheduler = replace(part.scheduler, refuses=tuple(refused), options=("--mem=0",))
    one = replace(one, scheduler=replace(one.scheduler, required=()))

    said = job.directives(
        one, replace(part, scheduler=scheduler), Shape(gpus_per_node=4, minutes=5), Billing(), name="t", output="o"
    )

    assert {each.partition("=")[0].removeprefix("--") for each in said} == {*ALL, "export"} - refused


# What a script does when it runs: with real bash, and with a module command that writes down what it was told.

STUB = """
module() {
    printf '%s\\0' "$@" >>"$NOTES"
    if [ "$1" = load ]; then
        case " ${BROKEN-} " in *" $2 "*) return 1 ;; esac
        case " ${SILENT-} " in *" $2 "*) return 0 ;; esac
        LOADEDMODULES="${LOADEDMODULES:+$LOADEDMODULES:}$2"
        export LOADED_VALUE="$undefined/of $2"
    fi
    [ "$1" != is-loaded ]
}
"""
NASTY = ["$(touch canary)", "`touch canary`", "; touch canary", "' ; touch canary '", '" ; touch canary "', "a\\", "*", "~", "",
         "\n#SBATCH --wrap=x\ntouch canary\n", "${HOME", "$HOME", "!!", "-n", "&", "\r", "é\u2028", "${X:-$(touch canary)}"]  # fmt: skip
words = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))


def run(folder: Path, text: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    folder.mkdir(exist_ok=True)
    path = folder / "job.sh"
    path.write_text(text, encoding="utf-8")
    (folder / "notes").unlink(missing_ok=True)
    (folder / "init").write_text(STUB)
    start = {"PATH": os.environ["PATH"], "HOME": str(folder), "NOTES": str(folder / "notes"), "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        ["bash", str(path)], cwd=folder, env={**start, **(env or {})}, capture_output=True, check=False, timeout=30
    )


def environment(done: subprocess.CompletedProcess[bytes]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    pairs = (entry.partition("=") for entry in done.stdout.decode().split("\0") if entry)
    return {name: value for name, _, value in pairs}


def with_stub(folder: Path, **more: object) -> Site:
    return replace(made(TOTAL)[0], modules=Modules(system="lmod", init=str(folder / "init"), **more))  # type: ignore[arg-type]


def plain(text: str) -> str:
    """A text without references to variables, which have tests of their own."""
    return re.sub(r"\$(?=[A-Za-z_{])", "$ ", text)


@given(modules=st.lists(words.filter(bool), max_size=3), texts=st.tuples(words, words, words, words, words))
def test_nothing_of_a_site_file_runs_and_every_value_arrives(
    tmp_path_factory: pytest.TempPathFactory, modules: list[str], texts: tuple[str, str, str, str, str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "quoting"
    reset, value, set_to, prepended, in_path = texts[0], texts[1], plain(texts[2]), plain(texts[3]), plain(texts[4])
    exports = (
        Export(why=value, set="MINE", to=set_to),
        Export(why=in_path, prepend="LD_LIBRARY_PATH", to="${LOADED_VALUE}" + prepended),
        Export(why=reset, unset="GONE"),
    )
    part = Partition(
        modules=("first", *modules), module_paths=("/" + in_path, "~/" + in_path, "${HOME}" + in_path),
        promises=("LOADED_VALUE",), exports_after_modules=exports,
    )  # fmt: skip
    part = replace(part, launch=replace(part.launch, env={"FROM_LAUNCH": value}))
    text = job.script(with_stub(folder, reset=reset), part, ["--nodes=1"], ["env -0"])

    seen = environment(run(folder, text, {"LD_LIBRARY_PATH": "/old", "GONE": "1", "SLURM_EXPORT_ENV": "NONE"}))

    assert not (folder / "canary").exists()
    assert seen["MINE"] == set_to
    assert seen["LD_LIBRARY_PATH"] == f"/of {['first', *modules][-1]}{prepended}:/old"
    assert seen["FROM_LAUNCH"] == value
    assert not {"GONE", "SLURM_EXPORT_ENV"} & set(seen)
    told = (folder / "notes").read_bytes().decode().split("\0")[:-1]
    expected = [reset] if reset else []
    for path in ("/" + in_path, f"{folder}/{in_path}", f"{folder}{in_path}"):
        expected += ["use", path]
    for name in ("first", *modules):
        expected += ["load", name]
    assert told[: len(expected)] == expected


@given(name=words, output=words)
def test_no_directive_leaves_its_line(tmp_path_factory: pytest.TempPathFactory, name: str, output: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "directives"
    one, part = made(PER_NODE)
    said = job.directives(one, part, Shape(minutes=5), Billing(account="a"), name=name, output=output)

    try:
        text = job.script(one, part, said, ["echo body"])
    except InputError as error:
        assert re.search(r"cannot be written into a job script", error.message)
        return

    lines = text.split("\n")
    assert lines[0] == "#!/bin/bash"
    end = lines.index("")
    assert len(lines[1:end]) == len(said)
    assert all(re.fullmatch(r'#SBATCH --[a-z-]+(=([^" #\\\'`$;]*|"[^"\\]*"))?', line) for line in lines[1:end])
    done = run(folder, text)
    assert (done.returncode, done.stdout) == (0, b"body\n")
    assert not (folder / "canary").exists()


@pytest.mark.parametrize(
    ("modules", "env", "message"),
    [
        (("good", "bad"), {"BROKEN": "bad"}, "envbuilder: the module bad cannot be loaded"),
        (("good", "bad"), {"SILENT": "bad"}, "envbuilder: the module bad does not stay loaded"),
        ((), {}, "envbuilder: LOADED_VALUE has no value; the modules promise it"),
    ],
)
def test_modules_that_are_not_there_end_the_job(
    tmp_path: Path, modules: tuple[str, ...], env: dict[str, str], message: str
) -> None:
    part = Partition(modules=modules or ("good",), promises=("LOADED_VALUE",))
    text = job.script(with_stub(tmp_path), part, [], ["echo body"])

    done = run(tmp_path, text, env if modules else {"SILENT": "good", "LOADEDMODULES": "good/1.0"})

    assert (done.returncode, done.stdout) == (job.NOT_PREPARED, b"")
    assert message in done.stderr.decode()


def test_a_module_without_its_version_may_be_loaded_in_any(tmp_path: Path) -> None:
    text = job.script(with_stub(tmp_path), Partition(modules=("good",)), [], ["echo body"])

    assert run(tmp_path, text, {"SILENT": "good", "LOADEDMODULES": "a:good/1.0"}).stdout == b"body\n"
    assert run(tmp_path, text, {"SILENT": "good", "LOADEDMODULES": "a:notgood/1.0"}).returncode == job.NOT_PREPARED


def test_a_shell_without_modules_is_said_to_be_one(tmp_path: Path) -> None:
    one, part = made(TOTAL)

    done = run(tmp_path, job.script(one, replace(part, module_paths=()), [], ["echo body"]))

    assert done.returncode == job.NOT_PREPARED
    assert b"this shell has no module command" in done.stderr


def test_a_search_path_never_gets_an_empty_entry(tmp_path: Path) -> None:
    export = Export(why="w", prepend="LD_LIBRARY_PATH", to="${NOT_SET_BY_ANYBODY}/lib:${LOADED_VALUE}")
    part = Partition(modules=("good",), exports_after_modules=(export,))
    text = job.script(with_stub(tmp_path), part, [], ["env -0"])

    failed = run(tmp_path, text)
    good = run(tmp_path, text, {"NOT_SET_BY_ANYBODY": "/x"})

    assert failed.returncode == job.NOT_PREPARED
    assert b"NOT_SET_BY_ANYBODY has no value" in failed.stderr
    assert environment(good)["LD_LIBRARY_PATH"] == "/x/lib:/of good"


def test_the_body_is_strict_and_its_exit_code_is_the_jobs(tmp_path: Path) -> None:
    one, part = made(PER_NODE)

    assert run(tmp_path, job.script(one, part, [], ["false | true", "echo body"])).returncode == 1
    assert b"unbound" in run(tmp_path, job.script(one, part, [], ['echo "$nothing"'])).stderr
    assert run(tmp_path, job.script(one, part, [], ["exit 7"])).returncode == 7


def test_a_path_with_a_variable_that_is_not_set_ends_the_job(tmp_path: Path) -> None:
    part = Partition(modules=("good",), module_paths=("/x/$NOWHERE/y",))

    done = run(tmp_path, job.script(with_stub(tmp_path), part, [], ["true"]))

    assert done.returncode == job.NOT_PREPARED
    assert b"NOWHERE has no value; /x/$NOWHERE/y names it" in done.stderr


def test_paths_of_a_site_file_expand_as_elsewhere(tmp_path: Path) -> None:
    part = Partition(modules=("good",), module_paths=("${HOME/tmp/work}/m", "$HOME/$x y", "~"))

    done = run(tmp_path, job.script(with_stub(tmp_path), part, [], ["true"]), {"x": "$(touch canary)"})

    assert done.returncode == 0, done.stderr
    told = (tmp_path / "notes").read_text().split("\0")
    assert told[1:6:2] == [
        f"{str(tmp_path).replace('tmp', 'work', 1)}/m",
        f"{tmp_path}/$(touch canary) y",
        str(tmp_path),
    ]


@pytest.mark.parametrize("name", ["A B", "1", "x;y", ""])
def test_a_name_that_no_variable_can_have_is_refused(name: str) -> None:
    one, part = made(PER_NODE)

    with pytest.raises(InputError, match="cannot be the name of a variable"):
        job.script(one, replace(part, launch=replace(part.launch, env={name: "x"})), [], [])


def test_a_character_that_no_shell_has_is_refused() -> None:
    one, part = made(PER_NODE)

    with pytest.raises(InputError, match="no shell can pass on"):
        job.script(one, replace(part, launch=replace(part.launch, env={"A": "x\0y"})), [], [])


def test_a_partition_without_a_gpu_vocabulary_asks_for_none() -> None:
    part = Partition(gpu=Gpu(vendor="amd", count=4))

    assert not [each for each in job.srun(made(PER_NODE)[0], part, Shape(gpus_per_node=4)) if "gpu" in each]


@pytest.mark.parametrize(
    ("state", "status", "interrupted"),
    [
        ("COMPLETED", "fail", False),
        ("FAILED", "fail", False),
        ("CANCELLED", "fail", True),
        ("TIMEOUT", "not-run", True),
        ("NODE_FAIL", "fail", True),
        ("CANCELLED", "pass", False),
    ],
)
def test_ranks_that_ended_with_their_cancelled_job_are_no_verdict_on_the_environment(
    state: str, status: str, interrupted: bool
) -> None:
    outcome = Outcome(check="ranks-died", rung=3, title="", status=status)  # type: ignore[arg-type]
    verdict = Verdict(
        outcomes=(outcome,), evidence=Evidence(), control=Path("x"), seconds=1, static_seconds=1, probe_seconds=1
    )

    assert verify_job.interrupted(JobEnd(job="7", state=state), verdict) is interrupted


def test_each_rank_of_an_image_is_started_inside_it(tmp_path: Path) -> None:
    total = site.parse(TOTAL, "total.yaml")
    nodes = Nodes(
        site=total,
        site_file=tmp_path / "total.yaml",
        partition="gpu",
        shape=Shape(nodes=2, ranks=8),
        billing=Billing(account="z"),
        patience=1.0,
    )
    tree = samples.environment()
    image = replace(tree, image={"file": "/x.sif"})

    def script(environment: Environment, *command: str) -> str:
        return job_script.render(Store(tmp_path), environment, nodes, (), command)

    inside = f"run {image.identifier} -- python train.py"
    assert script(image, "python", "train.py").rstrip().endswith(inside)
    assert "srun" in script(image, "python", "train.py").splitlines()[-1]
    # its proof was made without the modules
    assert "module load" not in script(image, "python", "train.py")
    assert "activate" not in script(image, "python", "train.py")
    assert "module load" in script(tree, "python", "train.py")
    assert script(image, "torchrun", "train.py").rstrip().endswith(f"run {image.identifier} -- torchrun train.py")
    for launcher in ("srun", "/usr/bin/mpiexec"):
        with pytest.raises(InputError, match="would be outside of it"):
            script(image, launcher, "python", "train.py")
