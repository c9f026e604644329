"""The phantom knee under the reader's hand: bone, exposure and pose move it, by its own physics."""

import zlib
from dataclasses import astuple, replace
from typing import Any, Final

import anywidget
import numpy as np
import numpy.typing as npt
import traitlets
from scipy.ndimage import map_coordinates

from osteo_utils.phantom import knee as phantom
from osteo_utils.phantom.knee import FIELD_MM, MASKS, Anatomy, Array, Layers, Mask, Setting
from osteo_utils.registry import CLASS_NAMES, class_of_t_score
from osteo_utils.widgets.base import css, esm

T_SCORES: Final = np.arange(-50, 21) / 10
SCALES: Final = (1.1, 1.6)
SCALE: Final = 1.2  # at which a pixel of the film is one of the layers
ROTATION: Final = 6.0  # degrees at most, either way
SHIFT: Final = 8.0  # mm at most, either way
DOSES: Final = (1 / 32, 4.0)
KVP: Final = (55.0, 80.0)
STEPS: Final = (0.1, 0.5, 1.0, 0.5, 0.05, 1.0)  # of the sliders; of the exposure in powers of two
WINDOW: Final = (1.0, 7.0)  # log attenuation at the ends of the fixed grey scale
FACTS: Final = (
    "cortical_thickness_mm",
    "vertical_fraction",
    "horizontal_fraction",
    "cortex_factor",
    "vertical_threshold",
    "horizontal_threshold",
)
MOVED: Final = ("t_score", "exposure", "kvp", "rotation_deg", "scale", "shift_y_mm")
SHOWN: Final = ("processed", "mask", "compare")
_NOISE: Final = 1 / 8  # standard deviations between two levels of the noise that is sent
# What one level of each layer is worth, in the layer's own unit, and where layers may be cut.
_LEVEL: Final = {
    **dict.fromkeys(("femur", "tibia", "fibula"), 0.03),
    **dict.fromkeys(("femur_radius", "tibia_radius", "fibula_radius", "patella"), 0.05),
    **dict.fromkeys(("femur_wall", "tibia_wall", "fibula_wall"), 0.01),
    **dict.fromkeys(("vertical", "horizontal"), 0.1),
    **{"lattice": 0.01, "notch": 0.004, "lines": 0.02, "scars": 0.02, "muscle": 0.2, "fat": 0.3},
    **dict.fromkeys(("joint", "ends"), 1.0),
}
_CUT: Final = {
    **dict.fromkeys(("femur", "tibia", "fibula"), (-3, 26)),
    **dict.fromkeys(("vertical", "horizontal"), (-1.3, 4)),
}


class PhantomExplorer(anywidget.AnyWidget):
    """Move the T-score, the exposure and the pose of one phantom knee, a left one.

    `seed` and `anatomy` make the knee that `simulate_knee(t_score, np.random.default_rng(seed),
    size, setting, anatomy)` makes; without an anatomy that of `sample_anatomy` for the same seed.
    `state` sets traits at the start, such as `t_score=-2.0`; the button "Reset" comes back to it.

    What is sent, once: the layers of the phantom that no T-score changes, on a grid in the frame
    of the knee, and the noise of the film, both as rounded integers and compressed. The browser
    samples the layers at the pose, bilinearly, and does the rest of the phantom's work itself.
    `picture` does the same with the functions of the phantom. The two round grey levels to whole
    numbers, NumPy halves to even and the browser halves up, and compute in 32 and 64 bits.
    """

    _esm = esm("phantom_explorer")
    _css = css("phantom_explorer")

    content = traitlets.Dict().tag(sync=True)
    layers = traitlets.Bytes().tag(sync=True)  # see `_packed`
    noise = traitlets.Bytes().tag(sync=True)  # deflated uint8, size x size: 128 + level
    t_score = traitlets.Float(0.0, min=T_SCORES[0], max=T_SCORES[-1]).tag(sync=True)
    exposure = traitlets.Float(1.0, min=DOSES[0], max=DOSES[1]).tag(sync=True)
    kvp = traitlets.Float(62.0, min=KVP[0], max=KVP[1]).tag(sync=True)
    rotation_deg = traitlets.Float(0.0, min=-ROTATION, max=ROTATION).tag(sync=True)
    scale = traitlets.Float(SCALE, min=SCALES[0], max=SCALES[1]).tag(sync=True)
    shift_y_mm = traitlets.Float(0.0, min=-SHIFT, max=SHIFT).tag(sync=True)
    processed = traitlets.Bool(True).tag(sync=True)  # or as detected, on a fixed grey scale
    mask = traitlets.Enum(("none", *MASKS), "none").tag(sync=True)
    compare = traitlets.Bool(False).tag(sync=True)  # with the same knee at T = 0

    def __init__(
        self,
        seed: int = 0,
        anatomy: Anatomy | None = None,
        size: int = 144,
        **state: float | str | bool,
    ) -> None:
        if size < 64 or size % 2:
            raise ValueError(f"size: expected an even number of pixels from 64, found {size!r}")
        self._anatomy = anatomy or phantom.sample_anatomy(np.random.default_rng(seed))
        texture, noise = (int(s) for s in np.random.default_rng(seed).integers(2**63, size=2))
        step = FIELD_MM / size / SCALE
        layers = phantom.knee_layers(*_grid(step), Setting(), self._anatomy, texture)
        levels = _levels(layers)
        speckle = np.round(phantom.noise_field(size, noise) / _NOISE).astype(int).clip(-127, 127)
        self._layers = Layers(*(np.float32(q) * n for q, n in zip(_steps(), levels, strict=True)))
        self._noise = (speckle * _NOISE).astype(np.float32)
        self._step = step
        super().__init__(
            layers=_packed(levels),
            noise=zlib.compress((speckle + 128).astype(np.uint8).tobytes(), 9),
            **state,
        )
        start = [getattr(self, name) for name in (*MOVED, *SHOWN)]
        knee = {"seed": seed, "size": size, "anatomy": list(astuple(self._anatomy))}
        grid = {"side": levels.shape[1], "step": step, "start": start, "limits": _limits()}
        physics = _physics(size, self._anatomy.condyle_width / 80)
        self.content = knee | grid | physics | _by_t_score(self._anatomy)

    def setting(self) -> Setting:
        """The state of the sliders as a setting of the phantom."""
        return replace(Setting(), **{name: getattr(self, name) for name in MOVED[1:]})

    def picture(self, t_score: float | None = None) -> npt.NDArray[np.uint8]:
        """The film that is on the screen, (size, size); `t_score` in the place of the slider's."""
        setting, layers = self.setting(), self._posed()
        bone = phantom.bone_mm(layers, self._truth(t_score), self._anatomy)
        signal = phantom.expose(bone, layers.muscle, layers.fat, setting, self._noise)
        if self.processed:
            grey = phantom.display(signal, np.ones_like(signal), setting)
        else:
            low, high = WINDOW
            counted = signal - np.log(self.exposure)  # more quanta, more counts
            grey = ((counted - low) / (high - low)).clip(0, 1)
        return np.round(255 * grey).astype(np.uint8)

    def outlined(self) -> Mask:
        """The mask whose outline is on the screen, (size, size), empty for "none"."""
        masks = phantom.regions(self._posed(), self._truth())
        return masks.get(self.mask, np.zeros_like(masks["joint"]))

    def facts(self) -> dict[str, float]:
        """What the T-score of the slider means for the bone, FACTS by name."""
        return {name: self._truth()[name] for name in FACTS}

    def _truth(self, t_score: float | None = None) -> dict[str, float]:
        t = self.t_score if t_score is None else t_score
        return phantom.bone_truth(round(t, 1), self._anatomy)

    def _posed(self) -> Layers:
        """The layers at the pixels of the film."""
        x, y = phantom.pose(len(self._noise), self.setting())
        at = np.stack([y, x]) / np.float32(self._step) + np.float32(len(self._layers.femur) / 2)
        at -= np.float32(0.5)
        sampled = Layers(*(map_coordinates(k, at, order=1, mode="nearest") for k in self._layers))
        return sampled._replace(joint=sampled.joint > 0.5, ends=sampled.ends > 0.5)


def _grid(step: float) -> tuple[Array, Array]:
    """Knee coordinates (mm) that hold every film the sliders can ask for."""
    turn = np.deg2rad(ROTATION)
    reach = FIELD_MM / 2 / SCALES[0] * (np.cos(turn) + np.sin(turn)) + SHIFT
    half = int(np.ceil(reach / step)) + 1
    axis = ((np.arange(2 * half) + 0.5 - half) * step).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    return x, y


def _steps() -> list[float]:
    return [_LEVEL[name] for name in Layers._fields]


def _levels(layers: Layers) -> npt.NDArray[np.int32]:
    """The layers as whole numbers of their levels, (layer, side, side)."""
    cut = [_CUT.get(name, (-np.inf, np.inf)) for name in Layers._fields]
    parts = zip(layers, cut, _steps(), strict=True)
    return np.stack([np.round(np.clip(k, *ends) / q) for k, ends, q in parts]).astype(np.int32)


def _packed(levels: npt.NDArray[np.int32]) -> bytes:
    """Differences down and across, signs moved to the last bit, low bytes and high bytes, deflated.

    Neighbours are alike, so that all but a few numbers are small, and all but a few high bytes 0.
    """
    d = np.diff(np.diff(levels, axis=1, prepend=0), axis=2, prepend=0)
    folded = (d << 1) ^ (d >> 31)
    planes = np.stack([folded & 255, folded >> 8]).astype(np.uint8)
    return zlib.compress(planes.tobytes(), 9)


def _limits() -> list[list[float]]:
    """Least and greatest place of each slider of MOVED, and its step."""
    doses = np.log2(DOSES).tolist()
    ranges = (
        (T_SCORES[0], T_SCORES[-1]),
        doses,
        KVP,
        (-ROTATION, ROTATION),
        SCALES,
        (-SHIFT, SHIFT),
    )
    return [[*map(float, ends), step] for ends, step in zip(ranges, STEPS, strict=True)]


def _by_t_score(anatomy: Anatomy) -> dict[str, Any]:
    """Class and facts of every T-score the slider can take, seven digits of each number."""
    truths = [phantom.bone_truth(t, anatomy) for t in T_SCORES]
    rows = [[truth[name] for name in FACTS] for truth in truths]
    means = [[phantom.strut_mean(v) for v in row[-2:]] for row in rows]  # of the two thresholds
    table = [
        [float(f"{v:.7g}") for v in (*row, *mean)] for row, mean in zip(rows, means, strict=True)
    ]
    return {
        "t_scores": T_SCORES.tolist(),
        "classes": list(CLASS_NAMES),
        "class_of": class_of_t_score(T_SCORES).tolist(),
        "facts": [*FACTS, "vertical_mean", "horizontal_mean"],
        "truth": table,
    }


def _physics(size: int, bone_scale: float) -> dict[str, Any]:
    """What the browser needs to expose and display a film, numbers of the phantom all of them."""
    usual, pixel = Setting(), FIELD_MM / size
    optics = float(np.hypot(usual.blur_mm / pixel, phantom.SENSOR_PIXELS))
    ranks, target = phantom.tone(usual)
    return {
        "layers": list(Layers._fields),
        "levels": _steps(),
        "noise_level": _NOISE,
        "field": FIELD_MM,
        "bone_scale": bone_scale,
        "outside": _CUT["femur"][0],  # depth below which no bone is near
        "visible": phantom.VISIBLE,
        "mu": [list(pair) for pair in phantom.MU.values()],  # at 55 and at 80 kVp
        "optics": optics,  # widths of the four blurs, in pixels
        "scattered": phantom.SCATTER_MM / pixel,
        "slow": phantom.SLOW_MM / pixel,
        "fine": phantom.FINE_MM / pixel,
        "scatter": usual.scatter,
        "grain": phantom.GRAIN / pixel * usual.noise,
        "latitude": usual.latitude,
        "sharpness": usual.sharpness,
        "air": phantom.AIR,
        "ranks": ranks.tolist(),
        "target": target.tolist(),
        "window": list(WINDOW),
    }
