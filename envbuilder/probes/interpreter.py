"""The interpreter, the variables that decide what it loads and computes, and the distributions that it finds."""

import importlib.metadata
import os
import platform
import re
import socket
import sys
import sysconfig
from typing import Any

LOADING = ("LD_", "PYTHON", "TF_", "ONEDNN_", "DNNL_", "MKL_", "OMP_", "KMP_", "MPI4PY_", "MPICH_", "OMPI_", "I_MPI_")
COMPUTING = ("FI_", "UCX_", "GLOO_", "HOROVOD_", "TORCH_", "ATEN_", "XLA_", "CUDA_VISIBLE")
DECISIVE = (*LOADING, *COMPUTING, "VIRTUAL_ENV", "CONDA_PREFIX")
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|_KEY$")


def environment():
    """The variables that decide what is loaded and how it computes; nothing that sounds like a secret."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(DECISIVE) and not SECRET.search(name)
    }


def interpreter():
    """Which Python this is and where it looks for modules."""
    site = sys.modules.get("site")
    return {
        "executable": sys.executable,
        "version": platform.python_version(),
        "prefix": sys.prefix,
        "real_prefix": os.path.realpath(sys.prefix),
        "base_prefix": os.path.realpath(sys.base_prefix),
        "stdlib": os.path.realpath(sysconfig.get_path("stdlib")),
        "path": list(sys.path),
        "user_site": getattr(site, "USER_SITE", None) or "",
        "user_site_enabled": bool(getattr(site, "ENABLE_USER_SITE", False)),
        "sitecustomize": getattr(sys.modules.get("sitecustomize"), "__file__", None) or "",
        "host": socket.gethostname(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "markers": markers(),
    }


def markers():
    """The values of the environment markers of dependency specifiers (PEP 508)."""
    version = platform.python_version_tuple()
    return {
        "implementation_name": sys.implementation.name,
        "implementation_version": platform.python_version(),
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "python_full_version": platform.python_version(),
        "python_version": ".".join(version[:2]),
        "sys_platform": sys.platform,
    }


def normalised(name):
    """The name of a distribution as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(asked):
    """For each asked distribution that the interpreter finds: version, location, what it requires.

    Of several with one name the first on sys.path counts, as it does for an import; the others are in `shadowed`.
    """
    wanted = set(asked)
    found: dict[str, Any] = {}
    for one in importlib.metadata.distributions():
        name = normalised(one.metadata["Name"] or "")
        if name not in wanted:
            continue
        location = os.path.abspath(str(one.locate_file("")))
        if name in found:
            if location != found[name]["location"]:
                found[name]["shadowed"].append({"version": one.version, "location": location})
            continue
        found[name] = {
            "version": one.version,
            "location": location,
            "real_location": os.path.realpath(location),
            "requires": list(one.requires or ()),
            "shadowed": [],
        }
    return found
