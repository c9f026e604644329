"""What the machine says of itself."""

import keras

from osteo_utils import hardware


def test_the_driver_tells_the_compute_capability(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 7.5\necho 9.0\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware._compute_capabilities() == [7.5, 9.0]
    tool.write_text("#!/bin/sh\necho 'Field compute_cap is not valid'\n")
    assert hardware._compute_capabilities() == []
    tool.unlink()
    assert hardware._compute_capabilities() == []


def test_a_backend_that_raises_without_a_gpu_has_none(monkeypatch):
    def raises(kind):
        raise RuntimeError("Unknown backend: 'gpu' requested")

    monkeypatch.setattr(keras.distribution, "list_devices", raises)
    assert hardware.gpus() == []
