"""The app as a reader meets it: started by `streamlit run`, in a real browser."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from tiny_runs import make_run

from osteo_utils import NOTICE
from osteo_utils.data.images import fit_square
from osteo_utils.formats.films import decode
from osteo_utils.networks.saved import load_model

ROOT = Path(__file__).resolve().parents[2]


def png(seed):
    buffer = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 48), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("app") / "runs", "custom_cnn", 32)


@pytest.fixture(scope="module")
def app(run, tmp_path_factory):
    """Where the app answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "interface/app.py")]
    command += ["--server.headless", "true", "--server.port", str(port)]
    environment = os.environ | {"OSTEO_RUNS": str(run.folder.parents[3])}
    elsewhere = tmp_path_factory.mktemp("elsewhere")  # the settings lie beside the script
    log = elsewhere / "streamlit.txt"
    with log.open("w") as told:
        process = subprocess.Popen(
            command, cwd=elsewhere, env=environment, stdout=told, stderr=told
        )
    try:
        wait_for(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def wait_for(url, process, log):
    for _ in range(240):
        try:
            return urllib.request.urlopen(f"{url}/_stcore/health", timeout=5)
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None, log.read_text()
            time.sleep(0.25)
    return pytest.fail(log.read_text())


def test_no_other_machine_is_answered(app):
    port = int(app.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    with pytest.raises(OSError, match=r"refused|unreachable|timed out|assign"):
        socket.create_connection(("127.0.0.2", port), timeout=5)  # answered by 0.0.0.0 alone


def test_films_through_the_input_get_the_answers_of_keras(app, run, visit):
    opened = visit(app)
    page = opened.page
    page.set_default_timeout(240_000)  # in a fresh environment TensorFlow is compiled first
    page.get_by_text("Drop radiographs above").wait_for()
    files = [("a.png", png(0)), ("b.png", png(1)), ("bad.png", b"nothing")]
    payload = [{"name": n, "mimeType": "image/png", "buffer": data} for n, data in files]
    page.locator("input[type=file]").set_input_files(payload)
    page.get_by_text("History of this session").wait_for()
    # The app draws piece by piece, and loads the code of some pieces when they first appear.
    expect(page.get_by_role("alert").filter(has_text="bad.png")).to_have_count(1, timeout=60_000)

    answered = page.locator("table.osteo-bars").filter(has_text="calibrated")
    expect(answered).to_have_count(2, timeout=60_000)
    x = np.stack([fit_square(decode(png(seed)), 32) for seed in (0, 1)])[..., None]
    shown = [
        [float(row.locator("td").last.inner_text()) for row in table.locator("tbody tr").all()]
        for table in answered.all()
    ]
    np.testing.assert_allclose(shown, load_model(run).predict(x, verbose=0), atol=6e-4)

    images = page.get_by_role("img").filter(visible=True)
    expect(images.and_(page.locator("[alt*='Grad-CAM for']"))).to_have_count(2, timeout=60_000)
    notice = page.get_by_role("note").filter(has_text=NOTICE)
    page.locator("[data-testid=stMain]").evaluate("main => main.scrollTo(0, main.scrollHeight)")
    box = notice.bounding_box()
    assert box["y"] + box["height"] == pytest.approx(900, abs=1)  # at the foot, wherever one is

    with page.expect_download() as download:
        page.get_by_role("button", name="Download the report").first.click()
    report = Path(download.value.path()).read_text()
    assert download.value.suggested_filename.startswith("knee-report-")
    assert f"{shown[0][0]:.3f}" in report
    assert opened.foreign == []
    assert opened.complaints == []


def test_on_a_phone_nothing_is_cut_off(app, visit):
    opened = visit(app, {"width": 390, "height": 800}, "dark")
    page = opened.page
    page.get_by_role("button", name="T-score -1.7").click()
    page.get_by_text("History of this session").wait_for()
    main = page.locator("[data-testid=stMain]")
    assert main.evaluate("main => main.scrollWidth - main.clientWidth") <= 1
    table = page.locator("table.osteo-bars").first
    assert table.evaluate("t => t.getBoundingClientRect().right") <= 390
    assert opened.foreign == []
    assert opened.complaints == []
