"""The device, the precision it computes in, cuDNN's choice of algorithms, and the versions that can change a result.

TensorFloat-32 stays at PyTorch's defaults: in float32 on CUDA, convolutions use it and matrix products do not. Under
bfloat16 only the losses stay in float32, and their precision matters more than their speed.
"""

import math
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import PIL
import skimage
import torch

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")  # Linux: of the machine, of the container
SHARED_MEMORY = Path("/dev/shm")
CPU_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}  # as Linux names them, the last one on Arm


def choose_device(name: str) -> torch.device:
    """The device of a name: "auto" (CUDA if there is one), "cuda" or "cpu". Raises ValueError if there is none."""
    if name not in ("auto", "cuda", "cpu"):
        raise ValueError(f"device must be auto, cuda or cpu, got '{name}'")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch sees no CUDA device; use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The autocast type of a name.

    Args:
        name: "float32", "bfloat16", or "auto": bfloat16 if the device has instructions for it, else float32. (Without
            them bfloat16 works, but ten times slower than float32.)
        device: where the network runs.
    """
    if name == "auto":
        has_bfloat16 = (
            torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bfloat16()
        )
        return torch.bfloat16 if has_bfloat16 else torch.float32
    if name not in ("float32", "bfloat16"):
        raise ValueError(f"precision must be auto, float32 or bfloat16, got '{name}'")
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Autocast to `dtype` on `device`; does nothing for float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


@contextmanager
def convolutions_tried_out(is_on: bool) -> Iterator[None]:
    """Let cuDNN try its algorithms on each new shape and keep the fastest, or not.

    This saves time for patches, which have one size, and costs time for validation images, which have many. It changes
    nothing on a CPU.
    """
    with _cudnn_set("benchmark", is_on):
        yield


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; False if the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = next(
        (line.split(":", 1)[1].split() for line in lines if line.lower().startswith(("flags", "features"))), []
    )
    return bool(CPU_BF16_FLAGS & set(flags))


@contextmanager
def exact_float32() -> Iterator[None]:
    """Let cuDNN compute float32 convolutions in float32, without TensorFloat-32. It changes nothing on a CPU."""
    with _cudnn_set("allow_tf32", False):
        yield


@contextmanager
def _cudnn_set(name: str, value: bool) -> Iterator[None]:
    """A setting of cuDNN within the block. torch's own `cudnn.flags` would reset all others."""
    before = getattr(torch.backends.cudnn, name)
    setattr(torch.backends.cudnn, name, value)
    try:
        yield
    finally:
        setattr(torch.backends.cudnn, name, before)


def usable_cores() -> int:
    """CPU cores that this process may use: those of the machine that its affinity and a container's quota leave."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return max(min(cores, math.ceil(int(quota) / int(period))), 1)
    except (OSError, ValueError):  # no container, another kind of it, or "max": no quota
        return cores


def shared_memory() -> float:
    """Bytes free in /dev/shm, through which loader workers hand over their batches; inf if there is no such folder."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return math.inf


def device_name(device: torch.device) -> str:
    """A GPU's model, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def library_versions() -> dict[str, str]:
    """All libraries that a training or a benchmark depends on, and Python."""
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def hardware(device: torch.device) -> dict[str, str | int]:
    """The machine: processor, cores, threads, memory; and the GPU, if the device is one."""
    machine = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": _all_memory(),
        "gpu": "none",
    }
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        machine |= {"gpu": gpu.name, "gpu_memory": f"{gpu.total_memory / 2**30:.0f} GiB"}
    return machine


def _all_memory() -> str:
    if not hasattr(os, "sysconf"):  # Windows
        return "unknown"
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def versions() -> dict[str, str]:
    """The libraries whose versions can move a score: the codec, the metrics, the networks."""
    found = {
        "pillow": PIL.__version__,
        "numpy": np.__version__,
        "scikit_image": skimage.__version__,
        "torch": torch.__version__,
    }
    for name in ("spandrel", "lpips", "torch_fidelity"):  # other systems' networks, Table 2; the rest runs without them
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def cpu_model() -> str:
    """The processor's name, from Linux if possible, else from Python."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has had so far: of tensors on a GPU, else of the host's memory."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else host_bytes("VmHWM")


def host_bytes(name: str) -> int:
    """ "VmRSS", what this process holds now, or "VmHWM", its peak; 0 where the system does not tell as Linux does."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def memory_limit(device: torch.device) -> float:
    """Bytes of memory that this process can have in all: on a GPU, or of the host."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return host_bytes("VmRSS") + free_memory()


def free_memory() -> float:
    """Bytes of memory that this process can still get. Infinite where Linux's files about memory are missing."""
    free = math.inf
    if MEMINFO.is_file():
        kibibytes = dict(line.split()[:2] for line in MEMINFO.read_text().splitlines())
        free = 1024 * (int(kibibytes["MemAvailable:"]) + int(kibibytes["SwapFree:"]))
    if (CGROUP / "memory.max").is_file() and (limit := (CGROUP / "memory.max").read_text().strip()) != "max":
        used = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        taken = int((CGROUP / "memory.current").read_text()) - int(used["inactive_file"])  # the latter is given back
        free = min(free, int(limit) - taken)
    return free
