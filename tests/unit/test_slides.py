import pytest
from matplotlib import pyplot as plt

from osteo_utils.widgets import Slides


def drawn(a, b=0):
    return plt.figure(figsize=(1, 1)), f"the first is {a} and the second {b}"


def test_there_is_a_picture_for_every_setting_and_the_last_slider_moves_fastest():
    open_before = plt.get_fignums()
    slides = Slides("Two", {"a": (1, 2), "b": ("x", "y", "z")}, drawn, start=(1, 2))
    ends = [page.split('alt="')[1].rstrip('">') for page in slides.pages]
    assert ends == [f"the first is {a} and the second {b}" for a in (1, 2) for b in "xyz"]
    assert slides.content == {"name": "Two", "sliders": [["a", ["1", "2"]], ["b", ["x", "y", "z"]]]}
    assert slides.places == [1, 2]
    assert plt.get_fignums() == open_before


@pytest.mark.parametrize(
    ("settings", "start"), [({}, None), ({"a": []}, None), ({"a": [1]}, [1]), ({"a": [1]}, [0, 0])]
)
def test_a_slider_without_its_place_is_refused(settings, start):
    with pytest.raises(ValueError, match="Two: expected a place for each of"):
        Slides("Two", settings, drawn, start)
