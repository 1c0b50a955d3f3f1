"""Rung 2 on GPUs: the build that is installed computes, rightly and by kernels of its own, on the devices of this process."""

from __future__ import annotations

from envbuilder import gpu_code
from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.checks.reading import Facts, number, part, word
from envbuilder.evidence import Evidence, Expectation

_BUILDS = {"amd": ("hip", "ROCm"), "nvidia": ("cuda", "CUDA")}
# the truth is an integer: a matrix product in float32 meets it, a convolution may be computed with fractions
_BOUNDS = {"matmul": 0.0, "convolution": 0.5}


def _gpu_device(expectation: Expectation, evidence: Evidence) -> Finding:
    vendor, arch = expectation.gpu.get("vendor", ""), expectation.gpu.get("arch", "")
    if vendor not in _BUILDS or "torch" not in expectation.features:
        return NotRun(f"no probe computes on GPUs of vendor {vendor or 'unknown'} with what this recipe installs")
    seen = part(evidence, "gpu")
    if isinstance(seen, (Failed, NotRun)):
        return seen
    return _other_build(seen, vendor, arch) or _no_device(seen, expectation) or _devices(seen, arch, evidence)


def _other_build(seen: Facts, vendor: str, arch: str) -> Failed | None:
    key, name = _BUILDS[vendor]
    if seen.get(key):
        return None
    others = [other for other, told in _BUILDS.values() if seen.get(other) and told != name]
    kind = f"a {others[0].upper()} build" if others else "a CPU build"
    return Failed(
        f"PyTorch {seen.get('version', '')} is {kind} (torch.version.{key} is None), {name} for {arch or vendor} is needed",
        f"take PyTorch from the index of its {name} builds, and lock again",
    )


def _no_device(seen: Facts, expectation: Expectation) -> NotRun | None:
    if seen.get("available") and seen.get("devices"):
        return None
    variables = ", ".join(f"{name}={value!r}" for name, value in seen.get("variables", {}).items())
    return NotRun(
        f"no GPU in this process: torch.cuda.is_available() is {seen.get('available')} on {seen.get('host', '')}"
        f"{f' with {variables}' if variables else ''}; verify {expectation.environment} in a job on nodes with GPUs"
    )


def _devices(seen: Facts, arch: str, evidence: Evidence) -> Finding:
    archs = [str(one).partition(":")[0] for one in seen.get("archs", ())]
    for place, device in enumerate(seen["devices"]):
        found = _device(f"device {place} ({device.get('name', '')})", str(device.get("arch", "")), archs, arch)
        if found is not None:
            return found
    computed = part(evidence, "gpu_compute")
    if isinstance(computed, (Failed, NotRun)):
        return computed
    answers = computed.get("devices", ())
    if len(answers) != len(seen["devices"]):
        return Failed(f"{len(answers)} of {word(len(seen['devices']), 'device')} computed", "read the probe's log")
    for answer in answers:
        wrong = _wrong(answer)
        if wrong is not None:
            return wrong
    return Passed(_told(seen, answers))


def _device(which: str, has: str, archs: list[str], wanted: str) -> Failed | NotRun | None:
    has = has.partition(":")[0]
    if not has:
        return NotRun(f"{which} does not tell its architecture, neither through PyTorch nor through the driver")
    if wanted and has != wanted.partition(":")[0]:
        return Failed(
            f"{which} is a {has}, and the environment is for {wanted}",
            "verify on the partition that the environment was built for, or correct `gpu: {arch: ...}` in the site file",
        )
    if not gpu_code.covers(archs, has):
        return Failed(
            f"{which} is a {has}, and this PyTorch is built for {', '.join(archs) or 'no GPU'}",
            f"choose a version whose wheels are built for {has}, or build it from source for {has}, and lock again",
        )
    return None


def _wrong(answer: Facts) -> Failed | None:
    where = str(answer.get("where", "")) or "no device"
    if not where.startswith("cuda"):
        return Failed(f"the result lies on {where} and not on a GPU", "look for what takes tensors away from the GPU")
    for operation, bound in _BOUNDS.items():
        facts = answer.get(operation, {})
        largest = number(facts.get("largest"))
        short = not facts.get("count") or facts.get("count") != facts.get("expected")
        if short or not (largest == 0 if bound == 0 else largest < bound):
            return Failed(
                f"the {operation} on {where} is wrong: off by {largest:g} where the truth is an integer",
                "another GPU library may have come first (see gpu-libraries), or the device or its driver is at fault",
                f"{facts.get('count', 0)} of {facts.get('expected', 0)} values",
            )
    if not answer.get("kernels") or not number(answer.get("microseconds")) > 0:
        return Failed(
            f"no kernel was recorded on {where} while it computed: there is no evidence that the GPU did the work",
            "see whether PyTorch's profiler may watch the device here (CUPTI, roctracer); its trace is in the evidence",
        )
    return None


def _told(seen: Facts, answers: list[Facts]) -> str:
    first, names = seen["devices"][0], [str(name) for one in answers for name in one.get("names", ())]
    return (
        f"matmul and convolution right on {word(len(answers), 'device')}, {first['name']} ({first['arch']}): "
        f"{sum(int(one['kernels']) for one in answers)} kernels in {sum(number(one['microseconds']) for one in answers):.0f} us"
        f"{f', among them {names[0][:60]}' if names else ''}"
    )


CHECKS: tuple[Check, ...] = (
    Check(
        name="gpu-device",
        rung=2,
        title="PyTorch computes on the GPU",
        source="single",
        judge=_gpu_device,
        features=frozenset({"gpu"}),
        witnesses="The devices of the process, their architectures and those of the build; on each a matrix product and a "
        "convolution of small integers, whose results are known, and the kernels that PyTorch's profiler recorded there.",
        mistakes="torch.cuda.is_available() says that a driver answers. A device that is found can lack code for itself, "
        "another version of its libraries can compute something else, and a build for CPUs trains as well, only slowly.",
        fails="A build for CPUs or for the other vendor; a device of another architecture than the partition's or the build's; "
        "a product that differs at all, a convolution that is off by half or more; no kernel in the profiler's record. Without "
        "a device it is not run. Speed is not judged, nor are other types than float32.",
    ),
)
