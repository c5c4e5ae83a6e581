"""The hardware and the versions that a figure was measured on."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

BF16_FLAGS = ("avx512_bf16", "amx_bf16")  # without either, PyTorch emulates bf16 products
# Dense bf16 products of tensor cores, by the makers' data sheets, in TFLOP/s.
GPU_BF16_PEAKS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121}
PACKAGES = ("torch", "ray", "av", "numpy", "zarr")


def has_bf16() -> bool:
    return any(flag in _cpu_flags() for flag in BF16_FLAGS)


def bf16_peak(device: torch.device) -> float | None:
    """Return FLOP a second of a GPU; none for a CPU or a GPU that is not in the table."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((1e12 * peak for model, peak in GPU_BF16_PEAKS.items() if model in name), None)


def describe() -> str:
    """Return CPU, flags, cores, memory and versions as one line."""
    flags = [flag if flag in _cpu_flags() else f"no {flag}" for flag in ("avx512f", *BF16_FLAGS)]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"{name} {version(name)}" for name in PACKAGES]
    parts = [
        _cpuinfo().get("model name", platform.machine()),
        *flags,
        f"{os.cpu_count()} cores",
        f"{memory:.0f} GiB",
        f"Python {platform.python_version()}",
        *versions,
    ]
    return ", ".join(parts)


def _cpu_flags() -> list[str]:
    return _cpuinfo().get("flags", "").split()


@cache
def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    lines = path.read_text().split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
