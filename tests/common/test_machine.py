"""Choosing the device, and bfloat16 or float32."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import spandrel
import torch

from common import machine
from common.machine import (
    autocast,
    choose_device,
    choose_precision,
    convolutions_tried_out,
    cpu_has_bfloat16,
    exact_float32,
    hardware,
    shared_memory,
    usable_cores,
    versions,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("has_cuda", [True, False])
def test_devices_have_names(has_cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type == ("cuda" if has_cuda else "cpu")
    with pytest.raises(ValueError, match="device must be auto, cuda or cpu, got 'tpu'"):
        choose_device("tpu")


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device cuda was asked for, .* use auto or cpu"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n", False),
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("Features\t: fp asimd\n", False),
        ("", False),
    ],
)
def test_bfloat16_is_read_from_the_cpu_flags(cpuinfo: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: cpuinfo)
    assert cpu_has_bfloat16() is expected
    assert choose_precision("auto", CPU) == (torch.bfloat16 if expected else torch.float32)


def test_without_cpu_information_float32_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert choose_precision("auto", CPU) == torch.float32


def test_a_named_precision_is_taken_and_another_refused() -> None:
    assert choose_precision("bfloat16", CPU) == torch.bfloat16
    assert choose_precision("float32", CPU) == torch.float32
    with pytest.raises(ValueError, match="precision must be auto, float32 or bfloat16, got 'half'"):
        choose_precision("half", CPU)


def test_autocast_computes_in_the_chosen_type() -> None:
    x = torch.randn(4, 4)
    for dtype in (torch.float32, torch.bfloat16):
        with autocast(CPU, dtype):
            assert (x @ x).dtype == dtype


def test_algorithms_are_tried_out_where_asked_for_and_nowhere_else() -> None:
    assert not torch.backends.cudnn.benchmark
    with convolutions_tried_out(True):
        with convolutions_tried_out(False):
            assert not torch.backends.cudnn.benchmark
        assert torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.benchmark


def test_float32_is_exact_within_and_as_before_behind() -> None:
    before = torch.backends.cudnn.allow_tf32
    with pytest.raises(RuntimeError), exact_float32():
        assert not torch.backends.cudnn.allow_tf32
        raise RuntimeError
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("250000 100000", 3), ("1000 100000", 1), ("1600000 100000", 8), ("", 8), (None, 8)],
)
def test_a_quota_and_an_affinity_leave_fewer_cores(
    quota: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert usable_cores() == expected


def test_shared_memory_without_a_folder_for_it_has_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path)
    assert 0 < shared_memory() < math.inf
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path / "none")
    assert shared_memory() == math.inf


def test_the_memory_is_told_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware(CPU)["memory"].endswith(" GiB")
    monkeypatch.delattr(os, "sysconf")  # Windows has none
    assert hardware(CPU)["memory"] == "unknown"


def test_scores_name_the_library_that_computes_them() -> None:
    assert versions()["numpy"] == np.__version__
    assert versions()["spandrel"] == spandrel.__version__  # its networks' scores follow it
