"""Made-up inputs for tests of everything up to the plan: a recipe that uses every key, a machine, a lock made by hand."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from envbuilder import lock as lock_format
from envbuilder import recipe, site
from envbuilder.builders.base import Workplace
from envbuilder.environment import Environment
from envbuilder.lock import Lock
from envbuilder.partition import Partition
from envbuilder.pip_config import PipConfig
from envbuilder.request import Request, concrete
from envbuilder.target import Compiler, Mpi, Python, Target

RECIPE: dict[str, Any] = {
    "schema": 1,
    "name": "full",
    "summary": "A recipe that uses every key",
    "description": "Of several lines,\nas this one.\n",
    "extends": "mpi4py",
    "base": {"module": "pytorch/1.13.1-gpu", "why": "a reason"},
    "features": ["mpi4py"],
    "needs": ["cpu", "mpi"],
    "specs": ["py-mpi4py@4:"],
    "not_in_spack": ["warmup-scheduler"],
    "imports": ["mpi4py.MPI"],
    "variants": [
        {
            "version": "1.0",
            "python": ">=3.10",
            "packages": ["numpy>=1.26"],
            "indexes": [{"url": "https://one.example.org/simple", "why": "a reason"}],
            "toolkit": "rocm>=6.3,<6.4",
            "tag": "rocm6.3",
        }
    ],
    "packages": ["mpi4py>=4"],
    "indexes": [{"url": "https://two.example.org/simple", "why": "a reason"}],
    "sources": {
        "mpi4py": {
            "sdist": "mpi4py",
            "build_requires": ["pip>=23"],
            "why": "a reason",
            "env": {"CFLAGS": "-O1"},
            "without_compiler": "wheel",
        }
    },
    "conda": {"channels": ["conda-forge"], "packages": ["numpy >=1.26,<2"]},
    "environment": [
        {"set": "FROM_RECIPE", "to": "a value", "why": "a reason"},
        {"unset": "FROM_OUTSIDE", "why": "a reason"},
    ],
    "data": [{"variable": "DATASET_DIR", "why": "a reason"}],
    "infeasible": [{"when": "gpu=amd", "why": "a reason"}],
}

# Every way in which a source can be said; apart, since only an sdist is locked without a file.
SOURCES: dict[str, Any] = {
    **RECIPE["sources"],
    "archived": {
        "archive": {"url": "https://example.org/archived-1.0.tar.gz", "sha256": "0" * 64},
        "name": "archived",
        "version": "1.0",
        "build_requires": ["pip>=23"],
        "why": "a reason",
        "patches": [
            {"file": "patches/one.patch", "why": "a reason"},
            {"replace": "14", "by": "17", "in": "CMakeLists.txt", "count": 2, "why": "a reason"},
        ],
        "fail_if_log": [{"pattern": "MPI .*not found", "why": "a reason"}],
        "jobs": {"memory_gib": 2, "minutes": 120},
        "resume": True,
    },
    "committed": {
        "git": {"url": "https://example.org/c.git", "tag": "v1.0", "commit": "0" * 40, "submodules": True},
        "name": "committed",
        "version": "1.0",
        "build_requires": ["pip>=23"],
        "why": "a reason",
    },
}

SITE: dict[str, Any] = {
    "schema": 1,
    "name": "full",
    "summary": "A site that uses every key",
    "valid_from": "2026-01-31",
    "valid_until": "2036-01-31",
    "successor": "local",
    "description": "Of several lines,\nas this one.\n",
    "sources": {
        "M": {"title": "a manual", "url": "https://example.org/m", "revision": "abc1234", "date": "2026-01-31"}
    },
    "detect": {"hostname": "ln0[1-4]"},
    "modules": {
        "system": "lmod",
        "init": "/etc/profile.d/lmod.sh",
        "reset": "restore",
        "forbidden": ["purge"],
        "source": ["M"],
    },
    "scheduler": {
        "kind": "slurm",
        "required": ["account"],
        "export": "none",
        "login_shell": True,
        "options": ["--requeue"],
        "srun_options": ["--cpu-freq=2250000"],
        "qos": {
            "standard": {
                "partitions": ["standard"],
                "max_nodes": 4,
                "max_minutes": 60,
                "options": ["--exclusive"],
                "why": "a reason",
            }
        },
        "source": ["M"],
    },
    "paths": {
        "root": "/data/store",
        "caches": "/data/caches",
        "readable_by": "group",
        "home_on_compute": False,
        "source": ["M"],
    },
    "mirrors": {"https://example.org/simple": "file:///srv/mirror"},
    "proof": {
        "max_age_hours": 24,
        "signed": True,
        "allowed_signers": "/etc/ssh/signers",
        "image_key": "/etc/ssl/images.pem",
    },
    "container": {
        "runtime": "apptainer",
        "binds": ["/scratch"],
        "optional_binds": ["/opt/tools:/opt/host-tools"],
        "env": {"A_VARIABLE": "a value"},
        "mpi": {
            "mpich@4.1/ofi": {
                "binds": ["/opt/mpi"],
                "optional_binds": ["/run/munge"],
                "library_path": ["/opt/mpi/lib"],
                "env": {"ANOTHER": "value"},
                "source": ["M"],
            }
        },
        "source": ["M"],
    },
    "allowed_preloads": [{"library": "libxalt_init.so", "why": "a reason", "source": ["M"]}],
    "default_partition": "cpu",
    "partitions": {
        "cpu": {
            "summary": "nodes",
            "valid_from": "2026-01-31",
            "valid_until": "2036-01-31",
            "source": ["M"],
            "features": ["cpu", "mpi"],
            "cpu": {"model": "a CPU", "target": "zen2", "cores": 128, "numa": 8, "memory_gib": 256, "source": ["M"]},
            "gpu": {
                "vendor": "amd",
                "model": "a GPU",
                "arch": "gfx90a",
                "count": 4,
                "toolkit": "rocm@6.3.4",
                "source": ["M"],
            },
            "fabric": "slingshot10",
            "internet": False,
            "builds_on": "compute",
            "module_paths": ["/opt/modules"],
            "modules": ["PrgEnv-gnu/8.3.3"],
            "promises": ["MPICH_DIR"],
            "exports_after_modules": [
                {"set": "A_VARIABLE", "to": "a value", "why": "a reason"},
                {"prepend": "LD_LIBRARY_PATH", "to": "${CRAY_LD_LIBRARY_PATH}", "why": "a reason"},
                {"unset": "ANOTHER", "why": "a reason"},
            ],
            "python": {"command": "python3", "version": "3.11.7", "source": ["M"]},
            "mpi": {
                "provider": "wheel",
                "package": "mpich",
                "mpicc": "mpicc",
                "name": "mpich",
                "version": "4.0",
                "soname": "libmpi.so.12",
                "gtl": "libmpi_gtl_hsa.so.0",
                "source": ["M"],
            },
            "compilers": {"cc": "cc", "cxx": "CC", "fc": "ftn", "source": ["M"]},
            "virtual_packages": {"__glibc": "2.31"},
            "scheduler": {
                "partition": "standard",
                "constraint": "gpu",
                "gpus": "gres",
                "gres": "gpu:mi210",
                "options": ["--exclusive"],
                "refuses": ["ntasks"],
                "source": ["M"],
            },
            "launch": {
                "launcher": "srun",
                "options": ["--hint=nomultithread"],
                "env": {"A_VARIABLE": "a value"},
                "source": ["M"],
            },
            "externals": [
                {
                    "spec": "gcc@12.2.0",
                    "prefix": "/opt/gcc/12.2.0",
                    "modules": ["gcc/12.2.0"],
                    "compilers": {
                        "c": "/opt/gcc/12.2.0/bin/gcc",
                        "cxx": "/opt/gcc/12.2.0/bin/g++",
                        "fortran": "/opt/gcc/12.2.0/bin/gfortran",
                    },
                    "source": ["M"],
                }
            ],
            "notes": ["a trap"],
        }
    },
}

Spot = tuple[str | int, ...]

# Shell metacharacters; each would leave a file named `canary` where it is evaluated.
SHELL = (
    "$(touch canary)", "`touch canary`", "; touch canary", "& touch canary &", "| touch canary", "' ; touch canary '",
    '" ; touch canary "', "'$(touch canary)'", "x'\"'$(touch canary)\"'\"", "\\", "a\\'$(touch canary)", "${x:=$(touch canary)}",
    "# x", "-rf", "*", "~", "!!", "%s%n", "END-", "{}", "{0.__class__}",
)  # fmt: skip
# What leads out of a folder or breaks a line.
LEADING_OUT = (
    "../..",
    "/etc/passwd",
    "..",
    ".",
    "a/../../b",
    "a\0b",
    "a\nb",
    "a\n$(touch canary)",
    "\r",
    "\x1b[31m",
    "\u2028",
)


def leaves(document: Any, path: Spot = ()) -> Iterator[Spot]:
    """The path of every text in a document."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from leaves(value, (*path, key))
    elif isinstance(document, list):
        for number, value in enumerate(document):
            yield from leaves(value, (*path, number))
    elif isinstance(document, str):
        yield path


def spots(document: Any, path: Spot = ()) -> Iterator[Spot]:
    """The path of every value in a document but the document itself."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inner:
        yield (*path, key)
        yield from spots(value, (*path, key))


def changed(document: Any, path: Spot, value: Any) -> Any:
    """A copy of a document with another value at a path."""
    result = copy.deepcopy(document)
    at = result
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return result


def target(**changes: Any) -> Target:
    values: dict[str, Any] = {
        "site": "s",
        "partition": "p",
        "arch": "x86_64",
        "libc": "glibc 2.36",
        "gpu": "none",
        "python": Python(path="/usr/bin/python3", version="3.12.0", soabi="cpython-312-x86_64-linux-gnu", headers=True),
        "mpi": Mpi(provider="wheel", name="mpich", package="mpich"),
        "compiler": Compiler(path="/usr/bin/cc", version="cc 1"),
    }
    return Target(**{**values, **changes})


def request(parsed: recipe.Recipe, **changes: Any) -> Request:
    return concrete(parsed, parsed.variants[0], Partition(features=("cpu", "mpi")), target(**changes))


def body(name: str, version: str = "1", *, sdist: bool = False) -> str:
    """A PEP 751 lock of one distribution."""
    file = f"{name}-{version}.tar.gz" if sdist else f"{name}-{version}-py3-none-any.whl"
    mark = hashlib.sha256(file.encode()).hexdigest()
    artefact = f'{{ url = "https://example.org/{file}", hashes = {{ sha256 = "{mark}" }} }}'
    kind = f"sdist = {artefact}" if sdist else f"wheels = [{artefact}]"
    return (
        f'lock-version = "1.0"\ncreated-by = "a test"\n\n[[packages]]\nname = "{name}"\nversion = "{version}"\n{kind}\n'
    )


def locked(asked: Request) -> Lock:
    """A lock that answers a request with made-up artefacts."""
    bodies = {lock_format.MAIN: body("mpi4py")}
    for name, source in asked.sources.items():
        bodies[lock_format.source_body(name)] = body(source.sdist, sdist=True)
        bodies[lock_format.build_body(name)] = body("pip")
    made = Lock(request=asked.to_document(), site="s", partition="p", created_by={"uv": "1"}, bodies=bodies)
    return lock_format.from_envelope(made.envelope(), bodies, "lock.json")


def workplace(root: Path, pip: PipConfig | None = None) -> Workplace:
    here = site.Site(schema=1, name="s", summary="s", partitions={"p": Partition()}, default_partition="p")
    return Workplace(root=root, pip=pip or PipConfig(), site=here, log=root / "log")


def environment(**changes: Any) -> Environment:
    values: dict[str, Any] = {
        "identifier": "e-1-abc",
        "builder": "venv",
        "recipe": "e",
        "version": "1",
        "site": "local",
        "partition": "host",
        "prefix": "/store/envs/e-1-abc",
        "digest": "d" * 64,
        "lock_digest": "l" * 64,
        "python": {"path": "/usr/bin/python3", "version": "3.11.7", "soabi": ""},
        "features": ("mpi4py",),
        "imports": ("mpi4py.MPI",),
        "packages": {"mpi4py": "4.1"},
        "records": {"mpi4py": "0" * 64},
        "written": {"bin/activate": "0" * 64},
        "mpi": None,
        "settings": ({"set": "A", "to": "b", "unset": "", "why": "w"},),
        "caches": "/store/cache/run",
        "max_proof_age_hours": 168,
        "created": "2026-11-20T11:00:00.000+00:00",
        "created_by": "envbuilder 0",
        "seconds": 1.5,
    }
    return Environment(**{**values, **changes})
