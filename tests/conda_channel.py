"""A small local conda channel with real packages: this machine's CPython, made relocatable, and some of its packages.

No channel needs to be in reach. The interpreter is the one of the machine with its standard library and every shared library
that it needs but the C library's own; RUNPATHs lead to the environment, text that names the old place has conda's
placeholder instead, and the old place is blotted out of binaries. Made with `python tests/conda_channel.py FOLDER`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

PLACEHOLDER = "/opt/" + "placehold_" * 25
# what a conda environment takes from the machine: the C library, and nothing else
_GLIBC = re.compile(r"(ld-linux.*|lib(c|m|dl|pthread|rt|util|resolv|anl|BrokenLocale|nss_.*|thread_db))\.so(\.\d+)*")
# of no use in an environment, or in need of a display
_LEFT_OUT = ("test", "tests", "idlelib", "tkinter", "turtledemo", "turtle.py", "lib2to3", "ensurepip", "site-packages",
             "dist-packages", "__pycache__", "EXTERNALLY-MANAGED")  # fmt: skip
_DEBIAN = b"prefix_scheme = 'posix_local'"
MADE_AT = 1_700_000_000


@dataclass(frozen=True, kw_only=True)
class Package:
    """A conda package: `files` maps paths to their bytes, to a symbolic link's target (`str`), or to a file to be read."""

    name: str
    version: str
    build: str = "0"
    depends: Sequence[str] = ()
    files: Mapping[str, bytes | str | Path] = field(default_factory=dict)
    noarch: str = ""
    entry_points: Sequence[str] = ()
    executable: frozenset[str] = frozenset()

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.version}-{self.build}"

    @property
    def subdir(self) -> str:
        return "noarch" if self.noarch else "linux-64"


def write(package: Package, channel: Path) -> Path:
    """The `.conda` file of a package, in its subdir of the channel."""
    members = {name: _content(value) for name, value in sorted(package.files.items())}
    index = {
        "name": package.name, "version": package.version, "build": package.build, "build_number": 0,
        "depends": list(package.depends), "constrains": [], "subdir": package.subdir, "license": "not said here",
        "timestamp": MADE_AT * 1000,
        **({"noarch": package.noarch} if package.noarch else {"arch": "x86_64", "platform": "linux"}),
    }  # fmt: skip
    info = {
        "info/index.json": index,
        "info/paths.json": {
            "paths": [_path(name, value, members) for name, value in members.items()],
            "paths_version": 1,
        },
        "info/about.json": {"summary": f"{package.name}, repackaged for tests"},
    }
    if package.noarch == "python":
        link = {"type": "python", "entry_points": list(package.entry_points)}
        info["info/link.json"] = {"noarch": link, "package_metadata_version": 1}
    told = {name: json.dumps(document, indent=1).encode() for name, document in info.items()}
    told["info/files"] = "".join(f"{name}\n" for name in members).encode()
    path = channel / package.subdir / f"{package.stem}.conda"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in (
            ("metadata.json", json.dumps({"conda_pkg_format_version": 2}).encode()),
            (f"pkg-{package.stem}.tar.zst", _tar(members, package.executable)),
            (f"info-{package.stem}.tar.zst", _tar(told, frozenset())),
        ):
            archive.writestr(zipfile.ZipInfo(name, (2023, 11, 14, 0, 0, 0)), content)
    return path


def index(channel: Path) -> None:
    """Write the channel's repodata.json, as a real indexer does."""
    (channel / "noarch").mkdir(parents=True, exist_ok=True)
    by_rattler(
        "from rattler import index",
        f"await index.index_fs({str(channel)!r}, write_zst=False, write_shards=False, force=True)",
    )


def by_rattler(imports: str, *lines: str) -> None:
    """Run these lines in an async function of a process of its own: rattler's threads can crash one that ends."""
    body = "\n".join(f"    {line}" for line in lines)
    code = f"import asyncio, os\n{imports}\nasync def main():\n{body}\nasyncio.run(main())\nos._exit(0)\n"
    subprocess.run([sys.executable, "-c", code], check=True)


def _content(value: bytes | str | Path) -> bytes | str:
    if isinstance(value, Path):
        return os.readlink(value) if value.is_symlink() else value.read_bytes()
    return value


def _path(name: str, value: bytes | str, members: Mapping[str, bytes | str]) -> dict[str, object]:
    if isinstance(value, str):
        target = members.get(os.path.normpath(os.path.join(os.path.dirname(name), value)), b"")
        content = target if isinstance(target, bytes) else b""
        return {"_path": name, "path_type": "softlink", "sha256": _sha256(content), "size_in_bytes": len(content)}
    entry: dict[str, object] = {
        "_path": name, "path_type": "hardlink", "sha256": _sha256(value), "size_in_bytes": len(value),
    }  # fmt: skip
    if PLACEHOLDER.encode() in value:
        entry |= {"prefix_placeholder": PLACEHOLDER, "file_mode": "binary" if b"\0" in value else "text"}
    return entry


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _tar(members: Mapping[str, bytes | str], executable: frozenset[str]) -> bytes:
    import zstandard

    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, value in members.items():
            about = tarfile.TarInfo(name)
            about.mtime = MADE_AT
            if isinstance(value, str):
                about.type, about.linkname, about.mode = tarfile.SYMTYPE, value, 0o777
                archive.addfile(about)
            else:
                about.size = len(value)
                runs = name in executable or name.startswith("bin/")
                about.mode = 0o755 if runs else 0o644
                archive.addfile(about, io.BytesIO(value))
    return zstandard.ZstdCompressor(level=1, threads=-1).compress(raw.getvalue())


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A CPython of this machine, as it says itself."""

    path: str
    version: str
    base: str
    stdlib: str
    platstdlib: str
    include: str
    library: str

    @property
    def minor(self) -> str:
        return ".".join(self.version.split(".")[:2])


def interpreter() -> Interpreter:
    """The one that the tests run on, outside of its virtual environment."""
    asks = (
        "import sys, sysconfig, platform, json; g = sysconfig.get_config_var; v = {'base': sys.base_prefix, "
        "'platbase': sys.base_prefix, 'installed_base': sys.base_prefix, 'installed_platbase': sys.base_prefix}; "
        "p = sysconfig.get_paths(vars=v); print(json.dumps({'version': platform.python_version(), 'base': sys.base_prefix, "
        "'stdlib': p['stdlib'], 'platstdlib': p['platstdlib'], 'include': p['include'], "
        "'library': g('LIBDIR') + '/' + g('INSTSONAME') if g('Py_ENABLE_SHARED') else ''}))"
    )
    path = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    said = subprocess.run([path, "-I", "-c", asks], capture_output=True, text=True, check=True).stdout
    return Interpreter(path=path, **json.loads(said))


def lacking() -> str:
    """Why the channel cannot be made on this machine, or nothing."""
    for module in ("rattler", "zstandard"):
        try:
            __import__(module)
        except ImportError:
            return f"no Python package {module}"
    if shutil.which("patchelf") is None:
        return "no program patchelf"
    return "" if os.uname().machine == "x86_64" else "another CPU architecture"


def python(one: Interpreter) -> tuple[Package, ...]:
    """The interpreter as the packages `python` and `python-libs`, `openssl` apart as in the real world."""
    with tempfile.TemporaryDirectory(prefix="conda-python-") as folder:
        staged = _staged(one, Path(folder))
        found = _libraries(staged)
        pieces: dict[str, bytes | str] = {name: _piece(one, name, path) for name, path in staged.items()}
        libraries = {f"lib/{name}": _patched(path, "$ORIGIN") for name, path in found.items()}
    ssl = {name: value for name, value in libraries.items() if re.match(r"lib/lib(ssl|crypto)\.", name)}
    rest = {name: value for name, value in libraries.items() if name not in ssl}
    about = {"python": "python3", "python3": f"python{one.minor}"}
    if _DEBIAN in Path(one.stdlib, "sysconfig.py").read_bytes():
        pieces[f"lib/python{one.minor}/dist-packages"] = "site-packages"
    if one.library:
        pieces[f"lib/libpython{one.minor}.so"] = Path(one.library).name
    return (
        Package(
            name="python", version=one.version, build="h0_0_cpython", depends=("openssl", "python-libs", "__glibc >=2.17"),
            files={**pieces, **{f"bin/{name}": target for name, target in about.items()}},
        ),
        Package(name="openssl", version="3.0.0", build="h0_0", depends=("__glibc >=2.17",), files=ssl),
        Package(name="python-libs", version="1.0", build="h0_0", depends=("__glibc >=2.17",), files=rest),
    )  # fmt: skip


def _staged(one: Interpreter, folder: Path) -> dict[str, Path]:
    """Where each file of the environment comes from."""
    staged = {f"bin/python{one.minor}": Path(one.path)}
    if one.library:
        staged[f"lib/{Path(one.library).name}"] = Path(one.library)
    for start, below in ((one.stdlib, f"lib/python{one.minor}"), (one.include, f"include/python{one.minor}")):
        for path in _walked(Path(start)):
            if not path.name.startswith(("_tkinter.", "libpython")):
                staged[f"{below}/{path.relative_to(start)}"] = path
    own = staged[f"lib/python{one.minor}/sysconfig.py"]
    layout = own.read_bytes()
    if _DEBIAN in layout:
        # Debian's layout is not an environment's; its `site`, which is frozen, looks where a link leads to the right folder
        staged[f"lib/python{one.minor}/sysconfig.py"] = folder / own.name
        (folder / own.name).write_bytes(layout.replace(_DEBIAN, _DEBIAN.replace(b"posix_local", b"posix_prefix")))
    return staged


def _walked(start: Path) -> Iterable[Path]:
    for folder, folders, names in os.walk(start):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        for name in names:
            path = Path(folder, name)
            if name not in _LEFT_OUT and path.exists() and not name.endswith((".pyc", ".a", ".o")):
                yield path


def _is_elf(path: Path) -> bool:
    if path.is_symlink() or not stat.S_ISREG(path.stat().st_mode):
        return False
    with open(path, "rb") as source:
        return source.read(4) == b"\x7fELF"


def _libraries(staged: Mapping[str, Path]) -> dict[str, Path]:
    """Every shared library that the staged objects need, the C library's own left out; the linker says where."""
    own = {Path(name).name for name in staged}
    found: dict[str, Path] = {}
    objects = [path for path in staged.values() if ".so" in path.name or path.name.startswith("python")]
    elves = [path for path in objects if _is_elf(path)]
    with ThreadPoolExecutor(4) as pool:
        for said in pool.map(_needs, elves):
            for name, path in said.items():
                if not _GLIBC.fullmatch(name) and name not in own:
                    found[name] = Path(os.path.realpath(path))
    return found


def _needs(path: Path) -> dict[str, str]:
    done = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)
    return dict(re.findall(r"^\s*(\S+) => (/\S+) \(", done.stdout, re.MULTILINE))


def _piece(one: Interpreter, name: str, path: Path) -> bytes:
    """A file as it goes into the package: another RUNPATH, and the old place gone."""
    if _is_elf(path):
        up = "../" * (name.count("/") - 1)
        content = _patched(path, "$ORIGIN/../lib" if name.startswith("bin/") else f"$ORIGIN/{up}".rstrip("/"))
    else:
        content = path.read_bytes()
    old = one.base.encode()
    if one.base in ("/usr", "/usr/local") or old not in content:
        return content
    if b"\0" in content or not _is_text(content):
        # A binary has no room for conda's placeholder; CPython finds its place from the program's, so this is never read.
        # The last part stays: linkers let strings share their ends, and "3.11.7" is the version, too.
        above, _, last = old.rpartition(b"/")
        return content.replace(old, b"/gone".ljust(len(above), b"/") + b"/" + last)
    return content.replace(old, PLACEHOLDER.encode())


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _patched(path: Path, runpath: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="conda-elf-") as folder:
        copy = Path(folder, "object")
        shutil.copyfile(path, copy)
        subprocess.run(["patchelf", "--set-rpath", runpath, copy], check=True, capture_output=True)
        return copy.read_bytes()


def distribution(name: str, depends: Sequence[str], *, minor: str, conda_name: str = "") -> Package:
    """An installed distribution of this interpreter as a conda package: noarch if it is pure Python."""
    found = importlib.metadata.distribution(name)
    files: dict[str, bytes | str | Path] = {}
    for entry in found.files or ():
        path = Path(str(found.locate_file(entry)))
        text = str(entry)
        if ".." in entry.parts or "__pycache__" in entry.parts or entry.name in ("direct_url.json", "uv_cache.json"):
            continue
        files[text] = b"conda\n" if entry.name == "INSTALLER" else path.read_bytes()
    compiled = any(text.endswith(".so") for text in files)
    record = next(text for text in files if text.endswith("/RECORD"))
    # what conda packages really have: a RECORD that was written before the package was finished
    files[record] = "".join(f"{text},,\n" for text in files).encode()
    scripts = [f"{point.name} = {point.value}" for point in found.entry_points if point.group == "console_scripts"]
    below = f"lib/python{minor}/site-packages" if compiled else "site-packages"
    return Package(
        name=conda_name or name.lower(),
        version=found.version,
        build="py_0" if not compiled else f"py{minor.replace('.', '')}h0_0",
        depends=(f"python {minor}.*" if compiled else "python >=3.8", *depends),
        files={f"{below}/{text}": value for text, value in files.items()},
        noarch="" if compiled else "python",
        entry_points=scripts if not compiled else (),
    )


def greeting(version: str = "1.0") -> Package:
    """A compiled program that has its own place in it: what conda replaces in binaries."""
    with tempfile.TemporaryDirectory(prefix="conda-greeting-") as folder:
        source, program = Path(folder, "greeting.c"), Path(folder, "greeting")
        source.write_text(
            "#include <stdio.h>\n"
            f'static const char place[] = "{PLACEHOLDER}";\n'
            'int main(void) { printf("hello from %s\\n", place); return 0; }\n'
        )
        subprocess.run(["cc", "-O1", "-o", program, source], check=True)
        content = program.read_bytes()
    return Package(
        name="greeting", version=version, depends=("__glibc >=2.17",),
        files={"bin/greeting": content, "share/greeting/place": f"{PLACEHOLDER}/share\n".encode()},
    )  # fmt: skip


def text(
    name: str, version: str, depends: Sequence[str] = (), files: Mapping[str, bytes | str] | None = None
) -> Package:
    """A package of a line of text."""
    chosen = files or {f"share/{name}/about": f"{name} {version}\n".encode()}
    return Package(name=name, version=version, depends=depends, files=chosen, noarch="generic")


def fill(channel: Path) -> Path:
    """The whole channel: an interpreter, packages on it, and what cannot be had together."""
    one = interpreter()
    packages = [
        *python(one),
        distribution("packaging", (), minor=one.minor),
        distribution("MarkupSafe", (), minor=one.minor),
        distribution("Jinja2", ("markupsafe >=2.0",), minor=one.minor),
        distribution("mdurl", (), minor=one.minor),
        distribution("markdown-it-py", ("mdurl",), minor=one.minor),
        greeting(),
        # what the solver is asked about
        text("flute", "1.0"),
        text("flute", "2.0"),
        text("drum", "1.0", ("flute 1.*",)),
        text("harp", "1.0", ("flute 2.*",)),
        text("for-gpus", "1.0", ("__cuda >=12.4",)),
        text("for-new-machines", "1.0", ("__glibc >=99",)),
        text("for-zen4", "1.0", ("__archspec * zen4",)),
    ]
    for package in packages:
        write(package, channel)
    index(channel)
    return channel


def have(place: Path) -> Path:
    """The channel in a folder that is kept between runs, made whole by one process; others wait."""
    from filelock import FileLock

    one = interpreter()
    mark = hashlib.sha256(Path(__file__).read_bytes() + repr(one).encode()).hexdigest()[:12]
    channel = place / f"channel-{mark}"
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / "channel.lock"):
        if not channel.is_dir():
            part = place / f".channel-{os.getpid()}"
            shutil.rmtree(part, ignore_errors=True)
            fill(part)
            part.rename(channel)
    return channel


if __name__ == "__main__":
    fill(Path(sys.argv[1]))
