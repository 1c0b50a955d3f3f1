"""Variables of the shell that change what an untouched environment loads, finds or computes with."""

from __future__ import annotations

import shutil

from breaking import injected
from launching import sitecustomize

from zoo.base import SINGLE, Case, Fault, Look, Names, Scene


def _shadowed(scene: Scene) -> Case:
    other = scene.folder / "other"
    (package,) = scene.prefix.glob("lib/python*/site-packages/mpi4py")
    (metadata,) = scene.prefix.glob("lib/python*/site-packages/mpi4py-*.dist-info")
    shutil.copytree(package, other / "mpi4py")
    shutil.copytree(metadata, other / metadata.name)
    return Case(variables={"PYTHONPATH": str(other)}, told={"other": str(other)})


def _shadowed_by_a_broken_one(scene: Scene) -> Case:
    package = scene.folder / "other" / "mpi4py"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('made for another Python')\n")
    return Case(variables={"PYTHONPATH": str(package.parent)})


def _older_metadata(scene: Scene) -> Case:
    folder = scene.folder / "other" / "mpi4py-3.1.6.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: mpi4py\nVersion: 3.1.6\n")
    return Case(variables={"PYTHONPATH": str(folder.parent)}, told={"other": str(folder.parent)})


def _cache_without_a_home(scene: Scene) -> Case:
    home = scene.folder / "home"
    home.write_text("what stands where HOME is on the login node\n")
    return Case(variables={"TORCH_HOME": f"{home}/torch"}, told={"home": str(home)})


def _all_caches_without_a_home(scene: Scene) -> Case:
    home = scene.folder / "home"
    home.write_text("")
    return Case(variables={"ENVBUILDER_CACHE": f"{home}/.cache"}, told={"home": str(home)})


def _onednn_off(_: Scene) -> Case:
    return Case(variables={"TF_ENABLE_ONEDNN_OPTS": "0"})


def _mkldnn_off(scene: Scene) -> Case:
    site = scene.folder / "site"
    env = sitecustomize(site, "torch", "module._C._set_mkldnn_enabled(False)")
    return Case(variables=env, told={"site": str(site / "sitecustomize.py")})


def _sitecustomize_that_raises(scene: Scene) -> Case:
    """It runs in the interpreters of the environment only, as one that a site puts into its module does."""
    code = f"import sys\nif sys.prefix == {str(scene.prefix)!r}:\n    sys.exit('no licence server')\n"
    return Case(variables={"PYTHONPATH": injected(scene.folder / "site", code)})


ENTRIES: tuple[Fault, ...] = (
    Fault(
        name="pythonpath-shadows-a-package",
        broken="A module of the site puts its own mpi4py into PYTHONPATH, the same version by its name.",
        start="mpi4py_env",
        make=_shadowed,
        names=(
            Names(check="import", cause=("PYTHONPATH puts {other} first",), remedy=("unset the variable",)),
            Names(check="versions", cause=("PYTHONPATH puts {other} first",), remedy=("unset it",)),
        ),
        look=SINGLE,
        alone=True,
    ),
    Fault(
        name="pythonpath-shadows-with-a-broken-package",
        broken="PYTHONPATH leads to packages of another Python, and the import fails in them.",
        start="mpi4py_env",
        make=_shadowed_by_a_broken_one,
        names=(Names(check="import", cause=("made for another Python", "PYTHONPATH"), remedy=("unset the variable",)),),
        look=SINGLE,
    ),
    Fault(
        name="pythonpath-with-older-metadata",
        broken="A folder of PYTHONPATH holds what an older installation left; version queries find that.",
        start="mpi4py_env",
        make=_older_metadata,
        names=(
            Names(
                check="versions",
                cause=("mpi4py is 3.1.6, the lock says", "PYTHONPATH puts {other} first"),
                remedy=("unset it",),
            ),
        ),
        look=SINGLE,
        alone=True,
    ),
    Fault(
        name="cache-in-a-home-that-is-not-there",
        broken="TORCH_HOME leads below HOME, which the compute nodes do not have.",
        start="mpi4py_env",
        make=_cache_without_a_home,
        names=(
            Names(
                check="caches-writable",
                cause=("TORCH_HOME={home}/torch cannot be written", "Not a directory"),
                remedy=("unset the variable", "ENVBUILDER_CACHE"),
            ),
        ),
        alone=True,
    ),
    Fault(
        name="all-caches-in-a-home-that-is-not-there",
        broken="ENVBUILDER_CACHE, and so every cache, lies in a folder that cannot be made on this node.",
        start="mpi4py_env",
        make=_all_caches_without_a_home,
        names=(
            Names(
                check="caches-writable",
                cause=("{home}/.cache", "cannot be written", "more)"),
                remedy=("ENVBUILDER_CACHE",),
            ),
        ),
        alone=True,
    ),
    Fault(
        name="sitecustomize-that-ends-python",
        broken="A sitecustomize in PYTHONPATH ends each interpreter before anything of the environment runs.",
        start="mpi4py_env",
        make=_sitecustomize_that_raises,
        names=(
            Names(check="import", cause=("left no evidence",), remedy=("log",), witnessed=("no licence server",)),
            Names(check="ranks-started", cause=("no rank left evidence",), remedy=("by hand",)),
        ),
        look=Look(options=("--keep-going",)),
    ),
    Fault(
        name="onednn-off-in-tensorflow",
        broken="TF_ENABLE_ONEDNN_OPTS=0, as many guides advise for equal results; everything runs, several times slower.",
        start="tensorflow_env",
        make=_onednn_off,
        names=(
            Names(
                check="tensorflow-onednn",
                cause=("TF_ENABLE_ONEDNN_OPTS=0 is set",),
                remedy=("unset TF_ENABLE_ONEDNN_OPTS",),
            ),
        ),
        look=SINGLE,
        alone=True,
    ),
    Fault(
        name="onednn-off-in-pytorch",
        broken="A sitecustomize, left from a hunt for a bug, switches oneDNN off in PyTorch.",
        start="torch_env",
        make=_mkldnn_off,
        names=(
            Names(
                check="torch-onednn",
                cause=("torch.backends.mkldnn.enabled is False", "{site}"),
                remedy=("set_flags(False)",),
            ),
        ),
        look=SINGLE,
        alone=True,
    ),
)
