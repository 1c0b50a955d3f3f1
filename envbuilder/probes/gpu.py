"""GPUs as PyTorch sees them, and a computation on each whose result is known.

The operands are small integers. Every partial sum of the matrix product is an integer below 2**24, so any order of summation
gives the same float32, and the operands fit into the 11 bits that TF32 keeps. Libraries may compute the convolution with
fractions (Winograd, FFT): there the truth is an integer still, and what is off by a half or more is no rounding.
"""

import glob
import json
import os
import socket

from . import exact

SIZE = 48  # of the matrices
LARGEST = 8  # of their elements: 48 * 8 * 8 is far below 2**24
SAMPLES = 8
VARIABLES = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "CUDA_VISIBLE_DEVICES")
KFD = "/sys/class/kfd/kfd/topology/nodes"
NAMES = 20  # of kernels that are listed
SEED = 77


def seen():
    """What this build of PyTorch was made for, and which devices this process has."""
    import torch

    available = bool(torch.cuda.is_available())
    count = torch.cuda.device_count() if available else 0
    return {
        "host": socket.gethostname(),
        "version": torch.__version__,
        "hip": torch.version.hip,
        "cuda": torch.version.cuda,
        "available": available,
        "archs": list(torch.cuda.get_arch_list()),
        "devices": [_device(torch.cuda.get_device_properties(number)) for number in range(count)],
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _device(properties):
    """One device. PyTorch 1.x does not tell AMD's name of the architecture; the kernel driver does."""
    import torch

    if torch.version.hip:
        named = getattr(properties, "gcnArchName", "")
        driver = kfd(KFD)
        arch = named if named.startswith("gfx") else driver[0] if len(driver) == 1 else ""
    else:
        arch = "sm_{}{}".format(properties.major, properties.minor)
    return {"name": properties.name, "arch": arch, "memory": properties.total_memory}


def kfd(folder):
    """The architectures of the machine's AMD GPUs, as the kernel driver numbers them: 90010 is gfx90a."""
    found = set()
    for path in glob.glob(os.path.join(folder, "*", "properties")):
        with open(path, encoding="utf-8") as source:
            lines = dict(line.split(None, 1) for line in source if len(line.split(None, 1)) == 2)
        number = int(lines.get("gfx_target_version", "0"))
        if number:
            found.add("gfx{}{:x}{:x}".format(number // 10000, number // 100 % 100, number % 100))
    return sorted(found)


def computed(report, count):
    """The same computation on each device, recorded by the profiler."""
    import torch

    answers = []
    for number in range(count):
        report.enter("gpu_compute on device {}".format(number))
        device = "cuda:{}".format(number)
        on_device(device)  # what is loaded, compiled or tuned at the first call is not recorded
        torch.cuda.synchronize(number)
        trace = report.path("{}.gpu{}.trace.json".format(report.stem, number))
        with _profiler() as recorded:
            answer = on_device(device)
            torch.cuda.synchronize(number)
        recorded.export_chrome_trace(trace)
        answers.append(dict(answer, number=number, **kernels(trace)))
    return {"devices": answers}


def _profiler():
    from torch import profiler

    return profiler.profile(activities=[profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.CUDA])


def kernels(trace):
    """The kernels that ran on a device by a trace of PyTorch's profiler: how many, their time in microseconds, names.

    The category `kernel` is the device's own record; launches are in the runtime's, and copies in another one.
    """
    with open(trace, encoding="utf-8", errors="replace") as source:
        events = json.load(source)["traceEvents"]
    ran = [event for event in events if str(event.get("cat", "")).lower() == "kernel"]
    return {
        "kernels": len(ran),
        "microseconds": sum(float(event.get("dur", 0)) for event in ran),
        "names": sorted({str(event.get("name", ""))[:200] for event in ran})[:NAMES],
    }


def on_device(device):
    """A matrix product and a convolution there, compared with Python's own integers."""
    import torch

    left, right = (exact.integers(SEED + turn, SIZE * SIZE, -LARGEST, LARGEST) for turn in (0, 1))
    product = torch.matmul(_tensor(left, (SIZE, SIZE), device), _tensor(right, (SIZE, SIZE), device))
    images = [number for sample in range(SAMPLES) for number in exact.image(sample)]
    filters = exact.integers(SEED + 2, exact.FILTERS * exact.PATCH, -2, 2)
    shape = (SAMPLES, exact.SIZE, exact.SIZE, exact.CHANNELS)
    kernel = (exact.FILTERS, exact.KERNEL, exact.KERNEL, exact.CHANNELS)
    convolved = torch.nn.functional.conv2d(
        _tensor(images, shape, device).permute(0, 3, 1, 2).contiguous(),
        _tensor(filters, kernel, device).permute(0, 3, 1, 2).contiguous(),
    ).permute(0, 2, 3, 1)
    return {
        "where": str(product.device),
        "matmul": _difference(product, _product(left, right)),
        "convolution": _difference(convolved, _convolution(filters)),
    }


def _tensor(numbers, shape, device):
    import torch

    return torch.tensor([float(number) for number in numbers], dtype=torch.float32).reshape(shape).to(device)


def _difference(tensor, right):
    got = tensor.cpu().reshape(-1).tolist()
    return {"count": len(got), "expected": len(right), "largest": exact.largest(abs(a - b) for a, b in zip(got, right))}


def _product(left, right):
    columns = list(zip(*exact.rows(right, SIZE)))
    return [exact.inner(row, column) for row in exact.rows(left, SIZE) for column in columns]


def _convolution(filters):
    rows = exact.rows(filters, exact.PATCH)
    seen_by = (patch for sample in range(SAMPLES) for patch in exact.patches(exact.image(sample)))
    return [exact.inner(patch, row) for patch in seen_by for row in rows]
