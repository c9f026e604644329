"""A knee phantom with a known truth: an antero-posterior radiograph from geometry and Beer-Lambert.

Maps of thickness (mm of bone, muscle, fat along each ray) are attenuated, scattered, detected with
noise, and displayed the way digital radiography displays a film: by its own grey levels. The
T-score drives the bone alone. As bone is lost the cortex thins, and of the trabeculae the
horizontal ones go first, so that the vertical ones stand out, ever fewer (Singh et al., 1970).

Not to scale, on purpose: visible trabeculae lie about 3.6 mm apart, some four times farther than
in a knee, and with more contrast, so that they survive at 64 to 96 pixels (3 pixels apart at 96 in
a film of `sample_setting`, which is cut to about 105 mm around the joint). A network that reads
this phantom has learned nothing about patients.

Frame of the code: millimetres, x towards the fibula, y downwards, origin in mid-joint.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from numbers import Real
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import fft
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import map_coordinates
from scipy.special import expit, ndtr

Array = npt.NDArray[np.floating[Any]]  # float32 throughout, for speed
Mask = npt.NDArray[np.bool_]

MASKS: Final = ("joint", "trabecular", "cortex")
MARKER_STYLES: Final = ("none", "bare", "white box", "grey box")
T_SCORE_RANGE: Final = (-6.0, 4.0)
FIELD_MM: Final = 150.0  # side of the square image at scale 1
_STEP = 0.25  # mm between the knots of a tabulated contour
_TEXEL = 0.7  # mm per texture element
_TEXELS = 256
SPACING_MM: Final = 3.6  # mm between visible trabeculae
# Attenuation per mm at 40 and 50 keV: NIST XCOM mass coefficients times ICRU-44 densities.
MU: Final = {"bone": (0.1278, 0.0814), "muscle": (0.0285, 0.0240), "fat": (0.0228, 0.0202)}
# Display curve: grey level by rank among the pixels of the leg, at the ranks that are matched.
_TONE = {0.0: 0.06, 0.03: 0.14, 0.3: 0.34, 0.6: 0.60, 0.9: 0.75, 0.995: 0.95, 1.0: 1.0}
_RANKS = np.concatenate((np.linspace(0.01, 0.97, 25), (0.985, 0.995)))
SCATTER_MM: Final = 15.0  # Gaussian widths: of scatter, and of the two filters of the processing
SLOW_MM: Final = 14.0
FINE_MM: Final = 1.2
SENSOR_PIXELS: Final = 0.35  # of blur, whatever the size of a pixel
GRAIN: Final = 0.0021  # of quantum noise at the usual dose, for a pixel of 1 mm and no attenuation
AIR: Final = 1.0  # log attenuation below which a pixel is taken for air
VISIBLE: Final = 0.25  # share of the trabecular pattern that does not average out along the ray

# Half-widths and cortical thickness in mm by height y, of a knee with condyles 80 mm wide.
_FEMUR = {-130: 14.0, -110: 14.5, -90: 16.5, -75: 20, -62: 25, -52: 30.5, -44: 35.5, -37: 38.9}
_FEMUR |= {-30: 40.2, -22: 39, -12: 38.3, 10: 38}
_FEMUR_CORTEX = {-130: 6, -90: 5, -70: 3, -55: 1.8, -40: 1.1, 10: 0.8}
_TIBIA = {-12: 36, 2: 38, 8: 39, 16: 38.5, 26: 34, 36: 28.5, 48: 23.5, 60: 20, 76: 17, 100: 14.5}
_TIBIA |= {130: 13.5}
_TIBIA_CORTEX = {-12: 0.8, 20: 1.0, 35: 1.6, 55: 3.2, 80: 5, 130: 6}
_FIBULA = {0: 4, 14: 5, 20: 8.5, 26: 10, 33: 9.5, 42: 7, 54: 6, 80: 5.7, 130: 5.7}
_FIBULA_CORTEX = {0: 1, 28: 1.2, 50: 2.5, 130: 2.9}
_SKIN = {-130: 74, -90: 66, -50: 60, -20: 56, 10: 53, 35: 54, 70: 59, 130: 58}
_CANCELLOUS = {-130: 0.05, -85: 0.1, -60: 0.6, -40: 1, 30: 1, 50: 0.6, 75: 0.12, 130: 0.05}


@dataclass(frozen=True)
class Anatomy:
    """What both knees of a patient share, independent of the T-score.

    Places are measured from mid-joint. All lengths but the width of the condyles and the joint
    space are those of a knee with condyles 80 mm wide.

    Attributes:
        condyle_width: Of the femur, mm.
        shaft: Width of the shafts relative to the usual one.
        joint_space: Its height, mm.
        spine_height: Of the tibial spines, mm.
        notch_depth: Of the femur, mm.
        fibula_x: Axis of the fibula, mm sideways.
        fibula_y: How far the fibula lies lower than usual, mm.
        patella_width: Its diameter, mm.
        patella_y: Centre of the patella, mm downwards.
        valgus: Lateral tilt of the femoral shaft, mm per mm.
        scar: Of the growth plates, mm of bone.
        cortex: Biological factor around the thickness of the cortex that the T-score predicts.
        vertical: The same around the volume of the vertical trabeculae.
        horizontal: The same around the volume of the horizontal trabeculae.
        spacing: Of the visible trabeculae, relative to `SPACING_MM`.
    """

    condyle_width: float = 80.0
    shaft: float = 1.0
    joint_space: float = 5.0
    spine_height: float = 4.0
    notch_depth: float = 6.0
    fibula_x: float = 39.0
    fibula_y: float = 0.0
    patella_width: float = 42.0
    patella_y: float = -36.0
    valgus: float = 0.06
    scar: float = 0.6
    cortex: float = 1.0
    vertical: float = 1.0
    horizontal: float = 1.0
    spacing: float = 1.0


@dataclass(frozen=True)
class Setting:
    """All nuisance of one exposure: position, technique, processing, collimation, side marker.

    Attributes:
        side: "L" or "R", with the fibula on the right or on the left of the image.
        rotation_deg: Of the leg in the image, degrees, mirrored with the side.
        internal_rotation_deg: Of the leg about its axis, degrees.
        scale: Magnification: at 1 the image shows `FIELD_MM` of the knee from side to side.
        shift_x_mm: Of the knee towards the fibula, mm of the knee.
        shift_y_mm: Of the knee downwards, mm of the knee.
        soft_tissue: Relative width of the leg.
        fat_mm: Thickness of the fat, mm.
        leg_shift_mm: Of the leg about its bones, mm.
        kvp: Tube voltage, kV.
        exposure: Quanta relative to the usual dose.
        noise: Of the detector, relative.
        blur_mm: Standard deviation of the blur, mm of the image.
        scatter: Scattered over primary intensity.
        heel: Fall of log-intensity from top to bottom of the field.
        latitude: Share of the slow grey-level range taken out by the processing, 0 to 1.
        sharpness: Edge enhancement of the processing.
        brightness: Of the display curve, in shares of the whole range.
        contrast: Of the display curve, relative.
        collimation_medial_mm: Width of this black border, mm, 0 for none.
        collimation_lateral_mm: Width of this black border, mm, 0 for none.
        collimation_top_mm: Width of this black border, mm, 0 for none.
        collimation_bottom_mm: Width of this black border, mm, 0 for none.
        collimation_deg: Rotation of the borders, degrees.
        marker_style: One of `MARKER_STYLES`.
        marker_x: Centre of the marker, fraction of the image from the lateral edge.
        marker_y: Centre of the marker, fraction of the image from the top.
        marker_size: Fraction of the image.
    """

    side: str = "L"
    rotation_deg: float = 0.0
    internal_rotation_deg: float = 0.0
    scale: float = 1.0
    shift_x_mm: float = 0.0
    shift_y_mm: float = 0.0
    soft_tissue: float = 1.0
    fat_mm: float = 7.0
    leg_shift_mm: float = 0.0
    kvp: float = 62.0
    exposure: float = 1.0
    noise: float = 1.0
    blur_mm: float = 0.3
    scatter: float = 0.12
    heel: float = 0.0
    latitude: float = 0.5
    sharpness: float = 0.7
    brightness: float = 0.0
    contrast: float = 1.0
    collimation_medial_mm: float = 0.0
    collimation_lateral_mm: float = 0.0
    collimation_top_mm: float = 0.0
    collimation_bottom_mm: float = 0.0
    collimation_deg: float = 0.0
    marker_style: str = "none"
    marker_x: float = 0.1
    marker_y: float = 0.1
    marker_size: float = 0.06


@dataclass(frozen=True)
class Radiograph:
    """A phantom radiograph, its truth by pixel and its truth in numbers.

    Attributes:
        image: Grey levels, shape (size, size), bright = bone.
        masks: By the names of `MASKS`, shape (size, size) each.
        facts: The T-score, `bone_truth` of it, and every field of its anatomy and setting.
    """

    image: npt.NDArray[np.uint8]
    masks: dict[str, Mask]
    facts: dict[str, float | str | bool]


_ANATOMY_SD = {"condyle_width": 4.5, "shaft": 0.05, "joint_space": 0.6, "spine_height": 0.6}
_ANATOMY_SD |= {"notch_depth": 0.8, "fibula_x": 1.5, "fibula_y": 2.5, "patella_width": 2.0}
_ANATOMY_SD |= {"patella_y": 3.5, "valgus": 0.025, "scar": 0.25, "spacing": 0.03}
_ANATOMY_SD |= {"cortex": 0.03, "vertical": 0.03, "horizontal": 0.04}
_SETTING_RANGE = {"rotation_deg": (-6, 6), "internal_rotation_deg": (-8, 8), "scale": (1.3, 1.55)}
_SETTING_RANGE |= {"shift_x_mm": (-8, 8), "shift_y_mm": (-10, 10), "soft_tissue": (0.9, 1.25)}
_SETTING_RANGE |= {"fat_mm": (3, 12), "leg_shift_mm": (-5, 5), "kvp": (55, 72)}
_SETTING_RANGE |= {"exposure": (0.6, 1.6), "noise": (0.6, 1.4), "blur_mm": (0.15, 0.55)}
_SETTING_RANGE |= {"scatter": (0.05, 0.25), "heel": (-0.25, 0.25), "latitude": (0.4, 0.65)}
_SETTING_RANGE |= {"sharpness": (0.2, 0.9), "brightness": (-0.06, 0.06), "contrast": (0.85, 1.2)}
_SETTING_RANGE |= {"collimation_deg": (-2.5, 2.5), "marker_x": (0.07, 0.16)}
_SETTING_RANGE |= {"marker_size": (0.045, 0.065)}
_EDGES = ("medial", "lateral", "top", "bottom")


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw the build of one patient, independent of the T-score.

    Args:
        rng: Source of the draws.

    Returns:
        Each length and factor from a normal distribution about the usual one, clipped at 2.2
        standard deviations.

    Example:
        >>> 70 < sample_anatomy(np.random.default_rng(0)).condyle_width < 90  # 80 and 2.2 x 4.5 mm
        True
    """
    z = rng.standard_normal(len(_ANATOMY_SD)).clip(-2.2, 2.2).tolist()
    usual = Anatomy()
    spread = zip(_ANATOMY_SD.items(), z, strict=True)
    return Anatomy(**{name: getattr(usual, name) + sd * n for (name, sd), n in spread})


def sample_setting(rng: np.random.Generator, side: str | None = None) -> Setting:
    """Draw the nuisance of one exposure, independent of the T-score.

    Args:
        rng: Source of the draws.
        side: "L" or "R"; drawn if none is given.

    Returns:
        The setting.

    Raises:
        ValueError: The side is another.

    Example:
        >>> sample_setting(np.random.default_rng(0), side="R").side
        'R'
    """
    if side not in (None, "L", "R"):
        raise ValueError(f"side: expected 'L' or 'R', found {side!r}")
    drawn: dict[str, Any] = {k: rng.uniform(*r) for k, r in _SETTING_RANGE.items()}
    borders = np.where(rng.random(4) < 0.3, rng.uniform(2, 14, 4), 0.0).tolist()
    drawn |= {f"collimation_{edge}_mm": mm for edge, mm in zip(_EDGES, borders, strict=True)}
    drawn["marker_style"] = str(rng.choice(MARKER_STYLES, p=(0.4, 0.3, 0.1, 0.2)))
    drawn["marker_y"] = rng.uniform(0.08, 0.25) + 0.67 * float(rng.integers(2))
    drawn["side"] = ("L", "R")[rng.integers(2)] if side is None else side
    return Setting(**drawn)


def simulate_knee(
    t_score: float,
    rng: np.random.Generator,
    size: int = 224,
    setting: Setting | None = None,
    anatomy: Anatomy | None = None,
) -> Radiograph:
    """Simulate an antero-posterior radiograph of one knee.

    The same `rng` state, setting and anatomy give the same knee at any T-score and any size: only
    the bone changes, or only the sampling.

    Args:
        t_score: In standard deviations, within `T_SCORE_RANGE`.
        rng: Source of the trabeculae, of the noise, and of what is not given.
        size: Side of the image in pixels, at least 32.
        setting: Of the exposure; drawn if none is given.
        anatomy: Of the patient; drawn if none is given.

    Returns:
        The image, its masks and its facts.

    Raises:
        ValueError: The T-score is outside, the size is no integer of at least 32, or the setting
            has another side or marker style.

    Example:
        >>> film = simulate_knee(-2.0, np.random.default_rng(0), size=32)
        >>> film.image.shape, film.image.dtype, sorted(film.masks), film.facts["t_score"]
        ((32, 32), dtype('uint8'), ['cortex', 'joint', 'trabecular'], -2.0)
    """
    setting = setting or sample_setting(rng)
    anatomy = anatomy or sample_anatomy(rng)
    _check(t_score, size, setting)
    texture_seed, noise_seed = rng.integers(2**63, size=2)
    truth = bone_truth(t_score, anatomy)
    layers = knee_layers(*pose(size, setting), setting, anatomy, int(texture_seed))
    field = _field(size, setting)
    bone = bone_mm(layers, truth, anatomy)
    signal = expose(bone, layers.muscle, layers.fat, setting, noise_field(size, int(noise_seed)))
    grey = display(signal, field, setting)
    image = np.round(255 * grey).astype(np.uint8)
    step = 1 if setting.side == "L" else -1
    masks = {
        name: np.ascontiguousarray((mask & (field > 0.5))[:, ::step])
        for name, mask in regions(layers, truth).items()
    }
    facts = {"t_score": float(t_score), **truth, **asdict(anatomy), **asdict(setting)}
    return Radiograph(_stamp(np.ascontiguousarray(image[:, ::step]), setting), masks, facts)


def _check(t_score: float, size: int, setting: Setting) -> None:
    low, high = T_SCORE_RANGE
    if not isinstance(t_score, Real) or not low <= t_score <= high:  # so is NaN
        raise ValueError(f"T-score: expected a number from {low} to {high}, found {t_score!r}")
    if not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 32:
        raise ValueError(f"size: expected an integer of at least 32 pixels, found {size!r}")
    if setting.side not in ("L", "R"):
        raise ValueError(f"side: expected 'L' or 'R', found {setting.side!r}")
    if setting.marker_style not in MARKER_STYLES:
        styles = ", ".join(MARKER_STYLES)
        raise ValueError(f"marker style: expected one of {styles}, found {setting.marker_style!r}")


def bone_truth(t_score: float, anatomy: Anatomy) -> dict[str, float]:
    """What the T-score means for the bone: mm of cortex, volume fractions, thresholds of loss.

    Args:
        t_score: In standard deviations.
        anatomy: Of the patient.

    Returns:
        `cortex_factor`, thickness of the cortex relative to a T-score of 0, and
        `cortical_thickness_mm`, that of the femoral shaft. `vertical_fraction` and
        `horizontal_fraction`, share of the volume that these trabeculae fill, 0 to 1.
        `vertical_threshold` and `horizontal_threshold`, the height of standard normal noise above
        which a trabecula is seen.

    Example:
        >>> truth = bone_truth(0.0, Anatomy())
        >>> truth["cortical_thickness_mm"], truth["vertical_fraction"]
        (5.0, 0.14)
    """
    factor = float(np.exp(0.2 * t_score)) * anatomy.cortex
    return {
        "cortex_factor": factor,
        "cortical_thickness_mm": 5 * factor * anatomy.condyle_width / 80,  # femoral shaft
        "vertical_fraction": 0.14 * float(np.exp(0.12 * t_score)) * anatomy.vertical,
        "horizontal_fraction": 0.13 * float(expit(0.9 * (t_score + 1.7))) * anatomy.horizontal,
        "vertical_threshold": float(np.clip(-0.25 - 0.25 * t_score, -1.0, 1.2)),
        "horizontal_threshold": float(np.clip(-0.2 * t_score, -0.6, 1.2)),
    }


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Array, Array]:
    axis = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32) * np.float32(FIELD_MM)
    x, y = np.meshgrid(axis, axis)
    return x, y


def _turned(size: int, degrees: float) -> tuple[Array, Array]:
    x, y = _grid(size)
    c, s = (
        np.float32(np.cos(np.deg2rad(degrees))),
        np.float32(np.sin(np.deg2rad(degrees))),
    )
    return c * x + s * y, c * y - s * x


def pose(size: int, setting: Setting) -> tuple[Array, Array]:
    """Knee coordinates x and y (mm) of every pixel of a square image, each (size, size)."""
    x, y = _turned(size, setting.rotation_deg)
    zoom = np.float32(1 / setting.scale)
    return x * zoom - np.float32(setting.shift_x_mm), y * zoom - np.float32(setting.shift_y_mm)


def _along(y: Array, table: Mapping[int, float]) -> Array:
    """Look a tabulated contour up at the heights `y` (monotone cubic between the entries)."""
    knots = _contour(tuple(table.items()))
    index = ((y + 130) / np.float32(_STEP)).astype(np.int32).clip(0, len(knots) - 1)
    values: Array = knots[index]
    return values


@lru_cache(maxsize=32)
def _contour(table: tuple[tuple[int, float], ...]) -> Array:
    heights, values = zip(*table, strict=True)
    y = np.arange(-130, 130 + _STEP, _STEP).clip(min(heights), max(heights))
    contour: Array = PchipInterpolator(heights, values)(y).astype(np.float32)
    return contour


def _bump(x: Array, centre: float, width: float) -> Array:
    bump: Array = np.exp(-np.square((x - np.float32(centre)) / np.float32(width)))
    return bump


def _smooth_min(a: Array, b: Array, radius: float) -> Array:
    """Lesser of two distances, the corner rounded."""
    h = np.maximum(np.float32(radius) - np.abs(a - b), 0)
    return np.minimum(a, b) - h * h * np.float32(0.25 / radius)


def _chord(depth: Array, radius: Array | float) -> Array:
    """Path (mm) through a round body of that radius, `depth` mm inside its outline."""
    d = np.clip(depth, 0, radius)
    return 2 * np.sqrt(d * (2 * radius - d))


def _shell(depth: Array, radius: Array, cortex: Array) -> tuple[Array, Array]:
    """Paths (mm) through the cortical shell and through what it encloses."""
    inner = _chord(depth - cortex, np.maximum(radius - cortex, 0.1))
    return _chord(depth, radius) - inner, inner


@lru_cache(maxsize=1)
def _spectra() -> Array:
    """Gains of three textures: vertical fibres, horizontal fibres, slow mottle."""
    fy = fft.fftfreq(_TEXELS, _TEXEL)[:, None].astype(np.float32) + 1e-9
    fx = fft.rfftfreq(_TEXELS, _TEXEL)[None, :].astype(np.float32) + 1e-9
    radius = np.hypot(fx, fy)
    band = np.exp(-np.square(np.log(radius * SPACING_MM) / 0.33) / 2)
    vertical = band * np.exp(-np.square(np.arctan(fy / fx) / 0.13) / 2)
    horizontal = band * np.exp(-np.square(np.arctan(fx / fy) / 0.2) / 2)
    return np.stack((vertical, horizontal, np.exp(-np.square(radius * 16))))


def _textures(rng: np.random.Generator) -> list[Array]:
    """Noise of unit variance on a fixed mm grid, one field for each gain of `_spectra`.

    One noise serves all three: their bands do not overlap, so the fields are independent.
    """
    noise = rng.standard_normal((_TEXELS, _TEXELS), dtype=np.float32)
    fields = fft.irfft2(fft.rfft2(noise, workers=1) * _spectra(), workers=1)
    return [field / field.std() for field in fields]


def strut_mean(threshold: float) -> float:
    """Mean height of standard normal noise above the threshold."""
    mean = np.exp(-(threshold**2) / 2) / np.sqrt(2 * np.pi) - threshold * ndtr(-threshold)
    return float(mean)


def _struts(noise: Array, threshold: float) -> Array:
    """Ridges of the noise above the threshold, about its mean: fewer and stronger as it rises."""
    mean = strut_mean(threshold)
    ridges: Array = np.maximum(noise - np.float32(threshold), 0)
    return (ridges - np.float32(mean)) * np.float32(mean**-0.6)


def _sample(field: Array, u: Array, y: Array, zoom: float) -> Array:
    at = np.stack([y, u]) * np.float32(zoom / _TEXEL) + np.float32(_TEXELS / 2)
    sampled: Array = map_coordinates(field, at, order=1, mode="grid-wrap")
    return sampled


class Layers(NamedTuple):
    """All of a knee that the T-score leaves as it is, by pixel; mm of a knee 80 mm wide.

    `bone_mm` makes the thickness of bone of it and of a T-score, `regions` the masks.
    """

    femur: Array  # depth inside the outline of each bone, negative outside
    tibia: Array
    fibula: Array
    femur_radius: Array  # of the round body that a ray crosses
    tibia_radius: Array
    fibula_radius: Array
    femur_wall: Array  # cortical thickness at T = 0
    tibia_wall: Array
    fibula_wall: Array
    vertical: Array  # noise of unit variance whose ridges are the struts; 0 outside the bones
    horizontal: Array
    lattice: Array  # share of the space between the cortices that is lattice, about 1 at the joint
    notch: Array  # share of the femur that the notch leaves
    lines: Array  # mm of bone that thin with the cortex: subchondral plate, roof of the notch
    scars: Array  # mm of bone at any T-score: closed growth plates
    patella: Array  # mm of lattice
    muscle: Array  # mm
    fat: Array
    joint: Mask  # the joint with its margins, and the cancellous ends of the bones
    ends: Mask


def knee_layers(x: Array, y: Array, setting: Setting, anatomy: Anatomy, seed: int) -> Layers:
    """The layers of a left knee at the knee coordinates `x`, `y` (mm); `seed` of the lattice."""
    o = _outline(x, y, setting, anatomy)
    *fibres, slow = _textures(np.random.default_rng(seed))
    mottle = _sample(slow, x, np.float32(0.4) * y, 1.0)  # drawn out along the leg
    fibula, fibula_radius, fibula_wall = _fibula(o, setting, anatomy)
    vertical, horizontal = _fibres(o, fibres, mottle, anatomy)
    notch, lines = _notch(o, setting)
    muscle, fat = _soft_tissue(x, y, setting)
    return Layers(
        femur=o.femur,
        tibia=o.tibia,
        fibula=fibula,
        femur_radius=np.minimum(o.femur_width, 24),
        tibia_radius=np.minimum(o.tibia_width, 23),
        fibula_radius=fibula_radius,
        femur_wall=_along(o.y, _FEMUR_CORTEX),
        tibia_wall=_along(o.y, _TIBIA_CORTEX),
        fibula_wall=fibula_wall,
        vertical=vertical,
        horizontal=horizontal,
        lattice=_along(o.y, _CANCELLOUS) * (1 + np.float32(0.05) * mottle),
        notch=notch,
        lines=lines,
        scars=np.float32(anatomy.scar) * _scars(o),
        patella=_patella(o, setting, anatomy),
        muscle=muscle * (1 + np.float32(0.01) * mottle),
        fat=fat,
        joint=(np.abs(o.x) < 39) & (o.y > o.bottom - 5) & (o.y < o.top + 5),
        ends=_along(o.y, _CANCELLOUS) > 0.55,
    )


def bone_mm(layers: Layers, truth: Mapping[str, float], anatomy: Anatomy) -> Array:
    """Thickness of bone mineral (mm) along each ray, for the `bone_truth` of a T-score."""
    k, thin = layers, np.float32(truth["cortex_factor"])
    femur_cortex, femur = _shell(k.femur, k.femur_radius, k.femur_wall * thin)
    tibia_cortex, tibia = _shell(k.tibia, k.tibia_radius, k.tibia_wall * thin)
    fibula_cortex, fibula = _shell(k.fibula, k.fibula_radius, k.fibula_wall * thin)
    fraction, inside = np.zeros_like(k.femur), femur + tibia > 0  # a third of the pixels
    fraction[inside] = _fraction(k.vertical[inside], k.horizontal[inside], truth)
    fraction *= k.lattice
    mean = np.float32(truth["vertical_fraction"] + truth["horizontal_fraction"])
    femur *= k.notch
    bone = femur_cortex + tibia_cortex + (femur + tibia) * fraction + thin * k.lines
    bone += k.scars + mean * k.patella
    bone += fibula_cortex + fibula * mean * np.float32(0.8)
    return bone * np.float32(anatomy.condyle_width / 80)


def regions(layers: Layers, truth: Mapping[str, float]) -> dict[str, Mask]:
    """Joint with its subchondral margins, cancellous ends of the bones, cortical walls."""
    k, thin = layers, np.float32(truth["cortex_factor"])
    cortex = (k.femur > 0) & (k.femur < k.femur_wall * thin)
    cortex |= (k.tibia > 0) & (k.tibia < k.tibia_wall * thin)
    trabecular = (np.maximum(k.femur, k.tibia) > 4) & k.ends & ~k.joint & ~cortex
    return {"joint": k.joint, "trabecular": trabecular, "cortex": cortex & ~k.joint}


def _fraction(vertical: Array, horizontal: Array, truth: Mapping[str, float]) -> Array:
    """Visible volume fraction of bone between the cortices."""
    total: Array = np.zeros_like(vertical)
    for name, noise in (("vertical", vertical), ("horizontal", horizontal)):
        struts = _struts(noise, truth[f"{name}_threshold"])
        total += np.float32(truth[f"{name}_fraction"]) * (1 + np.float32(VISIBLE) * struts)
    return total


class _Outline(NamedTuple):
    """Where the bones lie, by pixel; mm of a knee with condyles 80 mm wide."""

    x: Array
    y: Array
    axis: Array  # x from the axis of the femur
    femur_width: Array  # half-widths
    tibia_width: Array
    bottom: Array  # y of the end of the femur and of the tibial plateau
    top: Array
    femur: Array  # depth inside the outline of each bone, negative outside
    tibia: Array


def _turn(setting: Setting) -> float:
    return float(np.sin(np.deg2rad(setting.internal_rotation_deg)))


def _outline(x: Array, y: Array, setting: Setting, anatomy: Anatomy) -> _Outline:
    """Femur and tibia: a shaft that flares, closed by the condyles or by the plateau."""
    size, turn = np.float32(anatomy.condyle_width / 80), _turn(setting)
    x, y = x / size, y / size
    axis = x - np.float32(anatomy.valgus) * np.maximum(-30 - y, 0)
    gap = anatomy.joint_space / 2 / float(size)
    arch = np.float32(anatomy.notch_depth) * _bump(x, 3 * turn, 9)
    bottom = -gap - arch - np.float32(0.007) * np.square(np.abs(x) - 20)
    spines = _bump(x, -5 - 4 * turn, 3.5) + np.float32(0.8) * _bump(x, 6 - 4 * turn, 3.5)
    top = gap + 1 - np.float32(anatomy.spine_height) * spines - 4 * _bump(x, 0, 12)
    top -= np.float32(0.002) * np.square(np.abs(x) - 22)
    femur_width = _along(y, _FEMUR) * _shaft(y, anatomy)
    tibia_width = _along(y, _TIBIA) * _shaft(y, anatomy)
    # The medial side bulges at the adductor tubercle; the lateral one has the popliteal groove.
    side = femur_width - np.abs(axis)
    side += np.where(x < 0, 2 * _bump(y, -40, 5), -2 * _bump(y, -17, 5))
    femur = _smooth_min(side * np.float32(0.9), bottom - y, 16)
    tibia = _smooth_min((tibia_width - np.abs(x)) * np.float32(0.9), y - top, 5)
    return _Outline(x, y, axis, femur_width, tibia_width, bottom, top, femur, tibia)


def _shaft(y: Array, anatomy: Anatomy) -> Array:
    """Relative width of the bones: 1 at the joint, `anatomy.shaft` far from it."""
    return 1 + np.float32(anatomy.shaft - 1) * np.clip(np.abs(y) / 50 - 0.6, 0, 1)


def _fibres(o: _Outline, fields: list[Array], mottle: Array, anatomy: Anatomy) -> list[Array]:
    """Noise of the vertical and the horizontal fibres, which bend with the outline of the bone."""
    across = np.where(o.y < 0, o.axis / o.femur_width, o.x / o.tibia_width) * 38
    wavy = across + np.float32(0.5) * mottle
    inside = np.maximum(o.femur, o.tibia) > 0
    fibres = [np.zeros_like(o.y) for _ in fields]
    for fibre, field in zip(fibres, fields, strict=True):
        fibre[inside] = _sample(field, wavy[inside], o.y[inside], 1 / anatomy.spacing)
    return fibres


def _notch(o: _Outline, setting: Setting) -> tuple[Array, Array]:
    """Share of the femur that the notch leaves; lines (mm) of its roof and of the plateau."""
    roof = np.hypot((o.x - np.float32(4 * _turn(setting))) / 12, (o.y - o.bottom) / 19)
    left = 1 - np.float32(0.2) * np.clip(4 - 4 * roof, 0, 1)
    lines = 5 * _bump(o.y - o.top, 3, 2) * (o.tibia > 1)
    lines += np.float32(1.6) * _bump(roof, 1, 0.06) * ((o.femur > 2) & (np.abs(o.x) < 14))
    return left, lines


def _scars(o: _Outline) -> Array:
    """Lines of the closed growth plates."""
    tibia = _bump(o.y - np.float32(0.004) * np.square(o.x), 15, 0.9) * (o.tibia > 2)
    return tibia + _bump(o.y + np.float32(0.005) * np.square(o.x), -33, 0.9) * (o.femur > 2)


def _patella(o: _Outline, setting: Setting, anatomy: Anatomy) -> Array:
    """Path (mm) through the patella, in front of the femur: a disc that narrows downwards."""
    half = anatomy.patella_width / 2
    y = o.y - np.float32(anatomy.patella_y)
    x = (o.x - np.float32(14 * _turn(setting))) * (1 + y * np.float32(0.008))
    return _chord(half - np.hypot(x, y * np.float32(0.95)), 13.0) * np.float32(0.5)


def _fibula(o: _Outline, setting: Setting, anatomy: Anatomy) -> tuple[Array, Array, Array]:
    """Depth, radius, wall of the fibula: head below the plateau, behind the edge of the tibia."""
    x = o.x - np.float32(anatomy.fibula_x - 6 * _turn(setting))
    y = o.y - np.float32(anatomy.fibula_y)
    width = _along(y, _FIBULA)
    depth = _smooth_min(width - np.abs(x), y - 13 - np.float32(0.4) * np.abs(x - 2), 5)
    return depth, width, _along(y, _FIBULA_CORTEX)


def _soft_tissue(x: Array, y: Array, setting: Setting) -> tuple[Array, Array]:
    """Thickness (mm) of muscle and of fat along each ray."""
    width = _along(y, _SKIN) * np.float32(setting.soft_tissue)
    depth = width - np.abs(x - np.float32(setting.leg_shift_mm))
    inset = np.float32(setting.fat_mm) * (1 + np.float32(0.8) * _bump(y, 0, 30))
    muscle = _chord(depth - inset, width - inset) * np.float32(0.9)
    for cx, cy in ((-30, 95), (26, 95), (-36, -95), (36, -100)):
        r2 = np.square((x - cx) / 20) + np.square((y - cy) / 65)
        muscle += 14 * np.sqrt(np.maximum(1 - r2, 0)) * (depth > inset)
    return muscle, np.maximum(_chord(depth, width) * np.float32(0.9) - muscle, 0)


def _field(size: int, setting: Setting) -> Array:
    """Collimated field: 1 inside, 0 outside, a pixel of penumbra."""
    x, y = _turned(size, setting.collimation_deg)
    inside = np.full_like(x, FIELD_MM)
    for edge, inward in zip(_EDGES, (x, -x, y, -y), strict=True):
        border = getattr(setting, f"collimation_{edge}_mm")
        if border > 0:
            inside = np.minimum(inside, inward + np.float32(FIELD_MM / 2 - border))
    field: Array = np.clip(inside * np.float32(size / FIELD_MM) + np.float32(0.5), 0, 1)
    return field


@lru_cache(maxsize=8)
def _frequency(size: int) -> Array:
    f = np.arange(size, dtype=np.float32) * np.float32(np.pi / size)
    squares: Array = np.add.outer(np.square(f), np.square(f))
    return squares


def _gaussian(size: int, sigma: float) -> Array:
    """Transfer function of a Gaussian blur of `sigma` pixels, for `_filter`."""
    gain: Array = np.exp(_frequency(size) * np.float32(-(sigma**2) / 2))
    return gain


def _filter(image: Array, gain: Array) -> Array:
    """Filter with reflecting borders; the cost does not depend on the width of the kernel."""
    filtered: Array = fft.idctn(fft.dctn(image, workers=1) * gain, workers=1)
    return filtered


def noise_field(size: int, seed: int) -> Array:
    """The quantum noise of a film, standard normal, (size, size)."""
    return np.random.default_rng(seed).standard_normal((size, size), dtype=np.float32)


def expose(bone: Array, muscle: Array, fat: Array, setting: Setting, noise: Array) -> Array:
    """Beer-Lambert, scatter, heel effect, blur and quantum noise: log attenuation as detected.

    Thicknesses in mm and the standard normal `noise`, all (size, size).
    """
    harder = (setting.kvp - 55) / 25  # 40 keV at 55 kVp to 50 keV at 80 kVp
    mu = {k: np.float32(a + (b - a) * harder) for k, (a, b) in MU.items()}
    heel = np.float32(setting.heel / FIELD_MM) * _grid(len(bone))[1]
    # Bone takes the place of muscle on its ray.
    path = (mu["bone"] - mu["muscle"]) * bone + mu["muscle"] * muscle + mu["fat"] * fat
    size = len(bone)
    pixel = FIELD_MM / size
    optics = _gaussian(size, float(np.hypot(setting.blur_mm / pixel, SENSOR_PIXELS)))
    primary = _filter(np.exp(-path - heel), optics)
    leg = np.minimum(primary, 0.15)  # scatter comes from the leg, not from the open air
    photons = np.maximum(
        primary + np.float32(setting.scatter) * _filter(leg, _gaussian(size, SCATTER_MM / pixel)),
        1e-4,
    )
    grain = GRAIN / pixel * setting.noise / np.sqrt(setting.exposure)
    photons += np.float32(grain) * np.sqrt(photons) * noise
    signal: Array = -np.log(np.maximum(photons, 1e-4))
    return signal


def tone(setting: Setting) -> tuple[Array, Array]:
    """The display curve of the processing: ranks among the pixels of the leg, their grey levels."""
    curve = PchipInterpolator(*zip(*_TONE.items(), strict=True))(_RANKS)
    return _RANKS, np.clip(0.5 + setting.brightness + setting.contrast * (curve - 0.5), 0.04, 1)


def display(signal: Array, field: Array, setting: Setting) -> Array:
    """Grey levels 0 to 1: even out, sharpen, then match the histogram of the leg to a curve.

    Digital radiography fits its display curve to the histogram of each film. Done fully, as here,
    it leaves the T-score no way into the grey levels as such: only into where they lie.
    """
    size = len(signal)
    pixel = FIELD_MM / size
    slow, fine = _gaussian(size, SLOW_MM / pixel), _gaussian(size, FINE_MM / pixel)
    gain = 1 - np.float32(setting.latitude) * slow + np.float32(setting.sharpness) * (1 - fine)
    flat = _filter(signal, gain)
    sample = flat[::3, ::3][(field[::3, ::3] > 0.9) & (signal[::3, ::3] > AIR)]
    ranks, target = tone(setting)
    levels = np.quantile(sample, ranks)
    air = float(flat.min()) - 0.1
    knots = np.concatenate(([air], levels))
    grey = np.interp(flat, knots, np.concatenate(([0.0], target)))
    return (np.float32(0.015) + grey.astype(np.float32) * np.float32(0.98)) * field


def _stamp(image: npt.NDArray[np.uint8], setting: Setting) -> npt.NDArray[np.uint8]:
    """Put the side marker on the film."""
    if setting.marker_style == "none":
        return image
    size = len(image)
    box = max(round(setting.marker_size * size), 5)
    ink, paper, frame = {
        "bare": (235, None, None),
        "white box": (40, 225, 225),
        "grey box": (215, 80, 190),
    }[setting.marker_style]
    across = setting.marker_x if setting.side == "R" else 1 - setting.marker_x
    cx, cy = across * size, setting.marker_y * size
    film = Image.fromarray(image)
    draw = ImageDraw.Draw(film)
    if paper is not None:
        edges = (cx - box * 0.5, cy - box * 0.62, cx + box * 0.5, cy + box * 0.62)
        draw.rectangle(edges, fill=paper, outline=frame)
    font: Any = ImageFont.load_default(box)
    draw.text((cx, cy), setting.side, fill=ink, font=font, anchor="mm")
    return np.asarray(film)
