import numpy as np
import pytest
from twins import OUTLINE, picture_of, share_of

from osteo_utils.registry import CLASS_NAMES
from osteo_utils.widgets import CamExplorer, Stack

CORNERS = np.array([[0.0, 1.0], [2.0, 4.0]], np.float32)  # one map of 2 x 2 regions


def stack(model="Net", maps=None, method="Grad-CAM", films=2):
    """Every map is CORNERS, that of class c and film i times (c + 1) * 10 ** -i."""
    if maps is None:
        factors = np.arange(1, 4)[:, None] * 10.0 ** -np.arange(films)
        maps = factors[..., None, None] * CORNERS
    return Stack(model, "last", method, np.asarray(maps, np.float32))


def explorer(*stacks, size=4, **options):
    films = np.stack([np.full((size, size), grey, np.uint8) for grey in (100, 200)])
    p = {each.model: [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]] for each in stacks}
    return CamExplorer(films, [0, 1], stacks, p, **options)


def picture(widget, panel=0):
    return picture_of(widget.get_state(), panel)


# Half-pixel centres: of 4 pixels over 2 cells the middle ones lie at a quarter and three quarters.
ACROSS = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
LAID = ACROSS @ CORNERS @ ACROSS.T


def test_map_lies_bilinearly_between_the_centres_of_its_cells_on_the_shared_scale():
    widget = explorer(stack())
    widget.target = 0
    # The largest value of the stack is 12 (class 2, film 0).
    np.testing.assert_allclose(share_of(widget.get_state(), 0), LAID / 12, atol=0.002)
    widget.film = 1
    np.testing.assert_allclose(share_of(widget.get_state(), 0), LAID / 120, atol=0.0002)
    widget.shared = False
    np.testing.assert_allclose(share_of(widget.get_state(), 0), LAID / 4, atol=0.002)


def test_without_a_class_the_map_is_that_of_the_class_called():
    widget = explorer(stack())
    widget.film = 1  # called Osteoporosis
    own = picture(widget)
    widget.target = CLASS_NAMES.index("Osteoporosis")
    assert (picture(widget) == own).all()
    widget.target = 0
    assert (picture(widget) != own).any()


@pytest.mark.parametrize(("shape", "size"), [((2, 2), 9), ((6, 6), 128), ((3, 5), 64), ((7, 7), 7)])
def test_map_is_laid_over_the_film_as_gradcam_lays_it(shape, size):
    from osteo_utils.saliency.gradcam import resized

    maps = np.random.default_rng(0).integers(0, 256, (3, 2, *shape)).astype(np.float32)
    maps[:, :, 0, 0] = 255  # so that the levels are the very values
    widget = explorer(stack(maps=maps), size=size)
    widget.target = 1
    found = share_of(widget.get_state(), 0) * 255
    np.testing.assert_allclose(found, resized(maps[1, :1], size)[0], atol=1e-3)


def test_picture_blends_by_opacity_where_the_map_reaches_the_threshold():
    widget = explorer(stack())
    widget.set_trait("target", 0)
    widget.set_trait("shared", False)
    widget.threshold, widget.opacity, widget.colours = 0.5, 0.25, 3  # grey
    expected = np.full((4, 4), 100.0)
    shares = LAID / 4
    expected[shares >= 0.5] = 0.25 * 255 * shares[shares >= 0.5] + 0.75 * 100
    drawn = picture(widget)
    assert drawn.shape == (4, 4, 3)
    np.testing.assert_allclose(drawn, np.repeat(expected[..., None], 3, axis=2), atol=1)
    assert ((drawn == 100).all(axis=2) == (shares < 0.5)).all()
    widget.opacity = 0.0
    assert (picture(widget) == 100).all()


def test_flat_map_leaves_the_film_and_counts_for_no_scale():
    maps = stack().maps.copy()
    maps[2] = np.nan  # not computed
    maps[1] = 50.0  # constant: no region more than another
    flat = stack(maps=maps)
    assert np.isnan(flat.tops[1:]).all()
    widget = explorer(flat)
    for widget.target in (1, 2):
        for widget.shared in (True, False):
            assert (picture(widget) == 100).all()
    widget.target, widget.shared = 0, True
    np.testing.assert_allclose(share_of(widget.get_state(), 0), LAID / 4, atol=0.002)


def test_signed_maps_have_zero_in_the_middle_and_hide_what_is_weak_either_way():
    maps = np.zeros((3, 2, 2, 2), np.float32)
    maps[:, :, 0] = [-2, 1]
    widget = explorer(stack(maps=maps), size=2)
    share = share_of(widget.get_state(), 0)
    np.testing.assert_allclose(share, [[-1, 0.5], [0, 0]], atol=0.005)
    widget.threshold, widget.opacity = 0.6, 1.0
    assert (picture(widget) == 100).all(axis=2).tolist() == [[False, True], [True, True]]
    widget.threshold = 0.0
    assert picture(widget)[1].max() < 40  # zero is dark


def test_outline_is_the_inner_edge_of_the_mask_and_not_the_border_of_the_film():
    mask = np.zeros((2, 5, 5), bool)
    mask[0, 1:, 1:4] = True
    widget = explorer(stack(), size=5, masks={"joint": ~mask, "cortex": mask})
    widget.outline, widget.opacity = 1, 0.0
    drawn = (picture(widget) == OUTLINE).all(axis=2)
    sides = [[0, 1, 0, 1, 0]] * 3
    assert drawn.astype(int).tolist() == [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], *sides]
    widget.film = 1
    assert not (picture(widget) == OUTLINE).all(axis=2).any()


def test_second_panel_shows_its_own_stack():
    widget = explorer(stack(), stack("Other", np.ones((3, 2, 3, 3)) * np.eye(3)), size=6)
    with pytest.raises(ValueError, match="panel 1: expected a second map"):
        picture(widget, 1)
    widget.beside = 1
    second = picture(widget, 1)
    assert (second != picture(widget, 0)).any()
    widget.stack = 1
    assert (second == picture(widget, 0)).all()


def test_nothing_that_is_sent_depends_on_the_order_of_keys_which_a_notebook_sorts():
    assert not [each for each in explorer(stack()).content.values() if isinstance(each, dict)]


def test_what_does_not_belong_together_is_refused():
    good = stack()
    films = np.zeros((2, 4, 4), np.uint8)
    p = {"Net": np.full((2, 3), 1 / 3)}
    with pytest.raises(ValueError, match=r"labels: expected one for each of 2 films, found 1"):
        CamExplorer(films, [0], [good], p)
    with pytest.raises(ValueError, match=r"Grad-CAM of Net, last: .* found 3"):
        CamExplorer(films, [0, 1], [stack(films=3)], p)
    with pytest.raises(ValueError, match="probabilities: expected those of Net"):
        CamExplorer(films, [0, 1], [good], {"Other": p["Net"]})
    with pytest.raises(ValueError, match="films: expected uint8"):
        CamExplorer(films / 255, [0, 1], [good], p)
    with pytest.raises(ValueError, match="stacks: expected one or more"):
        CamExplorer(films, [0, 1], [], p)
    with pytest.raises(ValueError, match="mask joint: expected bool"):
        CamExplorer(films, [0, 1], [good], p, masks={"joint": films})
    with pytest.raises(ValueError, match="finite or NaN as a whole"):
        stack(maps=np.where(np.eye(2) > 0, np.nan, np.ones((3, 2, 2, 2))))
    with pytest.raises(ValueError, match=r"expected maps \(3, films"):
        stack(maps=np.zeros((2, 2, 2, 2)))


def test_module_and_style_travel_with_the_widget_and_ask_no_other_host():
    state = explorer(stack()).get_state()
    assert "export default { render }" in state["_esm"]
    for text in (state["_esm"], state["_css"]):
        assert "http" not in text
        assert "import " not in text
