"""The loader of the pages (book/assets/js/widgets.js) on tiny pages with widgets made here."""

import anywidget
import ipywidgets
import pytest
import traitlets
from matplotlib import pyplot as plt
from tiny_pages import LOADER, STATE, VIEW

from osteo_utils.widgets import PhantomExplorer, Slides

NO_KERNEL = "This widget needs a running kernel"
NOT_DRAWN = "This widget could not be drawn"


class Counter(anywidget.AnyWidget):
    """A button that counts, and says what its bytes are."""

    _esm = """
    export default {
      render({ model, el }) {
        const button = document.createElement("button");
        let drawn = 0;
        const draw = () => {
          drawn += 1;
          button.textContent = `${model.get("count")} after ${drawn}`;
        };
        model.on("change:count change:other", draw);
        button.onclick = () => {
          model.set("count", model.get("count") + model.get("step"));
          model.save_changes();
        };
        button.ondblclick = () => model.off("change:count change:other", draw);
        const { buffer, byteOffset, byteLength } = model.get("data");
        el.dataset.bytes = Array.from(new Uint8Array(buffer, byteOffset, byteLength)).join();
        el.className = "counter";
        el.append(button);
        draw();
      },
    };"""
    _css = ".counter { color: rgb(1, 2, 3); }"
    count = traitlets.Int(7).tag(sync=True)
    other = traitlets.Int(0).tag(sync=True)
    step = traitlets.Int(1).tag(sync=True)
    data = traitlets.Bytes(bytes(range(256))).tag(sync=True)


def failing(module: str) -> anywidget.AnyWidget:
    return type("Failing", (anywidget.AnyWidget,), {"_esm": module})()


def test_views_of_one_widget_share_its_traits(tiny):
    counter = Counter()
    seen = tiny(counter, counter, Counter(count=-3))
    first, second, other = seen.page.locator(".counter button").all()
    first.click()
    assert [each.inner_text() for each in (first, second)] == ["8 after 2", "8 after 2"]
    assert other.inner_text() == "-3 after 1"
    assert seen.complaints == []
    assert seen.foreign == []


def test_a_trait_that_keeps_its_value_draws_nothing(tiny):
    button = tiny(Counter(step=0)).page.locator(".counter button")
    button.click()
    assert button.inner_text() == "7 after 1"


def test_a_callback_that_was_taken_off_is_not_called(tiny):
    button = tiny(Counter()).page.locator(".counter button")
    button.dispatch_event("dblclick")
    button.click()
    assert button.inner_text() == "7 after 1"


def test_bytes_arrive_whole_and_the_style_is_applied(tiny):
    counter = tiny(Counter()).page.locator(".counter")
    assert counter.get_attribute("data-bytes") == ",".join(map(str, range(256)))
    assert counter.evaluate("e => getComputedStyle(e).color") == "rgb(1, 2, 3)"


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("export default { render() { throw new Error('no bone') } }", "no bone"),
        ("export default { async render() { throw new Error('no bone') } }", "no bone"),
        ("export default {", "SyntaxError"),
        ("import 'https://example.org/bone.js'; export default { render() {} }", "TypeError"),
    ],
)
def test_a_widget_that_fails_says_so_and_stops_no_other(tiny, module, why):
    seen = tiny(Counter(), failing(module), Counter())
    told = seen.page.get_by_text(NOT_DRAWN)
    told.wait_for()
    assert why in told.inner_text()
    assert seen.page.locator(".counter").count() == 2


def test_damaged_bytes_of_one_widget_stop_no_other(tiny):
    damaged = Counter()

    def damage(models):
        models[damaged.model_id]["buffers"][0]["data"] = "?"

    seen = tiny(damaged, PhantomExplorer(), change=damage)
    seen.page.get_by_text(NOT_DRAWN).wait_for()
    seen.page.locator(".phantom-explorer").wait_for()


def test_a_state_that_cannot_be_read_is_told_at_every_widget(visit, tmp_path):
    page = tmp_path / "page.html"
    views = f'<p><script type="{VIEW}">{{"model_id": "a"}}</script></p>' * 2
    loader = f'<script src="{LOADER.as_uri()}"></script>'
    page.write_text(f'<!doctype html><script type="{STATE}">{{</script>{views}{loader}', "utf-8")
    assert visit(page.as_uri()).page.get_by_text(NOT_DRAWN).count() == 2


def test_a_widget_that_only_a_kernel_moves_says_so(tiny):
    lost = Counter()
    seen = tiny(ipywidgets.IntSlider(), lost, change=lambda models: models.pop(lost.model_id))
    assert seen.page.get_by_text(NO_KERNEL).count() == 2
    assert seen.complaints == []


def test_the_sliders_of_pictures_change_them_in_the_page(tiny):
    def drawn(a, b):
        return plt.figure(figsize=(1, 1)), f"a picture of {a} and {b}"

    page = tiny(Slides("Pairs", {"a": (1, 2), "b": (3, 4, 5)}, drawn, start=(0, 1))).page
    picture, told = page.locator(".slides img"), page.locator(".slides output")
    assert picture.get_attribute("alt") == "a picture of 1 and 4"
    page.get_by_label("a", exact=True).press("ArrowRight")
    page.get_by_label("b", exact=True).press("ArrowRight")
    assert picture.get_attribute("alt") == "a picture of 2 and 5"
    assert told.all_inner_texts() == ["2", "5"]
