"""GPUs, their drivers and their libraries."""

from __future__ import annotations

from envbuilder.causes.base import Cause, Sign

_SOCKET = r"NCCL INFO (?:NET/Socket : Using|Using network Socket)"

CAUSES = (
    Cause(
        name="no-code-for-gpu",
        what="the package holds no code for this kind of GPU",
        signs=(
            Sign("no kernel image is available for execution on the device"),
            Sign("is not compatible with the current PyTorch installation"),
            Sign("hipErrorNoBinaryForGpu"),
            Sign("HSA_STATUS_ERROR_INVALID_ISA"),
            Sign("HIP error: invalid device function"),
            Sign("hipErrorInvalidDeviceFunction"),
            Sign("Cannot read", r"rocBLAS error: Cannot read .{0,300}TensileLibrary"),
        ),
        remedy=(
            "take a build for it: torch.cuda.get_arch_list() shows what is there; `envbuilder verify` (gpu-code) "
            "compares it with the partition"
        ),
        sources=("pytorch/pytorch#31285", "ROCm/tensorflow-upstream#1800", "pytorch/pytorch#164346"),
        explains=("rank-died", "killed"),
    ),
    Cause(
        name="driver-too-old",
        what="the GPU driver is older than the CUDA that the package was built with",
        signs=(
            Sign("The NVIDIA driver on your system is too old"),
            Sign("CUDA driver version is insufficient for CUDA runtime version"),
            Sign("forward compatibility was attempted on non supported HW"),
        ),
        remedy=(
            "`nvidia-smi` shows the newest CUDA that the driver can do: take wheels for that or older (cu118, cu126)"
        ),
        sources=("lllyasviel/Fooocus#1313", "NVIDIA/nvidia-docker#400"),
        explains=("no-gpu",),
    ),
    Cause(
        name="torch-without-cuda",
        what="a GPU was asked for, and this PyTorch is a build for CPUs",
        signs=(Sign("Torch not compiled with CUDA enabled"),),
        remedy=(
            "install a build for this GPU (recipes pytorch-cuda, pytorch-rocm); a plain index may have given the "
            "CPU wheel"
        ),
        sources=("the text of PyTorch 2.13",),
    ),
    Cause(
        name="no-gpu",
        what="no GPU is visible: the job asked for none, they are hidden, or this is a login node",
        signs=(
            Sign("Found no NVIDIA driver on your system"),
            Sign("No CUDA GPUs are available"),
            Sign("No HIP GPUs are available"),
            Sign("no CUDA-capable device is detected"),
            Sign("hipErrorNoDevice"),
            Sign("ROCk module is NOT loaded"),
        ),
        remedy=(
            "ask Slurm for GPUs, in srun too; look at CUDA_VISIBLE_DEVICES or ROCR_VISIBLE_DEVICES; start a "
            "container with --nv or --rocm"
        ),
        sources=("the texts of PyTorch and of rocminfo 5.2",),
    ),
    Cause(
        name="gpu-permission",
        what="you may not open the AMD GPUs of this node",
        signs=(
            Sign(
                "Unable to open /dev/kfd read-write",
                r"/dev/kfd read-write: (?:Permission denied|Operation not permitted)",
            ),
        ),
        remedy="run it in a job that has GPUs; on a machine of your own join the groups video and render",
        sources=("ROCm/rocminfo#34", "ROCm/legacy-rocm-build#1211"),
        explains=("no-gpu", "permission-denied"),
    ),
    Cause(
        name="gpu-memory",
        what="the GPU's memory is full",
        says="the GPU's memory is full: {size} more were asked for",
        signs=(
            Sign(
                "out of memory. Tried to allocate",
                r"(?:CUDA|HIP) out of memory\. Tried to allocate (?P<size>[\d.]{1,20} [KMG]iB)",
            ),
        ),
        remedy=(
            "use a smaller batch, or reach it by gradient accumulation; look for another process on the same GPU "
            "(nvidia-smi, rocm-smi)"
        ),
        sources=("pytorch/pytorch: c10/cuda/CUDACachingAllocator.cpp",),
        explains=("rank-died",),
    ),
    Cause(
        name="miopen-database",
        what="MIOpen's database lies on a file system without the locks that it needs",
        signs=(
            Sign(
                "Internal error while accessing SQLite database",
                r"accessing SQLite database: (?:locking protocol|disk I/O error|database is locked)",
            ),
        ),
        remedy="set MIOPEN_USER_DB_PATH and MIOPEN_CUSTOM_CACHE_DIR to a folder below /tmp, one for each node",
        sources=("ROCm/MIOpen#2214", "ROCm/tensorflow-upstream#1419"),
    ),
    Cause(
        name="nccl-system",
        what="NCCL or RCCL failed in a call to the system or the network",
        signs=(Sign("ncclSystemError"), Sign("ncclRemoteError")),
        remedy=(
            "run once with NCCL_DEBUG=INFO: the line with WARN before it tells; check NCCL_SOCKET_IFNAME and the "
            "network plug-in"
        ),
        sources=("NVIDIA/nccl#1059",),
        explains=("rank-died", "collective-timeout"),
    ),
    Cause(
        name="nccl-sockets",
        what="NCCL or RCCL speaks plain TCP between nodes instead of using the fast network",
        signs=(Sign("NCCL INFO", _SOCKET), Sign("via NET/Socket/")),
        unless=(
            Sign(
                "NCCL INFO",
                r"NCCL INFO (?:Using network (?!Socket)|NET/IB : Using|NET/OFI (?:Using|Selected|Initializ))",
            ),
            Sign("NCCL INFO", r"NCCL INFO .{0,120}nNodes 1\b"),
        ),
        remedy=(
            'load the network plug-in (aws-ofi-nccl, aws-ofi-rccl) as the site says; NCCL_NET="AWS Libfabric" '
            "makes its absence an error"
        ),
        sources=("NVIDIA/nccl#352", "OLCF documentation, pytorch_frontier"),
        hint=True,
    ),
    Cause(
        name="tensorflow-without-gpu",
        what="TensorFlow goes on without GPUs, since it did not find their driver or libraries",
        signs=(Sign("GPU will not be used"), Sign("Skipping registering GPU devices")),
        remedy=(
            "on CPU nodes nothing; else load the toolkit that this release was built with (the lines above name "
            "what is missing)"
        ),
        sources=("tensorflow/tensorflow#66750", "tensorflow/tensorflow#34287"),
        hint=True,
    ),
)
