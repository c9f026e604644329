"""Architectures of a few layers, for tests that train or build one."""

from typing import Any

import pytest

from osteo_utils import registry
from osteo_utils.networks import models
from osteo_utils.registry import Architecture


def register(
    monkeypatch: pytest.MonkeyPatch,
    backbone: Any,
    name: str = "tiny",
    last_conv: str = "conv2d",
    **facts: Any,
) -> None:
    """Let the registry know a backbone, for 32 px of grey, until the end of the test."""
    size = {"channels": 1, "native_size": 32, "min_size": 8}
    paper = {"learning_rate": 1e-2, "year": 2026, "paper": "nobody"}
    known = Architecture(name, name.title(), "0..1", last_conv=last_conv, **size, **paper, **facts)
    monkeypatch.setitem(registry.ARCHITECTURES, name, known)
    monkeypatch.setitem(models.BACKBONES, name, backbone)
