"""Half precision where the hardware has it, on GPUs and on CPUs with bf16 instructions; cuDNN's choice of algorithms.

TensorFloat-32 stays as PyTorch has it: in float32 on CUDA, convolutions use it and matrix products do not. Under
bfloat16 next to nothing is left in float32 that could gain from it: the losses, whose digits are worth more.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

CPU_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}  # as Linux names them, the last one on Arm


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The autocast type of a name.

    Args:
        name: "float32", "bfloat16", or "auto": bfloat16 where the device has instructions for it, float32 elsewhere
            (bfloat16 without them runs, ten times slower than float32).
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
    """Whether cuDNN tries its algorithms on each new shape and keeps the fastest.

    That pays for patches, all of one size, and costs time for validation images, of many. Nothing changes on a CPU.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = is_on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; False where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = next(
        (line.split(":", 1)[1].split() for line in lines if line.lower().startswith(("flags", "features"))), []
    )
    return bool(CPU_BF16_FLAGS & set(flags))
