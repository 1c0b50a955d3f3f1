from __future__ import annotations

import os
from pathlib import Path

import pytest

from envbuilder.probes import onednn

V2 = "onednn_verbose,exec,cpu,convolution,brgconv:avx512_core,forward_training,src_f32::blocked:acdb:f0,,,mb8_ic4oc8,0.15"
V3 = "onednn_verbose,v1,primitive,exec,cpu,inner_product,x64:gemm:jit,forward_training,src:f32::blocked:ab::f0,,,mb8,31.6"
V30 = "onednn_verbose,primitive,exec,cpu,matmul,gemm:jit,undef,src_f32,,,8x4:4x8,0.5"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (V2, "convolution"),
        (V3, "inner_product"),
        (V30, "matmul"),
        (V2.replace("exec,", "1700000000.25,exec,"), "convolution"),
        (V3.replace("v1,", "v1,1700000000.25,"), "inner_product"),
        (V2.replace("onednn_verbose", "dnnl_verbose"), "convolution"),
        ("onednn_verbose,exec,cpu,gemm_api,,undef,src_f32::blocked:ba:f0,,,128x8:8x4,0.025", "gemm_api"),
    ],
)
def test_executions(line: str, kind: str) -> None:
    told = onednn.executed(line)

    assert told is not None
    assert told[0] == kind
    assert told[2] > 0


@pytest.mark.parametrize(
    "line",
    [
        "onednn_verbose,info,prim_template:operation,engine,primitive,implementation,prop_kind,memory_descriptors,exec_time",
        "onednn_verbose,v1,info,template:operation,exec,engine,primitive,implementation,prop_kind,memory,exec_time",
        V2.replace("exec", "create:cache_miss"),
        V3.replace("exec", "create:cache_hit"),
        V3.replace("primitive,exec", "graph,exec"),
        V3.replace("primitive,exec", "ukernel,exec"),
        V3.replace("exec", "exec:check"),
        V2.rpartition(",")[0] + ",not a time",
        "onednn_verbose,exec",
        "a line of the framework, exec, cpu, convolution, 1.0",
        "",
    ],
)
def test_lines_that_report_no_execution(line: str) -> None:
    assert onednn.executed(line) is None


def test_a_log_is_counted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"{V2}\n{V2}\n{V3}\nsomething else")

    facts = onednn.counted(str(log))

    assert {kind: entry["count"] for kind, entry in facts["primitives"].items()} == {
        "convolution": 2,
        "inner_product": 1,
    }
    assert facts["lines"] == 3
    assert facts["milliseconds"] == pytest.approx(31.9)


def test_no_log_is_no_execution(tmp_path: Path) -> None:
    assert onednn.counted(str(tmp_path / "none"))["primitives"] == {}


def test_stdout_of_the_process_goes_to_the_file_meanwhile(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with onednn.stdout_in(str(tmp_path / "log")):
        os.write(1, b"inside\n")
    os.write(1, b"outside\n")

    assert (tmp_path / "log").read_text() == "inside\n"
    assert capfd.readouterr().out == "outside\n"
