"""Python packages: what an index, an installer or an import says."""

from __future__ import annotations

from envbuilder.causes.base import Cause, Sign

_PIP = "the text of pip 26"
_BOTH = "the texts of pip 26 and uv 0.13"

CAUSES = (
    Cause(
        name="numpy-2-under-numpy-1",
        what="a package that was compiled for NumPy 1 runs under NumPy 2",
        signs=(
            Sign("A module that was compiled using NumPy 1.x cannot be run in"),
            Sign("_ARRAY_API not found"),
        ),
        remedy="pin `numpy<2` beside it, or take a newer release of the package (PyTorch: 2.3 or later)",
        sources=("pytorch/pytorch#135013", "the text of NumPy 2.4"),
        explains=("numpy-changed-size",),
    ),
    Cause(
        name="numpy-changed-size",
        what="a package was compiled for another NumPy than the one that is installed",
        signs=(Sign("numpy.dtype size changed"), Sign("numpy.ndarray size changed")),
        remedy=(
            "install both from one resolution; rebuild the package against this NumPy, or pin the NumPy of its release"
        ),
        sources=("the text of pandas 2.1 under NumPy 2.4",),
    ),
    Cause(
        name="sklearn-name",
        what="the package `sklearn` of the index is an empty stub that refuses to be installed",
        signs=(Sign("The 'sklearn' PyPI package is deprecated"),),
        remedy="ask for scikit-learn",
        sources=("the text of sklearn 0.0.post12", "phoronix-test-suite/phoronix-test-suite#333"),
    ),
    Cause(
        name="apex-name",
        what="the package `apex` of the index is a web toolkit, not NVIDIA's or ROCm's apex",
        signs=(
            Sign("UnencryptedCookieSessionFactoryConfig"),
            Sign("cryptacular", r"because `apex` \(v0\.9\.10\.dev0\) depends on `cryptacular`"),
        ),
        remedy=(
            "build apex from its repository (NVIDIA/apex, ROCm/apex) at a fixed commit, or use torch.amp and "
            "FusedLAMB elsewhere"
        ),
        sources=("NVIDIA/apex#1063", "NVIDIA/apex#1800"),
        explains=("build-isolation", "module-missing"),
    ),
    Cause(
        name="hash-mismatch",
        what="a file is not the one that was locked: republished, changed by a mirror, or damaged on the way",
        signs=(
            Sign("DO NOT MATCH THE HASHES"),
            Sign("Hash mismatch for"),
        ),
        remedy=(
            "fetch again without caches; if it was republished on purpose, lock again with `envbuilder lock "
            "--upgrade PKG`"
        ),
        sources=(_BOTH,),
    ),
    Cause(
        name="archive-damaged",
        what="a downloaded archive is cut short or damaged",
        signs=(
            Sign("Failed to extract archive"),
            Sign("Failed to read from zip file"),
            Sign(" is invalid.", r"Wheel '[^'\n]{1,80}' located at .{1,300} is invalid\."),
            Sign("File is not a zip file", r"BadZipFile: File is not a zip file"),
            Sign("Bad CRC-32 for file"),
        ),
        remedy=(
            "remove the damaged file from the cache (`uv cache clean`, `pip cache purge`) and run the same "
            "command again"
        ),
        sources=("the texts of uv 0.13 and Python 3.11",),
        unless=(Sign("No space left on device"), Sign("Disk quota exceeded")),
        explains=("conflicting-requirements",),
    ),
    Cause(
        name="no-wheel-for-this-python",
        what="the package has no wheel for this Python, this processor or this C library",
        signs=(
            Sign("is not a supported wheel on this platform"),
            Sign("can't be installed because it doesn't have a source distribution or wheel for the current platform"),
            Sign("has no usable wheels"),
            Sign("has no wheels with a matching"),
        ),
        remedy="use a Python that it has wheels for (the cpXY in their names), or another release of it",
        sources=(_BOTH,),
        explains=("conflicting-requirements",),
    ),
    Cause(
        name="no-such-version",
        what="no release of the package fits: the version does not exist here, or not for this Python",
        signs=(
            Sign("Could not find a version that satisfies the requirement"),
            Sign("there is no version of"),
            Sign("was not found in the package registry"),
        ),
        remedy=(
            "check the spelling; a +cu126, +rocm6.3 or +cpu version needs its own index; the index may be a "
            "partial mirror"
        ),
        sources=(_BOTH,),
        explains=("conflicting-requirements",),
    ),
    Cause(
        name="conflicting-requirements",
        what="the requirements contradict each other",
        signs=(
            Sign("because these package versions have conflicting dependencies"),
            Sign("No solution found when resolving dependencies"),
            Sign("ResolutionImpossible"),
        ),
        remedy="the log names the two below that line: loosen one of them",
        sources=(_BOTH,),
    ),
    Cause(
        name="managed-python",
        what="this Python belongs to the operating system, which does not let pip change it",
        signs=(Sign("externally-managed-environment"), Sign("is externally managed, and indicates the following")),
        remedy="install into an environment: `envbuilder build`, or `python3 -m venv DIR`",
        sources=(_BOTH, "PEP 668"),
    ),
    Cause(
        name="pkg-resources-gone",
        what="a package asks for pkg_resources, which newer setuptools lack",
        signs=(Sign("No module named 'pkg_resources'"),),
        remedy="pin `setuptools<81` beside it, or take a newer release of the package",
        sources=("the text of Python 3.11 with setuptools 82",),
    ),
    Cause(
        name="distutils-gone",
        what="a package asks for distutils, which Python 3.12 and later lack",
        signs=(Sign("No module named 'distutils'"),),
        remedy="use Python 3.11, a newer release of the package, or add setuptools, which brings a replacement",
        sources=("the text of Python 3.12", "PEP 632"),
    ),
    Cause(
        name="build-isolation",
        what="a package needs another one to be built, and does not say so",
        signs=(
            Sign("Getting requirements to build wheel did not run successfully"),
            Sign("but doesn't declare it as a build dependency"),
        ),
        also=(Sign("No module named"),),
        remedy=(
            "install that package first, then this one with --no-build-isolation; in a recipe name it in build_requires"
        ),
        sources=(_BOTH,),
        explains=("module-missing",),
    ),
    Cause(
        name="name-shadowed",
        what="a file of your own has the name of a package and is imported in its place",
        says="a file of your own is imported in place of {module}",
        signs=(
            Sign(
                "partially initialized module",
                r"partially initialized module '(?P<module>[^'\n]{1,80})' (?:from '[^'\n]{1,300}' )?has no attribute",
            ),
        ),
        remedy="rename that file (the traceback names it) and remove its __pycache__",
        sources=("the text of Python 3.11",),
    ),
    Cause(
        name="protobuf-too-new",
        what="a package brings code made for an older protobuf than the one that is installed",
        signs=(Sign("Descriptors cannot be created directly"), Sign("Descriptors cannot not be created directly")),
        remedy="pin `protobuf<3.21` beside it, or take a newer release of the package (often tensorboard)",
        sources=("the text of protobuf 4.25",),
    ),
    Cause(
        name="keras-3",
        what="the program was written for Keras 2, and TensorFlow 2.16 and later bring Keras 3",
        signs=(Sign("is not supported in Keras 3"), Sign("is not available with Keras 3")),
        remedy="use TensorFlow 2.15 or earlier, or install tf_keras and set TF_USE_LEGACY_KERAS=1",
        sources=("the text of Keras 3.15",),
    ),
    Cause(
        name="module-missing",
        what="a Python package is not installed in the environment that ran, or another Python ran",
        says="the Python that ran has no package {module}",
        signs=(
            Sign("No module named", r"No module named '?(?P<module>(?!pkg_resources|distutils)[\w.]{1,120})(?:'|\n|$)"),
        ),
        remedy="activate the environment in the job script; `python -m site` shows which one ran",
        sources=("the text of Python 3.11",),
    ),
)
