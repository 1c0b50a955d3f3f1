"""Shared libraries: what the loader of the C library says."""

from __future__ import annotations

from envbuilder.causes.base import Cause, Sign

_LOADER = "the text of the loader of glibc 2.36"
# NCCL looks for plug-ins that are seldom there, TensorFlow for GPU libraries that it can do without: both say so and go on
_FATAL = r"^(?!.{0,600}(?:NCCL INFO|NET/Plugin|Could not load dynamic library|dso_loader)).{0,600}?"
_ABSENT = r": cannot open shared object file"


def _missing(library: str) -> tuple[Sign, ...]:
    return (Sign("cannot open shared object file", rf"{_FATAL}(?P<library>\b{library}){_ABSENT}"),)


_MPI = r"libmpi(?!_gtl)[\w+-]{0,40}\.so[\d.]{0,20}"
_GTL = r"libmpi_gtl_\w{1,20}\.so[\d.]{0,20}"
_DRIVER = r"(?:libcuda|libnvidia-ml)\.so[\d.]{0,20}"
_CUDA = (
    r"lib(?:cudart|cublas|cublasLt|cudnn\w{0,20}|cufft|curand|cusolver|cusparse|cusparseLt|nccl|nvrtc|nvJitLink|cupti)"
    r"\.so[\d.]{0,20}"
)
_ROCM = (
    r"lib(?:amdhip64|hsa-runtime64|rccl|MIOpen|rocblas|rocfft|rocrand|rocsolver|rocsparse|roctx64|hip\w{1,20})"
    r"\.so[\d.]{0,20}"
)
_ANY_OF_THEM = f"(?:{_MPI}|{_GTL}|{_DRIVER}|{_CUDA}|{_ROCM})"

CAUSES = (
    Cause(
        name="libstdcxx-too-old",
        what="the libstdc++ that was found is older than the compiler that built a library",
        says="the libstdc++ that was found lacks {version}: it is older than the compiler that built a library",
        signs=(Sign("not found (required by", r"version [`'](?P<version>(?:GLIBCXX|CXXABI)_[\d.]{1,12})' not found"),),
        remedy="load the compiler module that built it, and let its lib64 come first in LD_LIBRARY_PATH; or build here",
        sources=(_LOADER,),
    ),
    Cause(
        name="glibc-too-old",
        what="a program or wheel was built for a newer operating system than this one",
        says="this operating system's C library lacks {version}, which a library was built for",
        signs=(Sign("not found (required by", r"version [`'](?P<version>GLIBC_[\d.]{1,12})' not found"),),
        remedy="take a wheel for an older manylinux, build on this machine, or use a container",
        sources=(_LOADER,),
    ),
    Cause(
        name="gtl-library-missing",
        what="the GPU library of Cray MPICH is not found",
        says="the GPU library of Cray MPICH, {library}, is not found",
        signs=_missing(_GTL),
        remedy=(
            "load craype-accel-* and the toolkit (rocm, cudatoolkit) as at build time, or put the gtl/lib of "
            "cray-mpich into LD_LIBRARY_PATH"
        ),
        sources=(_LOADER, "ARCHER2 documentation, gpu"),
    ),
    Cause(
        name="mpi-library-missing",
        what="the MPI library that a program was built against is not found",
        says="the MPI library {library} is not found",
        signs=_missing(_MPI),
        remedy=(
            "load the modules that it was built with; on a Cray set "
            "LD_LIBRARY_PATH=$CRAY_LD_LIBRARY_PATH:$LD_LIBRARY_PATH after the last one"
        ),
        sources=(_LOADER, "ARCHER2 documentation, dev-environment"),
    ),
    Cause(
        name="gpu-driver-library-missing",
        what="the GPU driver's own library is not here: a node without GPUs, or a container that was not given them",
        says="the GPU driver's library {library} is not here: a node without GPUs, or a container without them",
        signs=_missing(_DRIVER),
        remedy="run it in a job on GPU nodes; start a container with --nv",
        sources=(_LOADER,),
    ),
    Cause(
        name="cuda-library-missing",
        what="a library of the CUDA toolkit is not found, or another major version of it is there",
        says="{library} of the CUDA toolkit is not found, or another major version of it is there",
        signs=_missing(_CUDA),
        remedy="take wheels for the toolkit that is there (cu126 is CUDA 12.6) or load its module",
        sources=(_LOADER,),
    ),
    Cause(
        name="rocm-library-missing",
        what="a library of ROCm is not found, or another major version of it is there",
        says="{library} of ROCm is not found, or another major version of it is there",
        signs=_missing(_ROCM),
        remedy=(
            "take wheels for the ROCm that is there (its major.minor) or load its module; ROCm 5 has "
            "libamdhip64.so.5, ROCm 6 .so.6"
        ),
        sources=(_LOADER, "tensorflow-rocm 2.14.0.600 beside ROCm 5.2"),
    ),
    Cause(
        name="library-missing",
        what="a shared library is not found",
        says="the shared library {library} is not found",
        signs=_missing(rf"(?!{_ANY_OF_THEM})[\w.+-]{{1,120}}\.so[\d.]{{0,20}}"),
        remedy=(
            "load the modules of the build; `ldd FILE | grep 'not found'` shows all that is missing, `envbuilder "
            "verify` names the file"
        ),
        sources=(_LOADER,),
    ),
    Cause(
        name="built-for-another-torch",
        what="an extension was compiled for another PyTorch than the one that is installed",
        signs=(
            Sign(
                "undefined symbol",
                r"undefined symbol: \S{0,60}(?:c10|at|torch|caffe2)\d{0,3}[\w@.]{0,300}",
            ),
        ),
        remedy="compile the extension again against this PyTorch, or install the release it was built for",
        sources=(_LOADER, "the names of symbols of PyTorch 2.13"),
    ),
    Cause(
        name="symbol-missing",
        what="a library that was found lacks a function: it is another version than the one built against",
        says="a library that was found lacks {symbol}: it is another version than the one built against",
        signs=(Sign("undefined symbol", r"undefined symbol: (?P<symbol>[^\s,]{1,200})"),),
        remedy=(
            "`ldd FILE` shows which copy is taken; look for a module or a second copy that comes first in "
            "LD_LIBRARY_PATH"
        ),
        sources=(_LOADER,),
        unless=(Sign("undefined symbol", r"undefined symbol: \S{0,60}(?:c10|at|torch|caffe2)\d{0,3}[\w@.]{0,300}"),),
    ),
    Cause(
        name="wrong-elf-class",
        what="a 32-bit library is found where a 64-bit one is needed, or the other way round",
        signs=(Sign("wrong ELF class"),),
        remedy="remove the folder of the other kind (lib instead of lib64) from LD_LIBRARY_PATH",
        sources=(_LOADER,),
    ),
    Cause(
        name="library-damaged",
        what="a library is cut short or no library at all, as after a full disk or a pointer of Git LFS",
        signs=(Sign(": file too short"), Sign(": invalid ELF header")),
        remedy="install the package again; `envbuilder verify` names each file that is not as it was installed",
        sources=(_LOADER,),
    ),
    Cause(
        name="static-tls",
        what="a library with thread-local data was loaded too late, when no room was left for it",
        signs=(Sign("cannot allocate memory in static TLS block"),),
        remedy=(
            "load it first: LD_PRELOAD=PATH of the library that the line names, or import its package before the others"
        ),
        sources=(_LOADER,),
    ),
    Cause(
        name="two-openmp",
        what="two copies of the OpenMP runtime are loaded into one process",
        signs=(Sign("OMP: Error #15"),),
        remedy=(
            "let the environment hold one: remove the package that brings the second (intel-openmp, a conda MKL "
            "beside wheels)"
        ),
        sources=("the text of intel-openmp",),
    ),
    Cause(
        name="openmp-affinity",
        what="threads were to be bound to processors that the job does not have, and are not bound at all",
        signs=(Sign("not using affinity", r"OMP: Warning #\d{1,4}: .{0,120}not using affinity"),),
        remedy=(
            "unset KMP_AFFINITY and GOMP_CPU_AFFINITY, and let srun bind: --cpus-per-task, --cpu-bind, "
            "--hint=nomultithread"
        ),
        sources=("the text of intel-openmp",),
        hint=True,
    ),
)
