"""MPI libraries and their launchers."""

from __future__ import annotations

from envbuilder.causes.base import Cause, Sign

CAUSES = (
    Cause(
        name="gtl-not-linked",
        what=(
            "MPICH_GPU_SUPPORT_ENABLED is set, and the program (as python itself) is not linked with Cray's GPU library"
        ),
        signs=(Sign("GTL library is not linked"),),
        remedy=(
            "unset MPICH_GPU_SUPPORT_ENABLED where MPI moves no GPU memory; else preload libmpi_gtl_hsa.so or "
            "libmpi_gtl_cuda.so"
        ),
        sources=("sstsimulator/sst-core#895", "JuliaParallel/MPI.jl#716", "ARCHER2 documentation, gpu"),
        explains=("killed", "rank-died", "slurm-cancelled"),
    ),
    Cause(
        name="openmpi-without-pmi",
        what="srun started an OpenMPI program through a PMI that this OpenMPI does not speak",
        signs=(Sign("OMPI was not built with SLURM's PMI support"), Sign("no-pmix-but")),
        remedy="use srun --mpi=pmix, or start it with OpenMPI's own mpirun in the job",
        sources=("open-mpi/ompi#3778", "the text of OpenMPI 5.0"),
        explains=("ranks-alone",),
    ),
    Cause(
        name="ranks-alone",
        what="each rank is a world of its own: launcher and MPI library are of two different MPIs",
        signs=(Sign("suspicious MPI execution environment"),),
        remedy=(
            "start it with the launcher of the MPI that mpi4py is built with: srun --mpi=pmi2 or mpiexec of the "
            "same package"
        ),
        sources=("the text of mpi4py 4.1",),
    ),
    Cause(
        name="openmpi-slots",
        what="more ranks were asked for than the job has places for",
        signs=(Sign("There are not enough slots available in the system"),),
        remedy="ask Slurm for as many tasks (--ntasks), or give mpirun --oversubscribe on a machine of your own",
        sources=("the text of OpenMPI 5.0",),
    ),
    Cause(
        name="openmpi-as-root",
        what="OpenMPI's launcher refuses to run as root, as in a container",
        signs=(Sign("has detected an attempt to run as root"),),
        remedy="run as a user, or set OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
        sources=("the text of OpenMPI 5.0",),
    ),
    Cause(
        name="horovod-not-built",
        what="Horovod was installed without support for this framework",
        says="Horovod was installed without {extension}",
        signs=(Sign("has not been built", r"Extension (?P<extension>horovod\.\w{1,40}) has not been built"),),
        remedy=(
            "install the framework first, then build Horovod with HOROVOD_WITH_PYTORCH=1 or "
            "HOROVOD_WITH_TENSORFLOW=1, --no-build-isolation"
        ),
        sources=("the text of Horovod 0.28.1",),
    ),
    Cause(
        name="torch-without-mpi",
        what="this PyTorch has no MPI backend: no wheel has one",
        signs=(Sign("Distributed package doesn't have MPI built in"),),
        remedy="use the gloo (CPU) or nccl (GPU) backend, or build PyTorch from source against the site's MPI",
        sources=("the text of PyTorch 2.13",),
    ),
    Cause(
        name="torch-without-nccl",
        what="this PyTorch has no NCCL backend: it is a build for CPUs",
        signs=(Sign("Distributed package doesn't have NCCL built in"),),
        remedy="use the gloo backend, or install a build for this GPU (recipes pytorch-cuda, pytorch-rocm)",
        sources=("the text of PyTorch 2.13",),
    ),
    Cause(
        name="mpi-abort",
        what="a rank ended the whole MPI job by itself",
        says="rank {rank} ended the whole MPI job",
        signs=(
            Sign(
                "application called MPI_Abort", r"application called MPI_Abort\(.{1,80}\) - process (?P<rank>\d{1,9})"
            ),
            Sign("MPI_ABORT was invoked on rank", r"MPI_ABORT was invoked on rank (?P<rank>\d{1,9})"),
        ),
        remedy="look for what that rank wrote before it",
        sources=("the text of MPICH 5.0", "the text of OpenMPI 5.0"),
        hint=True,
    ),
)
