"""The doctor: what a site file says against what a machine shows. And the first site file that is made from the same.

The real ones use the machine's Lmod with modules of their own, and the testbed's Slurm.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from testbed import machine

from envbuilder import cli, doctor, examine, first_site, lint, places, site, survey
from envbuilder.doctor import Findings, Folders
from envbuilder.doctor_places import Places
from envbuilder.doctor_stack import Row
from envbuilder.effect import Effect, Loaded
from envbuilder.first_site import Programs
from envbuilder.report import rows as rendering
from envbuilder.survey import Answer, Batch, Limits, Shell, Stack, Survey
from envbuilder.target import Compiler, Mpi, Python

LMOD = Path("/usr/share/lmod/lmod/init/bash")
TODAY = date(2026, 11, 20)
SINFO = """\
standard|standard*|256|2:64:2|256000+|(null)|rome,ib|10|1-00:00:00
standard|standard*|256|2:64:2|512000|(null)|rome|2|1-00:00:00
gpu|gpu|64|1:32:2|512000|gpu:mi210:4(S:0-1)|(null)|2|12:00:00
"""
QOS = "normal||\nshort|00:20:00|node=32\nlong|4-00:00:00|node=64,cpu=9\n"

DOCUMENT: dict[str, Any] = {
    "schema": 1,
    "name": "made",
    "summary": "made up",
    "valid_until": "2026-12-31",
    "detect": {"hostname": "ln0[1-4]", "cluster": "big"},
    "modules": {"system": "lmod"},
    "scheduler": {"kind": "slurm", "qos": {"short": {"max_minutes": 20, "max_nodes": 32}}},
    "paths": {"root": "/data/x"},
    "default_partition": "cpu",
    "partitions": {
        "cpu": {
            "modules": ["fake/1.0"],
            "promises": ["FAKE_DIR"],
            "exports_after_modules": [{"prepend": "LD_LIBRARY_PATH", "to": "${FAKE_DIR}/lib", "why": "a reason"}],
            "python": {"command": "python3", "version": "3.11.7"},
            "mpi": {
                "provider": "system", "mpicc": "cc", "name": "cray-mpich", "version": "8.1.27", "soname": "libmpi_gnu_91.so.12",
                "gtl": "libmpi_gtl_hsa.so",
            },
            "compilers": {"cc": "cc", "cxx": "CC"},
            "cpu": {"cores": 128, "memory_gib": 256},
            "gpu": {"vendor": "amd", "arch": "gfx90a", "toolkit": "rocm@6.3.4"},
            "scheduler": {"partition": "standard", "constraint": "rome"},
            "launch": {"launcher": "srun"},
        },
        "old": {"valid_until": "2020-01-31", "mpi": {"provider": "none"}},
    },
}  # fmt: skip

STACK = Stack(
    loaded=Loaded(system="lmod", asked=("fake/1.0",), names=("fake/1.0",), files=(), effect=Effect()),
    env={"FAKE_DIR": "/opt/fake"},
    unexpanded={"LD_LIBRARY_PATH": ()},
    python=Python(path="/opt/python3", version="3.11.9", soabi="", headers=True),
    compilers={"cc": Compiler(path="/opt/cc", version="gcc 12"), "cxx": Compiler(path="/opt/CC", version="g++ 12")},
    mpi=Mpi(
        provider="system",
        name="cray-mpich",
        version="8.1.27.26",
        soname="libmpi_gnu_91.so.12",
        library="/opt/libmpi.so.12.0.0",
    ),
    gtl="/opt/libmpi_gtl_hsa.so.0",
    gpus=Answer(text="gfx90a gfx90a"),
    toolkit=Answer(text="6.3.4"),
)
SURVEY = Survey(
    hostname="ln03",
    domain="",
    shell=Shell(env={}, system="lmod", version="8.7", how="LMOD_VERSION of a login shell"),
    batch=Batch(
        cluster="big",
        partitions=survey.partitions(SINFO),
        qos=survey.qualities(QOS),
        mpi=("pmi2",),
        enforced="associations",
    ),
)
FOUND = Findings(survey=SURVEY, stacks={"cpu": STACK}, folders=Folders(root="/data/x"))


def _site(**changes: Any) -> site.Site:
    return site.parse(json.dumps({**DOCUMENT, **changes}), "made.yaml")


def _cpu(**changes: Any) -> site.Site:
    cpu = {**DOCUMENT["partitions"]["cpu"], **changes}
    return _site(partitions={**DOCUMENT["partitions"], "cpu": cpu})


def _rows(found: Findings = FOUND, of: site.Site | None = None, today: date = TODAY) -> dict[str, Row]:
    judged = doctor.judge(of or _site(), found, today)
    return {f"{row.partition}.{row.field}".lstrip("."): row for row in judged}


def _stack(**changes: Any) -> Findings:
    return replace(FOUND, stacks={"cpu": replace(STACK, **changes)})


def _batch(**changes: Any) -> Findings:
    return replace(FOUND, survey=replace(SURVEY, batch=replace(SURVEY.batch, **changes)))


def test_a_file_that_tells_the_truth() -> None:
    rows = _rows()

    assert {name: row.found for name, row in rows.items() if row.status == "fail"} == {}
    # what only a job or a submission shows, and what is kept for the record, is not claimed
    assert {name for name, row in rows.items() if row.status == "not-run"} == {"paths.home_on_compute", "old.valid"}
    assert all(row.how for row in rows.values() if row.status == "pass")
    assert doctor.exit_code(tuple(rows.values())) == 4
    assert doctor.exit_code(tuple(row for row in rows.values() if row.status == "pass")) == 0
    assert doctor.exit_code(()) == 4


def _survey(**changes: Any) -> Findings:
    return replace(FOUND, survey=replace(SURVEY, **changes))


@pytest.mark.parametrize(
    ("name", "found", "words"),
    [
        ("detect.hostname", _survey(hostname="uan1"), "uan1"),
        ("detect.cluster", _batch(cluster="small"), "small"),
        ("modules.system", _survey(shell=Shell(env={}, system="tcl", version="5.2")), "tcl 5.2"),
        ("modules.system", _survey(shell=Shell(env={}, system="none")), "none"),
        (
            "paths.root",
            replace(FOUND, folders=Folders(root="/x", root_why="/x: you may not write there")),
            "may not write",
        ),
        ("scheduler.kind", _batch(why="sinfo does not answer"), "does not answer"),
        ("scheduler.qos.short", _batch(qos={"normal": Limits()}), "there are normal"),
        ("scheduler.qos.short", _batch(qos={"short": Limits(max_minutes=10, max_nodes=32)}), "at most 10 min"),
        ("cpu.scheduler.partition", _batch(partitions={"gpu": SURVEY.batch.partitions["gpu"]}), "there are gpu"),
        ("cpu.launch", _batch(mpi=()), "no way to start MPI"),
        ("cpu.modules", _stack(failed={"fake/1.0": "Lmod: unknown"}, loaded=None), "Lmod: unknown"),
        ("cpu.modules", _stack(why="no module here", loaded=None), "no module here"),
        ("cpu.promises", _stack(env={}), "no value: FAKE_DIR"),
        ("cpu.exports_after_modules", _stack(unexpanded={"LD_LIBRARY_PATH": ("FAKE_DIR",)}), "no value: FAKE_DIR"),
        ("cpu.python", _stack(python=replace(STACK.python, version="3.12.1")), "3.12.1"),  # type: ignore[type-var]
        ("cpu.python", _stack(python="python3 is not on the PATH"), "not on the PATH"),
        ("cpu.compilers.cxx", _stack(compilers={"cc": None, "cxx": None}), "not there"),
        ("cpu.mpi", _stack(mpi=None), "no cc on the PATH"),
        ("cpu.mpi", _stack(mpi="cc cannot compile a small MPI program"), "cannot compile"),
        ("cpu.mpi.soname", _stack(mpi=replace(STACK.mpi, soname="libmpi_cray.so.12")), "libmpi_cray.so.12"),  # type: ignore[type-var]
        ("cpu.mpi.version", _stack(mpi=replace(STACK.mpi, version="8.1.23.11")), "8.1.23.11"),  # type: ignore[type-var]
        ("cpu.mpi.name", _stack(mpi=replace(STACK.mpi, name="mpich")), "mpich"),  # type: ignore[type-var]
        ("cpu.mpi.gtl", _stack(gtl=""), "nowhere"),
        ("cpu.gpu.arch", _stack(gpus=Answer(text="gfx942")), "gfx942"),
        ("cpu.gpu.toolkit", _stack(toolkit=Answer(text="5.2.3")), "5.2.3"),
    ],
)
def test_what_is_wrong_fails_and_is_named(name: str, found: Findings, words: str) -> None:
    row = _rows(found)[name]

    assert row.status == "fail"
    assert words in row.found


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("cpu.cpu.cores", _cpu(cpu={"cores": 64}), "128 cores"),
        ("cpu.cpu.memory_gib", _cpu(cpu={"memory_gib": 1024}), "256000/512000 MiB"),
        ("cpu.scheduler.constraint", _cpu(scheduler={"partition": "standard", "constraint": "rome&milan"}), "ib, rome"),
        ("cpu.scheduler.partition", _cpu(scheduler={"partition": "standart"}), "there are gpu, standard"),
        ("cpu.gpu.count", _cpu(gpu={"vendor": "amd", "count": 8}, scheduler={"partition": "gpu"}), "4 (gpu:mi210:4"),
        ("valid", _site(valid_until="2026-11-19"), "today is 2026-11-20"),
        ("cpu.valid", _cpu(valid_from="2027-01-01"), "today is 2026-11-20"),
        ("scheduler.qos.express", _site(scheduler={"kind": "slurm", "qos": {"express": {}}}), "there are long"),
        (
            "scheduler.qos.short.partitions",
            _site(scheduler={"kind": "slurm", "qos": {"short": {"partitions": ["highmem"]}}}),
            "there are gpu",
        ),
    ],
)
def test_what_the_file_has_wrong_fails(name: str, changed: site.Site, words: str) -> None:
    row = _rows(of=changed)[name]

    assert row.status == "fail"
    assert words in row.found


@pytest.mark.parametrize(
    ("name", "found", "words"),
    [
        ("scheduler.qos.short", _batch(qos={}, qos_why="sacctmgr failed"), "sacctmgr failed"),
        ("cpu.scheduler.partition", _batch(why="sinfo does not answer"), "does not answer"),
        ("cpu.gpu.arch", _stack(gpus=Answer(why="there is no rocminfo on the PATH")), "no rocminfo"),
        ("cpu.gpu.toolkit", _stack(toolkit=Answer(why="ROCM_PATH is not set")), "ROCM_PATH"),
        ("cpu.python", _stack(failed={"fake/1.0": "unknown"}, loaded=None), "do not load"),
        ("cpu.mpi", _stack(failed={"fake/1.0": "unknown"}, loaded=None), "do not load"),
        ("detect.hostname", _survey(hostname="nid001001", allocation="standard"), "a node of a job"),
    ],
)
def test_what_cannot_be_seen_from_here_does_not_pass(name: str, found: Findings, words: str) -> None:
    row = _rows(found)[name]

    assert row.status == "not-run"
    assert words in row.found


def test_another_patch_release_of_python_is_a_note() -> None:
    row = _rows()["cpu.python"]

    assert row.status == "pass"
    assert "another patch release" in row.found


def test_modules_for_compute_nodes_are_excused_on_a_login_node_and_not_in_their_job() -> None:
    changed, broken = _cpu(builds_on="compute"), _stack(failed={"fake/1.0": "unknown"}, loaded=None)
    login = _rows(broken, changed)
    job = _rows(replace(broken, survey=replace(SURVEY, allocation="standard")), changed)

    assert login["cpu.modules"].status == login["cpu.python"].status == "not-run"
    assert "run this in a job there (here: fake/1.0)" in login["cpu.modules"].found
    assert job["cpu.modules"].status == "fail"


@pytest.mark.parametrize(
    ("says", "home", "status"), [(True, True, "pass"), (True, False, "fail"), (False, True, "fail")]
)
def test_home_is_looked_for_in_a_job(says: bool, home: bool, status: str) -> None:
    found = replace(FOUND, survey=replace(SURVEY, allocation="standard"), folders=Folders(home=home))

    assert _rows(found, _site(paths={"home_on_compute": says}))["paths.home_on_compute"].status == status


def test_a_mirror_that_does_not_answer_fails() -> None:
    changed = _site(mirrors={"https://example.org/simple": "file:///srv/mirror"})
    rows = _rows(replace(FOUND, mirrors={"file:///srv/mirror": "/srv/mirror is no directory"}), changed)

    assert rows["mirrors.https://example.org/simple"].status == "fail"


def test_the_last_days_are_counted() -> None:
    assert "41 days left" in _rows()["valid"].found


def test_slurms_answers_are_read() -> None:
    nodes = survey.partitions(SINFO)

    assert nodes["standard"].memory == {256000, 512000}
    assert (nodes["standard"].cores, nodes["standard"].count, nodes["standard"].default) == ({128}, 12, True)
    assert nodes["standard"].features == {"rome", "ib"}
    assert nodes["gpu"].gpus() == {4}
    assert nodes["standard"].gpus() == {0}
    assert survey.qualities(QOS) == {
        "normal": Limits(), "short": Limits(max_minutes=20, max_nodes=32), "long": Limits(max_minutes=5760, max_nodes=64),
    }  # fmt: skip
    assert survey.partitions("slurm_load_partitions: error\n") == {}


@pytest.mark.parametrize(
    ("gres", "count"),
    [("gpu:4", 4), ("gpu:a100:2", 2), ("gpu:a100:2,gpu:v100:1", 3), ("craynetwork:4", 0), ("gpu:mi250x:8(S:0-3)", 8)],
)
def test_gpus_are_counted(gres: str, count: int) -> None:
    line = f"p|p|1|1:1:1|1|{gres}|(null)|1|1:00"

    assert survey.partitions(line)["p"].gpus() == {count}


def test_the_table_and_the_data() -> None:
    rows = tuple(_rows(_stack(gtl="")).values())
    text = rendering.render("made (made.yaml) on ln03", rows, colour=False)

    assert "partitions.cpu.mpi.gtl\n  says:  libmpi_gtl_hsa.so\n  found: it is nowhere\n  how:" in text
    assert f"{len(rows) - 3} passed, 1 failed, 2 not run" in text
    data = json.loads(json.dumps(rendering.document("made", "made.yaml", "ln03", rows, 1)))
    assert data["passed"] is False
    assert len(data["rows"]) == len(rows)


# The first site file


PROGRAMS = Programs(
    python=Python(path="/usr/bin/python3", version="3.9.18", soabi="", headers=True),
    mpi=Mpi(provider="system", name="openmpi", version="4.1.5", soname="libmpi.so.40", library="/x"),
    mpicc="mpicc",
    compilers={"cc": Compiler(path="/usr/bin/gcc", version="gcc (GCC) 12: # and more")},
    runtime="apptainer",
)
NOTHING = Survey(
    hostname="box", domain="", shell=Shell(env={}, system="none", how="a look"), batch=Batch(why="there is no sinfo")
)


def _first(found: Survey, programs: Programs) -> tuple[str, site.Site]:
    text = first_site.render("mine", found, programs, TODAY)
    return text, site.parse(text, "mine.yaml")


def test_a_first_site_file_holds_what_was_seen_and_marks_what_was_not() -> None:
    shell = Shell(env={"SCRATCH": "/scratch/u", "LOADEDMODULES": "a/1:b/2"}, system="lmod", how="a look")
    text, made = _first(
        replace(SURVEY, shell=shell, cpu="AMD EPYC 7742", flags=frozenset({"avx2", "bmi2", "fma", "movbe"})), PROGRAMS
    )

    assert list(made.partitions) == ["standard", "gpu"]
    assert (made.default_partition, made.modules.system, made.scheduler.kind) == ("standard", "lmod", "slurm")
    assert made.detect == {"hostname": "ln[0-9]*", "cluster": "big"}
    assert made.paths.root == "${SCRATCH}/envbuilder"
    assert made.scheduler.qos["long"].max_minutes == 5760
    standard = made.partitions["standard"]
    assert (standard.cpu.cores, standard.cpu.memory_gib, standard.cpu.target) == (128, 250, "x86_64_v3")
    assert (standard.mpi.soname, standard.python.version, standard.scheduler.partition) == (
        "libmpi.so.40",
        "3.9.18",
        "standard",
    )
    for line in text.splitlines():
        if any(
            word in line
            for word in ("ln[0-9]*", "SCRATCH}/envbuilder", "internet: ", "features: ", "target: ", "builds_on")
        ):
            assert "# guess: " in line, line
    assert "# unknown: gpu, whose they are" in text
    assert "A login loads a/1, b/2." in text
    assert made.container.runtime == "apptainer"


@pytest.mark.parametrize("programs", [Programs(), PROGRAMS, Programs(gpu_vendor="nvidia", gpu_arch="sm_80")])
@pytest.mark.parametrize(
    "found",
    [
        NOTHING,
        SURVEY,
        replace(SURVEY, hostname="true", batch=replace(SURVEY.batch, qos={}, qos_why="no accounting:\n # here")),
        replace(SURVEY, batch=Batch(partitions=survey.partitions("A B#|A B#|x|y|z|w|v|u|t\n"), qos={"1q": Limits()})),
        replace(
            NOTHING,
            hostname="b: {",
            domain="x # y",
            cpu='a "CPU" \\ # of: 5',
            shell=Shell(env={"HOME": "/home/x"}, system="tcl"),
        ),
    ],
)
def test_every_first_site_file_is_a_site_file(found: Survey, programs: Programs, tmp_path: Path) -> None:
    text, made = _first(found, programs)
    path = tmp_path / "mine.yaml"
    path.write_text(text)

    assert lint.lint_site(places.Origin(name="mine", path=path)) == []
    assert made.name == "mine"
    assert yaml.safe_load(text)["name"] == "mine"


# On this machine


@pytest.mark.real
def test_init_writes_once_and_the_doctor_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sites", "init", "mine"]) == 0
    said = capsys.readouterr()
    assert said.out == "mine.yaml\n"
    assert "guesses" in said.err
    text = (tmp_path / "mine.yaml").read_text()

    assert cli.main(["lint", "mine.yaml"]) == 0
    assert cli.main(["sites", "init", "mine"]) == 2
    assert "there already" in capsys.readouterr().err
    assert cli.main(["sites", "init", "mine", "-o", "nowhere/x.yaml"]) == 2
    assert cli.main(["sites", "init", "Not A Name"]) == 2
    assert (tmp_path / "mine.yaml").read_text() == text
    capsys.readouterr()
    code = cli.main(["sites", "doctor", "./mine.yaml", "--json"])
    data = json.loads(capsys.readouterr().out)
    assert code in (0, 4)
    assert [row for row in data["rows"] if row["status"] == "fail"] == []


@pytest.fixture
def modules_here(tmp_path: Path) -> Path:
    if not LMOD.is_file() or not shutil.which("gcc"):
        pytest.skip(f"needs Lmod ({LMOD}) and gcc")
    (tmp_path / "modules/fake").mkdir(parents=True)
    (tmp_path / "modules/fake/1.0.lua").write_text('setenv("FAKE_DIR", "/opt/fake")\n')
    (tmp_path / "modules/fake/2.0.lua").write_text("")
    return tmp_path


def _examined(folder: Path, capsys: pytest.CaptureFixture[str], **partition: Any) -> dict[str, Any]:
    document = {
        "schema": 1, "name": "made", "summary": "made up", "default_partition": "host", "modules": {"system": "lmod", "init": str(LMOD)},
        "partitions": {
            "host": {"module_paths": [str(folder / "modules")], "mpi": {"provider": "none"}, **partition},
        },
    }  # fmt: skip
    (folder / "made.yaml").write_text(json.dumps(document))
    cli.main(["sites", "doctor", str(folder / "made.yaml"), "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    return {(row["field"], row["says"]): row for row in rows}


@pytest.mark.real
def test_real_modules(modules_here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    good = _examined(
        modules_here, capsys, modules=["fake/1.0"], promises=["FAKE_DIR"],
        exports_after_modules=[{"set": "OTHER", "to": "${FAKE_DIR}/x", "why": "a reason"}],
        python={"command": sys.executable, "version": version}, compilers={"cc": "gcc"},
    )  # fmt: skip
    assert {row["status"] for row in good.values()} == {"pass"}, good
    assert ("modules.system", "lmod") in good

    gone = _examined(modules_here, capsys, modules=["nothing/1", "fake/1.0", "fake/3.0"])
    assert "nothing/1" in gone["modules", "nothing/1"]["found"]
    assert gone["modules", "fake/3.0"]["status"] == "fail"
    assert ("modules", "fake/1.0") not in gone

    unkept = _examined(
        modules_here,
        capsys,
        modules=["fake/2.0"],
        promises=["FAKE_DIR"],
        python={"command": sys.executable, "version": "3.7"},
    )
    assert unkept["promises", "FAKE_DIR"]["status"] == "fail"
    assert unkept["python", f"{sys.executable} 3.7"]["status"] == "fail"


@pytest.mark.real
def test_a_wrong_soname_and_a_wrong_compiler(modules_here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not shutil.which("mpicc", path="/usr/local/bin:/usr/bin:/bin"):
        pytest.skip("needs an mpicc of the system")
    rows = _examined(
        modules_here, capsys, modules=["fake/1.0"], mpi={"provider": "system", "mpicc": "mpicc", "soname": "libmpi_gnu_91.so.12"},
        compilers={"cc": "no-such-compiler"},
    )  # fmt: skip

    assert rows["mpi.soname", "libmpi_gnu_91.so.12"]["status"] == "fail"
    assert rows["mpi", "system"]["status"] == "pass"
    assert rows["compilers.cc", "no-such-compiler"]["status"] == "fail"


@pytest.mark.real
def test_a_store_where_one_may_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from envbuilder import examine

    (tmp_path / "file").write_text("")

    assert examine._unusable(str(tmp_path / "a/b/c")) == ""
    assert "is a file" in examine._unusable(str(tmp_path / "file"))
    assert "not set" in examine._unusable("$NOWHERE/x")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)  # a fake: root may write anywhere
        assert f"{tmp_path} is the nearest folder that exists, and you may not write" in examine._unusable(
            f"{tmp_path}/x/y"
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def _on_testbed(testbed: machine.Testbed, *words: str) -> subprocess.CompletedProcess[str]:
    command = testbed.on_login_node(sys.executable, "-m", "envbuilder", *words)
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=testbed.work,
        env={**os.environ, "ENVBUILDER_HOME": ""},
    )


CONTAINER = {
    "runtime": "apptainer",
    "binds": ["/data", "/etc/there:/etc/elsewhere"],
    "optional_binds": ["/run/munge"],
    "mpi": {"cray-mpich@8.1/slingshot10": {"binds": ["/opt/cray"]}, "mpich": {"optional_binds": ["/opt/other"]}},
}
PLACES = Places(
    runtime=Answer(text="apptainer version 1.3.6 at /usr/bin/apptainer"),
    there={"/data": True, "/etc/there": True, "/run/munge": True, "/opt/cray": True, "/opt/gcc": True},
    compilers={"/opt/gcc/bin/gcc": "gcc (GCC) 11.2.0 20210728"},
)
GCC = {"spec": "gcc@11.2.0 languages=c", "prefix": "/opt/gcc", "compilers": {"c": "/opt/gcc/bin/gcc"}}


def _with_places(**changes: Any) -> dict[str, Row]:
    cpu = {**DOCUMENT["partitions"]["cpu"], "fabric": "slingshot10", "externals": [GCC, {"spec": "zlib@1.2"}]}
    of = _site(container=CONTAINER, partitions={"cpu": cpu})
    return _rows(replace(FOUND, places=replace(PLACES, **changes)), of)


def test_what_images_need_and_what_is_installed() -> None:
    rows = _with_places()

    assert {name: row.status for name, row in rows.items() if ".mpi." in name or "container" in name} == {
        "container.runtime": "pass", "container.binds": "pass", "container.mpi.cray-mpich@8.1/slingshot10": "pass",
        # no partition has this one
        "container.mpi.mpich": "not-run",
        "cpu.mpi.name": "pass", "cpu.mpi.version": "pass", "cpu.mpi.soname": "pass", "cpu.mpi.gtl": "pass",
    }  # fmt: skip
    assert rows["container.binds"].found == "1 of 1 optional are there"
    assert rows["cpu.externals.gcc"].found == "/opt/gcc is there; gcc (GCC) 11.2.0 20210728"
    assert rows["cpu.externals.gcc"].status == "pass"
    # nothing in the file could be looked at
    assert rows["cpu.externals.zlib"].status == "not-run"


@pytest.mark.parametrize(
    ("changes", "field", "found"),
    [
        ({"runtime": Answer(why="there is no apptainer on the PATH")}, "container.runtime", "there is no apptainer"),
        ({"there": {**PLACES.there, "/data": False}}, "container.binds", "/data: not there"),
        ({"there": {**PLACES.there, "/run/munge": False}}, "container.binds", "0 of 1 optional"),
        ({"there": {}}, "container.mpi.cray-mpich@8.1/slingshot10", "/opt/cray: not there"),
        ({"there": {**PLACES.there, "/opt/gcc": False}}, "cpu.externals.gcc", "there is no /opt/gcc"),
        ({"compilers": {}}, "cpu.externals.gcc", "/opt/gcc/bin/gcc is not there, or fails"),
        ({"compilers": {"/opt/gcc/bin/gcc": "gcc 11.2.10"}}, "cpu.externals.gcc", "says gcc 11.2.10"),
        ({"compilers": {"/opt/gcc/bin/gcc": "gcc 111.2.0"}}, "cpu.externals.gcc", "says gcc 111.2.0"),
    ],
)
def test_places_that_are_otherwise(changes: dict[str, Any], field: str, found: str) -> None:
    row = _with_places(**changes)[field]

    assert row.status == "fail"
    assert found in row.found


def test_what_only_the_nodes_have_is_not_missing_elsewhere() -> None:
    cpu = {**DOCUMENT["partitions"]["cpu"], "builds_on": "compute", "externals": [GCC]}
    rows = _rows(replace(FOUND, places=Places()), _site(partitions={"cpu": cpu}))

    assert rows["cpu.externals.gcc"].status == "not-run"
    assert "run this in a job there (here: there is no /opt/gcc" in rows["cpu.externals.gcc"].found


def test_the_machine_is_really_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real compiler of this machine, a folder that is there and one that is not, and a program that runs no images."""
    gcc = shutil.which("gcc") or ""
    version = subprocess.run([gcc, "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "apptainer").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "apptainer").chmod(0o755)
    externals = [
        {"spec": f"gcc@{version}", "prefix": "/usr", "compilers": {"c": gcc}},
        {"spec": "python@3", "prefix": str(tmp_path / "gone")},
    ]
    of = _site(
        container={"runtime": "apptainer", "binds": ["$PLACE"], "optional_binds": [f"{tmp_path}/gone"]},
        modules={"system": "none"},
        partitions={"cpu": {"externals": externals, "mpi": {"provider": "none"}}},
    )
    rows = _rows(examine.examine(of, "cpu", TODAY, lambda _: None), of)

    assert (rows["cpu.externals.gcc"].status, rows["cpu.externals.python"].status) == ("pass", "fail")
    assert (rows["container.runtime"].status, rows["container.runtime"].found) == (
        "fail",
        "apptainer failed: no reason given",
    )
    assert (rows["container.binds"].status, rows["container.binds"].found) == (
        "fail",
        "0 of 1 optional are there",
    )


@pytest.mark.real
def test_the_shipped_file_of_archer2_on_its_likeness(testbed: machine.Testbed) -> None:
    # named, since after the service's last day no partition is looked into by itself
    done = _on_testbed(testbed, "sites", "doctor", "archer2", "--partition", "cpu", "--json")
    data = json.loads(done.stdout)
    failed = {row["field"] for row in data["rows"] if row["status"] == "fail"}

    # the testbed has no highmem, its modules lie elsewhere, it runs no images; after the service's last day no fact is valid
    elsewhere = {field for field in failed if field.startswith(("externals.", "container."))}
    known = {"scheduler.qos.highmem", "scheduler.qos.highmem.partitions", "valid"}
    assert failed - elsewhere <= known, (done.stdout, done.stderr)
    assert {"scheduler.qos.highmem", "externals.gcc", "externals.cray-mpich"} <= failed
    assert done.returncode == 1
    passed = {(row["partition"], row["field"]) for row in data["rows"] if row["status"] == "pass"}
    assert {("", "detect.hostname"), ("", "detect.cluster"), ("", "scheduler.kind")} <= passed


@pytest.mark.real
def test_a_file_with_mistakes_on_the_testbed(testbed: machine.Testbed, tmp_path: Path) -> None:
    document = yaml.safe_load((places.data_root() / "sites/archer2.yaml").read_text())
    cpu = document["partitions"]["cpu-22.12"]
    cpu["scheduler"]["partition"] = "standart"
    cpu["modules"][2] = "cray-python/2.7.18"
    document["partitions"] = {"cpu-22.12": cpu, "cpu": document["partitions"]["cpu"]}
    document["partitions"]["cpu"]["mpi"]["soname"] = "libmpi_cray.so.12"
    document["partitions"]["cpu"]["python"]["version"] = "3.12.0"
    document["partitions"]["cpu"]["valid_until"] = cpu["valid_until"] = "2099-01-01"
    document["scheduler"]["qos"] = {"express": {"max_minutes": 5}}
    document["detect"]["hostname"] = "uan*"
    path = tmp_path / "archer2.yaml"
    path.write_text(yaml.safe_dump(document))
    data = json.loads(_on_testbed(testbed, "sites", "doctor", str(path), "--json").stdout)
    failed = {(row["partition"], row["field"]) for row in data["rows"] if row["status"] == "fail"} - {("", "valid")}
    # where the likeness has its modules, and what it has no image program for, is told by the test before this one
    failed = {one for one in failed if not one[1].startswith(("externals.", "container."))}

    assert failed == {
        ("", "detect.hostname"), ("", "scheduler.qos.express"), ("cpu-22.12", "scheduler.partition"), ("cpu-22.12", "modules"),
        ("cpu", "mpi.soname"), ("cpu", "python"),
    }  # fmt: skip
    (module,) = (row for row in data["rows"] if row["field"] == "modules" and row["status"] == "fail")
    assert module["says"] == "cray-python/2.7.18"
    assert {row["status"] for row in data["rows"] if row["partition"] == "cpu-22.12" and row["field"] == "mpi"} == {
        "not-run"
    }


@pytest.mark.real
def test_module_systems_are_told_apart(testbed: machine.Testbed) -> None:
    assert survey.login_shell(str(testbed.tcl_init)).system == "tcl"
    if LMOD.is_file():
        found = survey.login_shell(str(LMOD))
        assert (found.system, found.version.split(".")[0].isdigit()) == ("lmod", True)


@pytest.mark.real
def test_in_a_job_more_can_be_seen(testbed: machine.Testbed) -> None:
    job = "srun --account=z19 --partition=standard --qos=short --time=2 --nodes=1 --ntasks=1"
    command = [
        *job.split(),
        sys.executable,
        "-m",
        "envbuilder",
        "sites",
        "doctor",
        "archer2",
        "--partition",
        "cpu",
        "--json",
    ]
    done = subprocess.run(
        command, env=testbed.env, cwd=testbed.work, capture_output=True, text=True, check=False, timeout=300
    )
    rows = {(row["partition"], row["field"]): row for row in json.loads(done.stdout)["rows"]}

    assert rows["", "paths.home_on_compute"]["status"] == "pass"
    assert rows["", "paths.home_on_compute"]["found"] == "HOME is not there"
    assert rows["", "detect.hostname"]["status"] == "not-run"
    assert rows["cpu", "mpi.soname"]["status"] == "pass"


@pytest.mark.real
def test_a_first_file_for_the_testbed(testbed: machine.Testbed, tmp_path: Path) -> None:
    path = tmp_path / "likeness.yaml"
    done = _on_testbed(testbed, "sites", "init", "likeness", "-o", str(path))
    assert done.returncode == 0, done.stderr
    made = site.parse(path.read_text(), str(path))

    assert set(made.partitions) == {"standard", "gpu", "serial"}
    assert (made.modules.system, made.scheduler.kind, made.detect["cluster"]) == ("lmod", "slurm", "archer2")
    assert made.scheduler.qos["short"].max_minutes == 20
    assert made.partitions["standard"].mpi.soname == "libmpi_cray.so.12"
    assert made.partitions["standard"].cpu.cores == 128
    data = json.loads(_on_testbed(testbed, "sites", "doctor", str(path), "--json").stdout)
    assert [row for row in data["rows"] if row["status"] == "fail"] == []
