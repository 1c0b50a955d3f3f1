"""Device code in ELF files: real ones by hipcc and nvcc where these are, a real wheel, made ones for what no compiler here writes."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envbuilder import gpu_code
from envbuilder.gpu_code import GpuCode

KERNEL = '__global__ void k(float *x) { x[threadIdx.x] *= 2; }\nextern "C" void go(float *x) { k<<<1, 64>>>(x); }\n'
MAGIC = b"__CLANG_OFFLOAD_BUNDLE__"
HOST = ("host-x86_64-unknown-linux", b"")
AMD_90A, AMD_908 = "hipv4-amdgcn-amd-amdhsa--gfx90a:sramecc+:xnack-", "hip-amdgcn-amd-amdhsa-gfx908"

Compiler = Callable[..., Path]


def elf(*sections: tuple[bytes, bytes]) -> bytes:
    """A 64-bit ELF file of these sections, each at a multiple of 4096."""
    names = b"\0" + b"".join(name + b"\0" for name, _ in sections) + b".shstrtab\0"
    body, rows = bytearray(4096), [bytes(64)]
    for name, content in (*sections, (b".shstrtab", names)):
        rows.append(struct.pack("<IIQQQQIIQQ", names.index(name + b"\0"), 1, 0, 0, len(body), len(content), 0, 0, 1, 0))
        body += content + bytes(-len(content) % 4096)
    shape = (b"\x7fELF\2\1\1", 3, 62, 1, 0, 0, len(body), 0, 64, 0, 0, 64, len(rows), len(rows) - 1)
    body[:64] = struct.pack("<16sHHIQQQIHHHHHH", *shape)
    return bytes(body) + b"".join(rows)


def bundle(*entries: tuple[str, bytes]) -> bytes:
    """A clang offload bundle, padded as the compiler pads it."""
    at = 4096
    header, codes = MAGIC + struct.pack("<Q", len(entries)), bytearray()
    for name, code in entries:
        header += struct.pack("<QQQ", at + len(codes), len(code), len(name)) + name.encode()
        codes += code
    return header + bytes(at - len(header)) + bytes(codes)


def padded(*bundles: bytes) -> bytes:
    return b"".join(one + bytes(-len(one) % 4096) for one in bundles)


def packed(content: bytes, version: int, method: int = 0, compress: Callable[[bytes], bytes] = zlib.compress) -> bytes:
    """A compressed bundle, as LLVM's RawCompressedBundleHeader describes it: no compiler on this machine writes one."""
    data = compress(content)
    sizes = {
        1: struct.pack("<I", len(content)),
        2: struct.pack("<II", 24 + len(data), len(content)),
        3: struct.pack("<QQ", 32 + len(data), len(content)),
    }[version]
    return b"CCOB" + struct.pack("<HH", version, method) + sizes + bytes(8) + data


def fatbin(*entries: tuple[int, int, bytes], flags: int = 0) -> bytes:
    """A container of NVIDIA's: kind, arch and code of each entry."""
    body = b"".join(
        struct.pack("<HHIQIIHHIIIQQQ", kind, 0x101, 64, len(code), 0, 0, 8, 1, arch, 0, 0, flags, 0, 0) + code
        for kind, arch, code in entries
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


@pytest.fixture
def parsed(tmp_path: Path) -> Callable[..., GpuCode | None]:
    def parse(content: bytes, section: bytes = b".hip_fatbin") -> GpuCode | None:
        path = tmp_path / "object.so"
        path.write_bytes(elf((b".text", b"x" * 100), (section, content)))
        return gpu_code.read(path)

    return parse


@pytest.fixture(scope="module")
def hip(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    if not shutil.which("hipcc"):
        pytest.skip("hipcc is not on this machine: apt-get install hipcc libamdhip64-dev rocm-device-libs")
    folder = tmp_path_factory.mktemp("hip")

    def build(*archs: str, units: int = 1) -> Path:
        output = folder / f"{'-'.join(archs).replace(':', '_')}-{units}.so"
        for number in range(units):
            code = KERNEL.replace("k(", f"k{number}(").replace("k<", f"k{number}<").replace("go", f"go{number}")
            (folder / f"{number}.hip").write_text("#include <hip/hip_runtime.h>\n" + code)
        sources = [folder / f"{number}.hip" for number in range(units)]
        command = ["hipcc", *(f"--offload-arch={arch}" for arch in archs), "-shared", "-fPIC", *sources, "-o", output]
        # where nvcc is on the PATH, hipcc would hand its work to it; it leaves folders where temporary files go
        env = {**os.environ, "HIP_PLATFORM": "amd", "TMPDIR": str(folder)}
        subprocess.run(command, check=True, capture_output=True, env=env, cwd=folder)
        return output

    return build


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    if not shutil.which("nvcc"):
        pytest.skip("nvcc is not on this machine: it comes with the CUDA toolkit")
    folder = tmp_path_factory.mktemp("cuda")

    def build(*codes: str, options: tuple[str, ...] = (), source: str = KERNEL) -> Path:
        """`90:sm_90` is machine code for compute capability 9.0, `80:compute_80` PTX for 8.0."""
        (folder / "k.cu").write_text(source)
        output = folder / "k.so"
        wanted = [f"-gencode=arch=compute_{one.replace(':', ',code=')}" for one in codes]
        command = ["nvcc", "-shared", "-Xcompiler=-fPIC", "--cudart=none", *options, *wanted, "k.cu", "-o", output]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        return output

    return build


def test_hipcc_for_one_gpu(hip: Compiler) -> None:
    code = gpu_code.read(hip("gfx90a"))

    assert code == GpuCode(
        vendor="amd",
        targets=("gfx90a",),
        raw=("hipv4-amdgcn-amd-amdhsa--gfx90a", "host-x86_64-unknown-linux"),
        unreadable="",
    )
    assert gpu_code.runs_on(code, "gfx90a")
    assert not gpu_code.runs_on(code, "gfx908")
    assert not gpu_code.runs_on(code, "gfx942")
    assert not gpu_code.runs_on(code, "sm_90")


def test_hipcc_for_two_gpus_with_features_and_two_units(hip: Compiler) -> None:
    library = hip("gfx90a:sramecc+:xnack-", "gfx908", units=2)
    code = gpu_code.read(library)

    assert library.read_bytes().count(MAGIC) == 2
    assert code is not None
    assert (code.targets, code.unreadable) == (("gfx908", "gfx90a"), "")
    assert "hipv4-amdgcn-amd-amdhsa--gfx90a:sramecc+:xnack-" in code.raw


def test_a_cut_library_is_never_without_device_code(hip: Compiler, tmp_path: Path) -> None:
    """The negative control of reading: the sections are there, their content is not."""
    whole = hip("gfx90a").read_bytes()
    at = whole.index(MAGIC)
    path = tmp_path / "cut.so"
    path.write_bytes(whole[: at + 24] + b"\xff" * 8 + whole[at + 32 :])

    code = gpu_code.read(path)

    assert code is not None
    assert code.unreadable


def test_nvcc_machine_code_and_ptx(cuda: Compiler) -> None:
    code = gpu_code.read(cuda("90:sm_90", "80:sm_80", "80:compute_80"))

    assert code is not None
    assert (code.vendor, code.targets, code.unreadable) == ("nvidia", ("compute_80", "sm_80", "sm_90"), "")
    assert [gpu_code.runs_on(code, arch) for arch in ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100")] == [
        False,
        True,
        True,
        True,
        True,
    ]


def test_nvcc_without_ptx_is_for_one_generation(cuda: Compiler) -> None:
    code = gpu_code.read(cuda("80:sm_80"))

    assert code is not None
    assert [gpu_code.runs_on(code, arch) for arch in ("sm_80", "sm_89", "sm_90", "gfx90a")] == [
        True,
        True,
        False,
        False,
    ]


def test_nvcc_code_for_one_gpu_and_for_a_family(cuda: Compiler) -> None:
    code = gpu_code.read(cuda("90a:sm_90a", "100f:sm_100f", "100f:compute_100f"))

    assert code is not None
    assert code.targets == ("compute_100f", "sm_100f", "sm_90a")


def test_nvcc_relocatable_device_code(cuda: Compiler) -> None:
    code = gpu_code.read(cuda("80:sm_80", options=("-rdc=true",)))

    assert code is not None
    assert code.targets == ("sm_80",)


@pytest.mark.parametrize("options", [(), ("-rdc=true",)])
def test_nvcc_without_a_kernel_leaves_no_target(cuda: Compiler, options: tuple[str, ...]) -> None:
    stub = gpu_code.read(cuda("80:sm_80", "100:sm_100", options=options, source='extern "C" int go() { return 1; }\n'))
    smallest = gpu_code.read(cuda("80:sm_80", "100:sm_100", options=options, source="__global__ void k() { }\n"))

    assert stub == GpuCode(vendor="nvidia", targets=(), raw=("sm_100", "sm_80"), unreadable="")
    assert smallest is not None
    assert smallest.targets == ("sm_100", "sm_80")


def test_cuobjdump_agrees(cuda: Compiler) -> None:
    """NVIDIA's own reader, where there is one, sees the same machine code."""
    if not shutil.which("cuobjdump"):
        pytest.skip("cuobjdump is not on this machine")
    library = cuda("90:sm_90", "80:sm_80")
    said = subprocess.run(["cuobjdump", "--list-elf", library], capture_output=True, text=True, check=True).stdout
    code = gpu_code.read(library)

    assert code is not None
    assert sorted(set(re.findall(r"sm_\d+", said))) == list(code.targets)


def test_several_bundles(parsed: Callable[..., GpuCode | None]) -> None:
    code = parsed(padded(bundle(HOST, (AMD_90A, b"code" * 3000)), bundle(HOST, (AMD_908, b"x" * 5)), bundle(HOST)))

    assert code == GpuCode(vendor="amd", targets=("gfx908", "gfx90a"), raw=(AMD_908, AMD_90A, HOST[0]), unreadable="")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_compressed_bundles(parsed: Callable[..., GpuCode | None], version: int) -> None:
    one, two = bundle(HOST, (AMD_90A, os.urandom(9000))), bundle(HOST, (AMD_908, os.urandom(70000)))

    code = parsed(
        padded(packed(one, version), packed(two, version), bundle(HOST, ("hipv4-amdgcn-amd-amdhsa--gfx1100", b"x")))
    )

    assert code is not None
    assert (code.targets, code.unreadable) == (("gfx1100", "gfx908", "gfx90a"), "")


def test_zstd(parsed: Callable[..., GpuCode | None]) -> None:
    if sys.version_info >= (3, 14):
        from compression.zstd import compress
    else:
        compress = pytest.importorskip("zstandard", reason="zstd takes Python 3.14 or the package zstandard").compress
    content = bundle(HOST, (AMD_90A, os.urandom(3_000_000)))

    code = parsed(padded(packed(content, 2, 1, compress), bundle(HOST, (AMD_908, b"x"))))

    assert code is not None
    assert (code.targets, code.unreadable) == (("gfx908", "gfx90a"), "")
    broken = parsed(packed(b"", 2, 1, lambda _: compress(content)[:8] + b"\xff" * 200))
    assert broken is not None
    assert broken.unreadable


def test_zstd_that_nobody_can_read_is_unreadable_and_what_follows_is_read(
    parsed: Callable[..., GpuCode | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)

    code = parsed(padded(packed(b"x" * 5000, 2, 1), bundle(HOST, (AMD_908, b"x"))))

    assert code is not None
    assert code.targets == ("gfx908",)
    assert "zstd" in code.unreadable


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no bundle at all", "no offload bundle at byte 0"),
        (bytes(8192), "nothing in it is known"),
        (MAGIC + b"\xff" * 8, "cut off"),
        (MAGIC, "cut off"),
        (bundle((AMD_90A, b"x" * 50))[:-20], "names more than there is"),
        (bundle(("hipv4-something-else--of2031", b"x")), "of2031' is not known"),
        (bundle((AMD_90A + "\n; rm -rf", b"x")), "is not known"),
        (bundle(("hip-amdgcn-amd-amdhsa--gfx" + "9" * 3000, b"x")), "names more than there is"),
        (b"CCOB" + struct.pack("<HH", 9, 0) + bytes(40), "unknown version 9"),
        (packed(bundle((AMD_90A, b"x")), 2, method=7), "unknown method 7"),
        (packed(b"something else", 2), "holds no offload bundle"),
        (packed(bundle((AMD_90A, b"x")), 2)[:-5], "cut off"),
        (packed(b"", 3, compress=lambda _: b"not zlib at all"), "damaged"),
        (MAGIC.ljust(32, b"\0") * 200_000, "more than 131072"),
    ],
)
def test_what_is_not_understood_has_a_reason(parsed: Callable[..., GpuCode | None], content: bytes, words: str) -> None:
    code = parsed(content)

    assert code is not None
    assert code.targets == ()
    assert words in code.unreadable


def test_a_bomb_costs_no_memory(parsed: Callable[..., GpuCode | None]) -> None:
    code = parsed(packed(bundle(HOST, (AMD_90A, b"x")) + bytes(100_000_000), 3))

    assert code is not None
    assert code.targets == ("gfx90a",)


def test_an_entry_without_code_is_no_target(parsed: Callable[..., GpuCode | None]) -> None:
    code = parsed(bundle(HOST, (AMD_90A, b""), (AMD_908, b"x")))

    assert code is not None
    assert code.targets == ("gfx908",)


def test_names_of_gpus_elsewhere_in_a_file_mean_nothing(tmp_path: Path) -> None:
    path = tmp_path / "libLLVM.so"
    path.write_bytes(elf((b".rodata", b"gfx900\0gfx90a\0hipv4-amdgcn-amd-amdhsa--gfx90a\0" + MAGIC)))

    assert gpu_code.read(path) is None


def test_device_code_beside_the_file_is_unreadable(parsed: Callable[..., GpuCode | None]) -> None:
    code = parsed(b"\x81\xa4", section=b".rocm_kpack_ref")

    assert code is not None
    assert "kpack" in code.unreadable


def test_fat_binaries(parsed: Callable[..., GpuCode | None]) -> None:
    cubin = b"\x7fELF..text.k" + bytes(3000)
    content = fatbin((2, 90, cubin), (1, 80, b".version")) + bytes(8) + fatbin((2, 90, cubin), flags=0x100000)

    code = parsed(content, section=b".nv_fatbin")
    stub = parsed(fatbin((2, 52, b"\x7fELF" + bytes(868))), section=b".nv_fatbin")
    unknown = parsed(fatbin((2, 90, cubin), (77, 90, b"x")), section=b".nv_fatbin")
    broken = parsed(fatbin((2, 90, cubin))[:-1], section=b".nv_fatbin")

    assert code is not None
    assert (code.targets, code.unreadable) == (("compute_80", "sm_90", "sm_90a"), "")
    assert stub == GpuCode(vendor="nvidia", targets=(), raw=("sm_52",), unreadable="")
    assert unknown is not None
    assert (unknown.targets, unknown.raw) == (("sm_90",), ("kind 77 arch 90", "sm_90"))
    assert "unknown kind 77" in unknown.unreadable
    assert broken is not None
    assert "no fat binary at byte 0" in broken.unreadable


def test_fat_binaries_among_other_data_as_cufft_has_them(tmp_path: Path) -> None:
    cubin, path = b".text." + bytes(3000), tmp_path / "libcufft.so"
    other = bytes(65530) + fatbin((2, 90, cubin)) + b"noise" + struct.pack("<IHH", 0xBA55ED50, 1, 16) + b"\xff" * 99
    other += fatbin((1, 80, b"ptx"))
    path.write_bytes(elf((b".nv_fatbin", fatbin((2, 52, bytes(300)))), (b".ldata", other)))

    code = gpu_code.read(path)

    assert code is not None
    assert (code.targets, code.unreadable) == (("compute_80", "sm_90"), "")


@pytest.mark.parametrize(
    ("target", "arch", "runs"),
    [
        ("gfx90a", "gfx90a", True),
        ("gfx90a", "gfx90a:sramecc+:xnack-", True),
        ("gfx900", "gfx90a", False),
        ("gfx90", "gfx90a", False),
        ("gfx9-generic", "gfx906", True),
        ("gfx9-generic", "gfx90a", False),
        ("gfx9-4-generic", "gfx942", True),
        ("gfx9-4-generic", "gfx90a", False),
        ("gfx11-generic", "gfx1100", True),
        ("amdgcnspirv", "gfx90a", False),
        ("sm_80", "sm_86", True),
        ("sm_86", "sm_80", False),
        ("sm_80", "sm_90", False),
        ("sm_100", "sm_103", True),
        ("sm_100", "sm_120", False),
        ("compute_80", "sm_90", True),
        ("compute_90", "sm_100", True),
        ("compute_90", "sm_80", False),
        ("sm_90a", "sm_90", True),
        ("compute_90a", "sm_90", True),
        ("compute_90a", "sm_100", False),
        ("sm_100a", "sm_103", False),
        ("sm_100f", "sm_103", True),
        ("compute_100f", "sm_120", False),
        ("sm_90", "gfx90a", False),
        ("gfx90a", "sm_90", False),
        ("gfx90a", "", False),
    ],
)
def test_which_code_runs_where(target: str, arch: str, runs: bool) -> None:
    assert gpu_code.runs_on(GpuCode(vendor="", targets=(target,), raw=(), unreadable=""), arch) is runs


PIECES = st.one_of(
    st.sampled_from(
        [MAGIC, b"CCOB", struct.pack("<IHH", 0xBA55ED50, 1, 16), AMD_90A.encode(), bytes(64), bytes(4096), b"\xff" * 8]
    ),
    st.integers(0, 2**64 - 1).map(lambda number: struct.pack("<Q", number)),
    st.integers(0, 5).map(lambda number: struct.pack("<Q", number)),
    st.sampled_from(
        [bundle(HOST, (AMD_90A, b"x" * 99)), packed(bundle(HOST, (AMD_90A, b"x")), 2), fatbin((2, 90, b"x" * 9))]
    ),
    st.binary(max_size=40),
)


@given(st.lists(PIECES, max_size=12), st.sampled_from([b".hip_fatbin", b".nv_fatbin", b"__nv_relfatbin"]))
def test_strange_content_is_never_an_exception(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], name: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "strange.so"
    path.write_bytes(elf((name, b"".join(pieces)), (b".ldata", b"".join(pieces))))

    code = gpu_code.read(path)

    assert code is not None
    assert code.targets or code.unreadable or code.raw or not b"".join(pieces)


GOOD = elf(
    (b".hip_fatbin", padded(bundle(HOST, (AMD_90A, b"x" * 99)), packed(bundle(HOST, (AMD_908, b"x")), 3))),
    (b".ldata", fatbin((1, 80, b"ptx"))),
)


@given(
    st.lists(st.tuples(st.one_of(st.integers(0, 64), st.integers(4096, 5000), st.integers(len(GOOD) - 400, len(GOOD) - 1)), st.binary(min_size=1, max_size=8)), max_size=6),
    st.integers(0, len(GOOD)),
    st.sampled_from([b".hip_fatbin", b".nv_fatbin\0"]),
)  # fmt: skip
def test_damaged_files_are_never_an_exception(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, bytes]], end: int, name: bytes
) -> None:
    content = bytearray(GOOD.replace(b".hip_fatbin", name))
    for at, new in damage:
        content[at : at + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "damaged.so"
    for length in (end, len(content)):
        path.write_bytes(content[:length])

        code = gpu_code.read(path)

        assert code is None or code.targets or code.unreadable or code.raw


def test_other_files_have_none_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("gfx90a")
    (tmp_path / "empty").touch()

    assert gpu_code.read(tmp_path / "text") is None
    assert gpu_code.read(tmp_path / "empty") is None
    assert gpu_code.read(Path(sys.executable)) is None
    with pytest.raises(OSError, match="No such file"):
        gpu_code.read(tmp_path / "gone")


@pytest.mark.slow
def test_a_real_rocm_wheel(test_home: Path, tmp_path: Path) -> None:
    """tensorflow-rocm 2.14.0.600: 427 MB to download once, a library of 1.4 GB to read."""
    folder = test_home / "specimens"
    if not list(folder.glob("tensorflow_rocm-2.14.0.600-cp311-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--python-version=3.11"]
        command += ["--platform=manylinux2014_x86_64", "tensorflow-rocm==2.14.0.600", "-d", str(folder)]
        subprocess.run(command, check=True, timeout=1200)
    (wheel,) = folder.glob("tensorflow_rocm-2.14.0.600-cp311-*.whl")
    library = Path(zipfile.ZipFile(wheel).extract("tensorflow/libtensorflow_cc.so.2", tmp_path))
    try:
        code = gpu_code.read(library)
    finally:
        library.unlink()

    assert code is not None
    assert (code.vendor, code.unreadable) == ("amd", "")
    assert set(code.targets) == {"gfx900", "gfx906", "gfx908", "gfx90a", "gfx1030", "gfx1100"}
    assert gpu_code.runs_on(code, "gfx90a")
    assert not gpu_code.runs_on(code, "gfx942")
