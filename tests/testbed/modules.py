"""The module trees: for Lmod as on ARCHER2, and a small one for the Tcl modules. The texts are in modulefiles/."""

from __future__ import annotations

import subprocess
from pathlib import Path

from testbed import cray
from testbed.layout import SOURCE, Layout, link, write

# name: its versions, the default one last. A name without versions is one file.
LMOD: dict[str, tuple[str, ...]] = {
    "cpe": ("22.12", "23.09"),
    "PrgEnv-gnu": ("8.3.3", "8.4.0"),
    "PrgEnv-cray": ("8.3.3", "8.4.0"),
    "craype": cray.CRAYPE,
    "craype-x86-rome": (),
    "craype-x86-milan": (),
    "craype-network-ofi": (),
    "craype-accel-amd-gfx90a": (),
    "libfabric": ("1.12.1.2.2.0.0",),
    "cray-mpich": ("8.1.23", cray.DEFAULT_MPICH),
    "cray-hdf5-parallel": ("1.12.2.1",),
    "cray-fftw": ("3.3.10.3",),
    "mkl": ("2023.0.0",),
    "cmake": ("3.21.3",),
    "rocm": ("5.2.3", "6.3.4"),
    "pytorch": ("1.13.1-gpu",),
    # cray-python's versions depend on the machine, its default does not
}
# modules of which only the name and the version matter here
NAMED: dict[str, tuple[str, ...]] = {
    "gcc": ("11.2.0",),
    "cce": ("15.0.0", "16.0.1"),
    "cray-dsmml": ("0.2.2",),
    "cray-libsci": ("22.12.1.1", "23.09.1.1"),
    "perftools-base": ("22.12.0", "23.09.0"),
    "xpmem": ("2.5.2",),
}
TEMPLATES = {"craype-x86-rome": "craype-x86", "craype-x86-milan": "craype-x86"}
PYTHON_DEFAULT = "3.10.10"

# what each release of the programming environment makes the default, in the order of switching
CPE: dict[str, tuple[str, ...]] = {
    "22.12": (
        "PrgEnv-gnu/8.3.3",
        "PrgEnv-cray/8.3.3",
        "gcc/11.2.0",
        "cce/15.0.0",
        "craype/2.7.19",
        "cray-mpich/8.1.23",
        "cray-libsci/22.12.1.1",
        "perftools-base/22.12.0",
        "cray-python/3.9.13.1",
    ),
    "23.09": (
        "PrgEnv-gnu/8.4.0",
        "PrgEnv-cray/8.4.0",
        "gcc/11.2.0",
        "cce/16.0.1",
        "craype/2.7.23",
        "cray-mpich/8.1.27",
        "cray-libsci/23.09.1.1",
        "perftools-base/23.09.0",
        "cray-python/3.10.10",
    ),
}

# what a login loads; PrgEnv-cray brings its compiler, craype, cray-mpich and cray-libsci
LOGIN = ("craype-x86-rome", "libfabric", "craype-network-ofi", "perftools-base", "xpmem", "PrgEnv-cray")

TCL: dict[str, tuple[str, ...]] = {
    "PrgEnv-gnu": ("8.3.3", "8.4.0"),
    "PrgEnv-cray": ("8.3.3", "8.4.0"),
    "cray-mpich": ("8.1.23", "8.1.27"),
    "rocm": ("5.2.3", "6.3.4"),
}
MODULECMD = "usr/lib/x86_64-linux-gnu/modulecmd.tcl"


def make(layout: Layout) -> list[str]:
    """Both trees; what could not be made, in words."""
    pythons = tuple(v for v in cray.PYTHONS if (layout.cray / "python" / v).exists())
    _lmod(layout, pythons)
    return _tcl(layout, pythons)


def _lmod(layout: Layout, pythons: tuple[str, ...]) -> None:
    source, tree = SOURCE / "modulefiles/lmod", layout.lmod_tree
    files: dict[Path, str] = {}
    rows = [f'   ["{release}"] = {{ {", ".join(map(_quoted, names))} }},' for release, names in CPE.items()]
    parts = (source / "parts.lua").read_text()
    python = tuple(sorted(pythons, key=lambda version: version == PYTHON_DEFAULT))
    for name, versions in {**LMOD, **NAMED, "cray-python": python}.items():
        template = "named" if name in NAMED else TEMPLATES.get(name, name)
        text = (source / f"{template}.lua").read_text().replace("@PARTS@\n", parts)
        text = layout.fill(text, CPE_VERSIONS="\n".join(rows))
        for version in versions:
            files[tree / name / f"{version}.lua"] = text
        if versions:
            link(tree / name / "default", f"{versions[-1]}.lua")
        elif name != "cray-python":
            files[tree / f"{name}.lua"] = text
    for path in [*source.glob("broken/*.lua"), *source.glob("odd/*.lua")]:
        files[tree / path.relative_to(source)] = layout.fill(path.read_text())
    _only(tree, files)
    for release, names in CPE.items():
        rules = "".join(f'module_version("{name}", "default")\n' for name in names)
        write(layout.cray / "cpe" / release / "modulerc.lua", rules)


def _only(tree: Path, files: dict[Path, str]) -> None:
    """These files and no other; the tree may be in use."""
    for path, text in files.items():
        write(path, text)
    for path in tree.rglob("*"):
        gone = path.is_symlink() and not path.exists()
        if gone or (path.is_file() and not path.is_symlink() and path not in files):
            path.unlink()


def _quoted(text: str) -> str:
    return f'"{text}"'


def _tcl(layout: Layout, pythons: tuple[str, ...]) -> list[str]:
    source, tree = SOURCE / "modulefiles/tcl", layout.tcl / "modulefiles"
    files: dict[Path, str] = {}
    for name, versions in {**TCL, "cray-python": pythons}.items():
        text = layout.fill((source / f"{name}.tcl").read_text())
        for version in versions:
            files[tree / name / version] = text
    for path in [*source.glob("broken/*"), *source.glob("odd/*")]:
        files[tree / path.relative_to(source)] = path.read_text()
    _only(tree, files)
    command = _modulecmd(layout)
    if command is None:
        return ["Tcl modules: the package environment-modules could not be had from apt"]
    write(layout.tcl / "init/bash", layout.template("tcl-init.sh", MODULECMD=str(command)))
    return []


def _modulecmd(layout: Layout) -> Path | None:
    """The Tcl modules' command. Debian's package conflicts with its Lmod, so it is unpacked and not installed."""
    installed, unpacked = Path("/") / MODULECMD, layout.tcl / "package" / MODULECMD
    if installed.exists():
        return installed
    if not unpacked.exists():
        layout.cache.mkdir(parents=True, exist_ok=True)
        if not list(layout.cache.glob("environment-modules_*.deb")):
            asked = ["apt-get", "-o", "APT::Sandbox::User=", "download", "environment-modules"]
            subprocess.run(asked, cwd=layout.cache, capture_output=True, check=False, timeout=120)
        for package in layout.cache.glob("environment-modules_*.deb"):
            subprocess.run(["dpkg", "-x", package, layout.tcl / "package"], check=True, timeout=60)
    return unpacked if unpacked.exists() else None
