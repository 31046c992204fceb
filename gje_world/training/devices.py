"""Where a run computes and in which precision, and how its memory and threads are kept."""

from __future__ import annotations

import ctypes
import logging
import re
from enum import Enum
from pathlib import Path

import torch

logger = logging.getLogger(__name__)


class Precision(Enum):
    """What networks compute in; `auto` is bfloat16 where the hardware has it."""

    auto = "auto"
    bfloat16 = "bfloat16"
    float32 = "float32"


# glibc's mallopt(3) parameters
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def available_devices() -> list[str]:
    """The devices of this machine by the names torch has for them, the CPU last."""
    names = (
        [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" takes the first GPU, or the CPU where there is none.

    Raises:
        ValueError: this machine has no such device; the message lists those it has.
    """
    available = available_devices()
    if name == "auto":
        return torch.device(available[0])
    if name in available or f"{name}:0" in available:
        return torch.device(name)
    raise ValueError(f"device={name!r} is not on this machine; choose auto or one of {', '.join(available)}")


def autocast_dtype(device: torch.device, precision: str = "auto") -> torch.dtype:
    """The dtype to autocast to; float32 means no autocast.

    "auto" takes bfloat16 where the hardware computes in it (CUDA from Ampere on; CPUs with AVX512-BF16, AMX
    or Arm's bf16), for elsewhere it is emulated and slower than float32.

    Raises:
        ValueError: `precision` is none of "auto", "bfloat16", "float32".
    """
    if precision == "float32":
        return torch.float32
    if precision == "bfloat16":
        return torch.bfloat16
    if precision != "auto":
        raise ValueError(f"precision={precision!r} is unknown; choose auto, bfloat16 or float32")
    if device.type == "cuda":
        with torch.cuda.device(device):
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and _cpu_has_bfloat16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Read from the kernel: torch tells it in other ways from one version to the next. False off Linux."""
    if not cpuinfo.exists():
        return False
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    return flags is not None and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags[1].split())


def set_threads(threads: int | None) -> int:
    """Sets how many threads torch computes with on the CPU (None: as it is) and gives the number used."""
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def keep_freed_memory() -> bool:
    """Makes the C allocator keep what is freed for its next use, and says whether it could.

    By default glibc maps every large tensor afresh and unmaps it when freed, so each update pays for zeroed
    pages again. Never mapping and never trimming took an update of a convolutional encoder (512 images, one
    core) from 68,000 page faults and 135 ms of system time to 2,000 and 20 ms, at the same resident memory.
    A larger mmap threshold alone did less than half as well. Call once, before the first large allocation.

    Other C libraries are left as they are.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        logger.debug("the C library is not glibc: its allocator stays as it is")
        return False
    never = 2**31 - 1  # the largest value of mallopt's int
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, never))
