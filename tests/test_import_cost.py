"""What imports cost the host: counted from strace's lines, and for real in a tree and in the same tree packed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from breaking import copied
from test_pack import needs_fuse, pack, run

from envbuilder import cli, import_cost
from envbuilder.import_cost import Calls

HOST = """\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
22 21 0:21 / /proc rw - proc proc rw
23 21 0:40 / /lustre\\040one rw - lustre mds:/one rw
24 21 0:50 / /tmp rw - tmpfs tmpfs rw
"""
IMAGE = """\
221 192 0:60 / / rw - overlay overlay rw,lowerdir=/x
230 221 0:21 / /proc rw - proc proc rw
247 221 254:0 /root /root rw master:1 - ext4 /dev/vda rw
"""
# as strace 6.1 writes it with -f -y: apptainer's own start, its server of the image, the command, a thread of it
TRACE = """\
10  execve("/usr/bin/apptainer", ["apptainer"], 0x7ffe /* 9 vars */) = 0
10  openat(AT_FDCWD</root>, "/etc/apptainer/apptainer.conf", O_RDONLY) = 3</etc/apptainer/apptainer.conf>
10  openat(AT_FDCWD</root>, "/proc/self/mountinfo", O_RDONLY) = 3
11  openat(AT_FDCWD</root>, "/images/i.sif", O_RDONLY <unfinished ...>
10  newfstatat(3</etc/apptainer/apptainer.conf>, "", {st_mode=S_IFREG|0644}, AT_EMPTY_PATH) = 0
10  execve("/opt/env/bin/python", ["python"], 0x7ffe /* 9 vars */ <unfinished ...>
11  openat(AT_FDCWD</>, "/images/i.sif", O_RDONLY) = 4</images/i.sif>
10  <... execve resumed>) = 0
10  openat(AT_FDCWD</root>, "/opt/env/lib/a.pyc", O_RDONLY) = 3</opt/env/lib/a.pyc>
10  newfstatat(AT_FDCWD</root>, "work/a.py", 0x7ffe, 0) = -1 ENOENT (No such file or directory)
12  readlink("/opt/env/bin/python", "python3", 4096) = 7
12  openat(5</root/work>, "b.py", O_RDONLY) = -1 ENOENT (No such file or directory)
10  openat(AT_FDCWD</root>, "/proc/self/maps", O_RDONLY) = 3</proc/10/maps>
"""


def test_calls_are_told_apart_by_the_mount_that_they_reach() -> None:
    host, inside = import_cost.mounts(HOST), import_cost.mounts(IMAGE)
    assert host["/lustre one"] == "lustre"

    before, after = import_cost.counted(TRACE.splitlines(), "/opt/env/bin/python", host, inside)

    # the server of the image still belongs to what was there before
    assert before == Calls(opens=4, asks=0, host_opens=3, host_asks=0)
    assert after == Calls(opens=3, asks=2, host_opens=1, host_asks=1)


@pytest.mark.parametrize(
    ("path", "mounted", "on_host"),
    [
        ("/usr/lib/x", False, True),
        ("/lustre one/env/lib/x", False, True),
        ("/proc/1/maps", False, False),
        ("/tmp/x", False, False),
    ],
)
def test_memory_is_no_disk(path: str, mounted: bool, on_host: bool) -> None:
    assert import_cost.on_host(path, import_cost.mounts(HOST), mounted=mounted) is on_host


def test_an_overlay_is_an_image_only_inside() -> None:
    table = import_cost.mounts(IMAGE)

    assert not import_cost.on_host("/usr/lib/x", table, mounted=True)
    assert import_cost.on_host("/usr/lib/x", table, mounted=False)  # the root of a machine that is a container itself


def test_a_rate_is_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["import-cost", "e", "--rate", "many"]) == 2
    assert "'many' is not a number" in capsys.readouterr().err


@pytest.mark.real
@needs_fuse
@pytest.mark.skipif(not shutil.which("strace"), reason="lacking packages: strace")
def test_a_packed_tree_asks_the_host_for_none_of_its_files(mpi4py_env: Path, tmp_path: Path) -> None:
    one = copied(mpi4py_env, tmp_path / "store")
    made = pack(one, "--compression", "lz4")

    done = run(one.home, "import-cost", one.identifier, made["identifier"], "--json", "--rate", "1000")
    people = run(one.home, "import-cost", one.identifier, made["identifier"], "--rate", "1000")

    assert done.returncode == 0, done.stderr
    tree, packed = json.loads(done.stdout)["environments"]
    assert (tree["form"], packed["form"]) == ("tree", "packed")
    assert tree["starting"]["host_opens"] == 0
    assert packed["starting"]["host_opens"] > 0
    # both import the same; the interpreter's own library is the host's in either form
    assert 0 < packed["importing"]["host_opens"] < tree["importing"]["host_opens"]
    assert packed["importing"]["opens"] >= packed["importing"]["host_opens"]
    assert "4096" in people.stdout
