"""What computes here, and how precisely it can."""

import subprocess
from pathlib import Path
from typing import Final

import keras

_BFLOAT16_FROM: Final = 8.0  # compute capability of the first NVIDIA GPUs with bfloat16 units


def has_bfloat16() -> bool:
    """Whether what computes here has units for bfloat16.

    Returns:
        True of a processor that says so where there is no GPU, and of NVIDIA GPUs that all do.
    """
    if not gpus():
        return "avx512_bf16" in _cpu_flags()
    capabilities = _compute_capabilities()
    return bool(capabilities) and min(capabilities) >= _BFLOAT16_FROM


def _cpu_flags() -> set[str]:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def gpus() -> list[str]:
    """The GPUs that Keras' backend uses.

    Returns:
        Their names.
    """
    try:
        return list(keras.distribution.list_devices("gpu"))
    except RuntimeError:  # JAX where there is none
        return []


def _compute_capabilities() -> list[float]:
    """Of each NVIDIA GPU, by its driver, whichever backend uses it; none where that cannot say."""
    ask = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        told = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=30).stdout
        return [float(line) for line in told.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
