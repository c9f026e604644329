"""The page that classifies a reader's film: the same answers as Keras, whatever is put into it."""

import base64
import io
import json

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image
from smoke import ROOT
from test_book import AXE, NARROW, TAGS
from tiny_films import encoded
from unit.test_images import GREY_IMAGE, UPRIGHT, exif_block, png_with_late_exif, small_png

from osteo_utils.data.images import fit_square
from osteo_utils.data.novelty import Novelty
from osteo_utils.formats.films import decode
from osteo_utils.networks.saved import load_model
from osteo_utils.runs import read_run
from osteo_utils.saliency.gradcam import grad_cam, resized

PAGE = "notebooks/try_your_own.html"
RUNS = ROOT / "runs/simulated/smoke"
TYPES = {"png": "image/png", "webp": "image/webp", "jpg": "image/jpeg"}
LISTEN = """() => {
  window.answers = [];
  const plain = (e) => ({ ...e.detail, maps: e.detail.maps.map((map) => [...map]) });
  document.getElementById("try-it").addEventListener("classified", (e) => answers.push(plain(e)));
}"""


@pytest.fixture(scope="module")
def index(html):
    return json.loads((html / "_static/models/index.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def networks(index):
    """The Keras models that the page offers, in its order, read from their run folders."""
    return [load_model(read_run(RUNS / facts["name"] / "seed0")) for facts in index["models"]]


@pytest.fixture(scope="module")
def phantoms(html, index):
    """The example films as bytes."""
    folder = html / "_static/models"
    return {each["file"]: (folder / each["file"]).read_bytes() for each in index["examples"]}


class Tool:
    """The opened page, with all that was asked of the server since."""

    def __init__(self, seen):
        self.seen, self.page = seen, seen.page
        self.frame = seen.page.locator("#try-it")
        self.status = self.frame.locator("[role=status]")
        self.frame.locator("select").first.wait_for()
        self.sent = []
        seen.page.on("request", lambda request: self.sent.append((request.method, request.url)))
        seen.page.evaluate(LISTEN)

    def give(self, name, data):
        kind = TYPES.get(name.rpartition(".")[2], "image/png")
        file = {"name": name, "mimeType": kind, "buffer": data}
        self.frame.get_by_label("Your radiograph").set_input_files(file)

    def answer(self, number=1):
        self.page.wait_for_function("number => answers.length >= number", arg=number)
        return self.page.evaluate("answers.at(-1)")

    def classify(self, name, data):
        before = self.page.evaluate("answers.length")
        self.give(name, data)
        return self.answer(before + 1)

    def choose(self, number):
        """Another network, and its answer to the film that lies there."""
        before = self.page.evaluate("answers.length")
        self.frame.get_by_label("Network").select_option(index=number)
        if number:
            self.answer(before + 1)

    def pixels(self):
        data = self.frame.locator(".film canvas").evaluate("c => c.toDataURL('image/png')")
        picture = Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2])))
        return np.asarray(picture.convert("RGB"), dtype=int)


@pytest.fixture
def tool(server, visit):
    def opened(**options):
        return Tool(visit(f"{server}/{PAGE}", **options))

    return opened


def variants(phantom):
    """One film in the ways in which people keep films."""
    film = Image.open(io.BytesIO(phantom))
    tall = film.resize((300, 437))
    colour = Image.merge("RGB", [tall, tall.rotate(2), tall.rotate(-2)])
    clear = colour.convert("RGBA")
    clear.putalpha(tall.rotate(180))
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "colour.png": encoded(colour, "PNG"),
        "clear.png": encoded(clear, "PNG"),
        "palette.png": encoded(colour.quantize(64), "PNG"),
        "colour.jpg": encoded(colour, "JPEG", quality=80),
        "turned.jpg": encoded(colour, "JPEG", exif=turned),
        "progressive.jpg": encoded(tall, "JPEG", progressive=True),
        "lossless.webp": encoded(colour, "WEBP", lossless=True),
        "lossy.webp": encoded(tall, "WEBP", quality=85),
        "tiny.png": encoded(film.resize((31, 20)), "PNG"),
    }


def assert_equal_to_keras(tool, files, network, facts):
    """Probabilities within 1e-3 and heatmaps within 1e-3 of their maximum, on differing films."""
    answers = [tool.classify(name, data) for name, data in files.items()]
    squares = [fit_square(decode(data, name), facts["image_size"]) for name, data in files.items()]
    films = np.array(squares)[..., None]
    wanted = network.predict(films, verbose=0)
    found = np.array([answer["probabilities"] for answer in answers])
    assert np.ptp(wanted, axis=0).max() > 5e-3
    assert np.abs(found - wanted).max() < 1e-3
    for label in range(len(wanted[0])):
        maps = grad_cam(network, films, target=label, flat="nan")
        drawn = np.reshape([answer["maps"][label] for answer in answers], maps.shape)
        for here, there in zip(drawn, maps, strict=True):
            if np.isfinite(there).all():
                assert np.abs(here - there).max() < 1e-3 * there.max()
    return answers, squares


def test_page_offers_networks_with_their_scores(tool, index):
    page = tool()
    options = page.frame.get_by_label("Network").locator("option").all_inner_texts()
    assert len(options) == len(index["models"]) >= 1
    for text, facts in zip(options, index["models"], strict=True):
        assert facts["title"] in text
        assert f"{facts['balanced_accuracy']['value']:.2f}" in text
    for title in index["left_out"]:
        assert page.frame.get_by_text(f"{title} is not offered").count() == 1
    assert page.frame.get_by_text("Nothing is uploaded").count() == 1


def test_films_through_the_file_input_give_what_keras_gives(tool, index, networks, phantoms):
    files = phantoms | variants(next(iter(phantoms.values())))
    page = tool()
    for i, (facts, network) in enumerate(zip(index["models"], networks, strict=True)):
        page.choose(i)
        answers, squares = assert_equal_to_keras(page, files, network, facts)
        assert [answer["square"] for answer in map(listed, answers)] == [
            square.ravel().tolist() for square in squares
        ]
        kept = facts["novelty"]
        known = Novelty(np.array(kept["mean"]), np.array(kept["precision"]), kept["threshold"])
        distances = [answer["distance"] for answer in answers]
        assert distances == pytest.approx(known.score(squares).tolist(), rel=1e-9)
    assert page.seen.complaints == []
    assert page.seen.foreign == []
    assert {method for method, _ in page.sent} == {"GET"}  # nothing is uploaded


READ = """async ([code, data]) => {
  const { readPicture } = await import(code);
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const { width, height, grey } = await readPicture(new Blob([bytes]));
  return { width, height, grey: [...grey] };
}"""


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_page_turns_a_picture_exactly_where_python_does(tool, server):
    page = tool()
    files = UPRIGHT | {
        f"orientation {value} {magic}": encoded(
            GREY_IMAGE, "JPEG", exif=exif_block(value, magic=magic)
        )
        for value in range(1, 9)
        for magic in (b"II*\0", b"MM\0*")
    }
    files |= {
        "PNG, EXIF": encoded(GREY_IMAGE, "PNG", exif=exif_block(6)),
        "PNG, EXIF behind the pixels": png_with_late_exif(exif_block(6)),
        "WebP, orientation 9": encoded(GREY_IMAGE, "WEBP", lossless=True, exif=exif_block(9)),
        "2 bits": small_png(2, b"\x1b", clear=2),
        "4 bits": small_png(4, b"\x5a", clear=5),
    }
    for kind, data in files.items():
        if kind.startswith("TIFF"):
            continue
        wanted = decode(data, kind)
        sent = [f"{server}/_static/js/try_it.js", base64.b64encode(data).decode()]
        seen = page.page.evaluate(READ, sent)
        assert (kind, seen["height"], seen["width"]) == (kind, *wanted.shape)
        assert (kind, seen["grey"]) == (kind, wanted.ravel().tolist())


def listed(answer):
    """A typed array arrives as an object of places."""
    square = answer["square"]
    values = list(square.values()) if isinstance(square, dict) else list(square)
    return answer | {"square": values}


def some_real(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.*"))[::40]}


def test_real_radiographs_give_what_keras_gives(tool, index, networks, real_knees):
    assert_equal_to_keras(tool(), some_real(real_knees), networks[0], index["models"][0])


def test_films_beyond_the_threshold_and_no_others_are_called_unlike(
    tool, index, phantoms, real_knees
):
    # Where it lies says nothing here: of a dozen films of validation one may be inverted.
    threshold = index["models"][0]["novelty"]["threshold"]
    noise = np.random.default_rng(0).integers(0, 256, (96, 96), np.uint8)
    files = {"noise.png": encoded(Image.fromarray(noise), "PNG")} | some_real(real_knees) | phantoms
    page, called = tool(), []
    for name, data in files.items():
        unlike = page.classify(name, data)["distance"] > threshold
        shown = page.frame.locator(".warning").all_inner_texts()
        assert [text.startswith(index["novelty_remark"]) for text in shown] == [True] * unlike
        assert (index["novelty_remark"] in page.status.inner_text()) == unlike
        called.append(unlike)
    assert called[0]
    assert not any(called[-len(phantoms) :])


def test_example_shows_words_numbers_and_its_truth(tool, index):
    page = tool()
    page.frame.get_by_role("button", name="Phantom 4").click()
    p = page.answer()["probabilities"]
    rows = page.frame.locator("tbody tr")
    texts = [row.split("\t") for row in rows.all_inner_texts()]
    assert [text[0] for text in texts] == index["class_names"]
    assert [float(text[1]) for text in texts] == pytest.approx(p, abs=5e-4)
    assert index["examples"][3]["label"] in page.status.inner_text()
    highest = index["class_names"][int(np.argmax(p))]
    assert f"gives {highest} the highest probability" in page.status.inner_text()
    assert f"{highest} comes first" in page.frame.locator(".remarks").inner_text()


def test_canvas_shows_the_map_of_the_chosen_class_on_the_shared_scale(tool, index):
    page = tool()
    page.frame.get_by_role("button", name="Phantom 1").click()
    answer = page.answer()
    maps = np.reshape(answer["maps"], (3, answer["height"], answer["width"]))
    opacity = page.frame.get_by_label("Opacity of the heatmap")
    opacity.press("Home")
    bare = page.pixels()
    assert (bare[..., 0] == bare[..., 1]).all()  # a grey film
    opacity.press("End")
    colours = colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
    shown = set()
    for label, name in enumerate(index["class_names"]):
        page.frame.get_by_label("Heatmap of", exact=True).select_option(name)
        painted = page.pixels()
        shown.add(painted.tobytes())
        if maps[label].max() > 0:
            levels = np.minimum(255, resized(maps[label][None], len(painted))[0] / maps.max() * 256)
            off = np.abs(painted - colours[levels.astype(int)]).max()
            assert off <= 12  # one step of the colours, where rounding decides
        else:
            assert np.array_equal(painted, bare)
        assert name in page.frame.locator(".film canvas").get_attribute("aria-label")
    assert len(shown) > 1


def test_keyboard_alone_reaches_an_answer_and_moves_the_heatmap(tool):
    page = tool()
    page.frame.get_by_label("Network").focus()
    for _ in range(12):
        page.page.keyboard.press("Tab")
        if "Phantom 2" in page.page.evaluate("document.activeElement.textContent"):
            break
    page.page.keyboard.press("Enter")
    page.answer()
    before = page.pixels()
    page.frame.get_by_label("Opacity of the heatmap").press("ArrowLeft")
    assert page.frame.get_by_text("45 %").count() == 1
    assert not np.array_equal(page.pixels(), before)


GIVE_BY_HAND = """([kind, data, padding]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes, new Uint8Array(padding)], "film.png", { type: "image/png" }));
  const options = { bubbles: true, cancelable: true };
  const target = kind === "paste" ? document.body : document.getElementById("try-it");
  target.dispatchEvent(kind === "paste"
    ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
    : new DragEvent("drop", { ...options, dataTransfer: transfer }));
}"""


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_film_can_be_pasted_or_dropped(tool, phantoms, kind):
    page = tool()
    name, data = next(iter(phantoms.items()))
    wanted = page.classify(name, data)["probabilities"]
    page.page.evaluate(GIVE_BY_HAND, [kind, base64.b64encode(data).decode(), 0])
    assert page.answer(2)["probabilities"] == wanted
    assert page.status.inner_text().startswith("film.png")


def test_file_that_is_too_heavy_is_not_even_read(tool, phantoms):
    page = tool()
    data = base64.b64encode(next(iter(phantoms.values()))).decode()
    page.page.evaluate(GIVE_BY_HAND, ["drop", data, 50_000_001])
    page.frame.locator(".status.refused").filter(has_text="too large").wait_for()


def bad_files(phantom):
    film = Image.open(io.BytesIO(phantom))
    jpeg = encoded(film, "JPEG")
    deep = Image.fromarray(np.arange(2500, dtype=np.uint16).reshape(50, 50))
    side = (60_000).to_bytes(4, "big")
    return {
        "empty.png": (b"", "empty"),
        "words.jpg": (b"not a picture at all, whatever its name", "no JPEG, PNG or WebP"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "damaged"),
        "half.png": (phantom[: len(phantom) // 2], "damaged"),
        "half.webp": (encoded(film, "WEBP")[:500], "damaged"),
        "huge.png": (phantom[:16] + 2 * side + phantom[24:], "60000 × 60000"),
        "deep.png": (encoded(deep, "PNG"), "16 bits"),
        "moving.webp": (
            encoded(film, "WEBP", save_all=True, append_images=[film.rotate(9)]),
            "moves",
        ),
        "clear.png": (encoded(Image.new("RGBA", (40, 50), (9, 9, 9, 0)), "PNG"), "transparent"),
        "print.jpg": (encoded(film.convert("CMYK"), "JPEG"), "CMYK"),
        "film.dcm": (bytes(128) + b"DICM" + bytes(64), "DICOM"),
    }


def test_bad_file_is_explained_in_a_line_and_the_page_goes_on(tool, phantoms):
    good = next(iter(phantoms.values()))
    page = tool()
    wanted = page.classify("good.png", good)["probabilities"]
    for name, (data, reason) in bad_files(good).items():
        page.give(name, data)
        page.frame.locator(".status.refused").filter(has_text=reason).wait_for()
        assert not page.frame.locator(".result").is_visible()
        assert page.classify("good.png", good)["probabilities"] == wanted
        assert page.frame.locator(".result").is_visible()
    assert page.seen.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_answer_fits_a_narrow_screen_and_is_accessible(tool, scheme):
    page = tool(viewport=NARROW, scheme=scheme)
    page.frame.get_by_role("button", name="Phantom 3").click()
    page.answer()
    page.frame.locator("summary").click()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    page.page.add_script_tag(content=AXE)
    options = {"runOnly": TAGS, "resultTypes": ["violations"]}
    found = page.page.evaluate("options => axe.run('#try-it', options)", options)["violations"]
    assert [each["id"] for each in found if each["impact"] in {"serious", "critical"}] == []


def test_every_control_has_a_name_and_shows_where_the_focus_is(tool):
    page = tool()
    page.frame.get_by_role("button", name="Phantom 1").click()
    page.answer()
    controls = page.frame.locator("select, input, button:visible").all()
    assert len(controls) >= 8
    for control in controls:
        named = control.evaluate("e => (e.labels?.[0] ?? e).textContent.trim()")
        assert len(named) > 2
        control.focus()
        page.page.keyboard.press("Shift")
        assert control.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
        assert control.bounding_box()["height"] >= 32


def test_page_opened_as_a_file_says_how_to_serve_it(html, visit):
    seen = visit((html / PAGE).as_uri())
    frame = seen.page.locator("#try-it")
    assert "python -m http.server" in frame.inner_text()
    assert frame.locator("select, input").count() == 0
    assert seen.complaints == []
    assert seen.foreign == []


def test_network_that_does_not_arrive_is_a_line_and_not_a_dead_page(tool, phantoms):
    page = tool()
    page.page.route("**/*.onnx", lambda route: route.fulfill(status=404))
    page.give("good.png", next(iter(phantoms.values())))
    page.frame.locator(".status.refused").filter(has_text="did not work").wait_for()
    page.page.unroute("**/*.onnx")
    assert page.classify("good.png", next(iter(phantoms.values())))["probabilities"]
