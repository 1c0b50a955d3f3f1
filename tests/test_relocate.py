"""The tool that makes a tree which Spack copied stand for itself, on made-up trees and on a real ELF object."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import envbuilder
from envbuilder import elf

TOOL = Path(envbuilder.__file__).parent / "workshop" / "relocate.py"


def relocated(tree: Path, *prefixes: Path) -> subprocess.CompletedProcess[str]:
    question = tree.parent / "relocate.json"
    question.write_text(json.dumps({"tree": str(tree), "prefixes": [str(one) for one in prefixes]}))
    return subprocess.run([sys.executable, "-I", TOOL, question], capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "t" / "bin").mkdir(parents=True)
    return tmp_path / "t"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "opt" / "linux-zen2" / f"py-one-1.0-{'a' * 32}"


def test_paths_are_replaced_and_everything_stays_as_long_as_it_was(tree: Path, kept: Path) -> None:
    other = kept.with_name(f"two-2.0-{'b' * 32}")
    script, binary = tree / "bin" / "tool", tree / "data.bin"
    script.write_text(f"#!{kept}/bin/python\nprint('{other}')\n")
    binary.write_bytes(b"\x00\xff" + os.fsencode(kept) + b"/lib:" + os.fsencode(other) + b"/lib\x00tail")
    script.chmod(0o555)
    os.utime(script, ns=(1, 2_000_000_000))
    length = binary.stat().st_size

    done = relocated(tree, kept, other)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = script.read_text().splitlines()
    assert first.startswith(f"#!{tree}//")
    assert os.path.normpath(first[2:]) == f"{tree}/bin/python"
    assert os.path.normpath(second[7:-2]) == str(tree)
    assert binary.stat().st_size == length
    assert binary.read_bytes().endswith(b"/lib\x00tail")
    assert str(kept.parent).encode() not in binary.read_bytes()
    assert (script.stat().st_mode & 0o777, script.stat().st_mtime_ns) == (0o555, 2_000_000_000)


def test_links_into_the_packages_lead_into_the_tree_and_others_stay(tree: Path, kept: Path) -> None:
    (tree / "lib").symlink_to(kept / "lib64")
    (tree / "bin" / "python3").symlink_to("/usr/bin/python3")
    (tree / "bin" / "python").symlink_to("python3")

    assert relocated(tree, kept).returncode == 0
    assert os.readlink(tree / "lib") == f"{tree}/lib64"
    assert os.readlink(tree / "bin" / "python3") == "/usr/bin/python3"
    assert os.readlink(tree / "bin" / "python") == "python3"


def test_spacks_notes_of_the_user_are_left_out_and_what_was_built_is_not(tree: Path, kept: Path) -> None:
    notes = tree / ".spack" / "py-one"
    (notes / "repos" / "builtin").mkdir(parents=True)
    (notes / "repos" / "builtin" / "package.py").write_text("")
    (notes / "spack-build-env.txt").write_text("TOKEN=secret")
    (notes / "spec.json").write_text(json.dumps({"prefix": str(kept)}))

    assert relocated(tree, kept).returncode == 0
    assert [path.name for path in notes.iterdir()] == ["spec.json"]
    assert json.loads((notes / "spec.json").read_text()) == {"prefix": str(kept)}


def test_a_tree_with_a_longer_path_is_refused_before_anything_is_changed(tree: Path) -> None:
    script = tree / "bin" / "tool"
    script.write_text("#!/o/bin/python\n")
    done = relocated(tree, Path("/o"))

    assert done.returncode == 3
    assert done.stdout == f"the path of the tree is {len(str(tree)) - 2} bytes too long to stand in the place of /o\n"
    assert script.read_text() == "#!/o/bin/python\n"


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler here, to make an ELF object")
def test_a_library_is_found_where_the_tree_is(tree: Path, kept: Path) -> None:
    """The search path of a real object led to the package; its library is only in the tree."""
    (kept / "lib").mkdir(parents=True)
    (tree / "lib").mkdir()
    one, two = kept / "lib" / "libone.so", tree / "bin" / "two"
    (tree / "one.c").write_text("int one(void) { return 7; }\n")
    (tree / "two.c").write_text("int one(void);\nint main(void) { return one(); }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", one, tree / "one.c"], check=True)
    rpath = f"-Wl,-rpath,{kept}/lib"
    subprocess.run(["cc", "-o", two, tree / "two.c", f"-L{kept}/lib", "-lone", rpath], check=True)
    shutil.move(one, tree / "lib" / "libone.so")

    assert subprocess.run([two], capture_output=True, check=False).returncode == 127
    assert relocated(tree, kept).returncode == 0
    assert subprocess.run([two], capture_output=True, check=False).returncode == 7
    facts = elf.read(two)
    assert facts is not None
    assert [os.path.normpath(path) for path in (*facts.rpath, *facts.runpath)] == [f"{tree}/lib"]
