"""Facts in their one home, free of Keras: classes, profiles, architectures, saliency methods."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from osteo_utils.errors import CourseError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CLASS_NAMES: Final = ("Normal", "Osteopenia", "Osteoporosis")

# Blue, orange and reddish purple of Okabe & Ito (2008): distinct with any colour-vision deficiency.
CLASS_COLOURS: Final = {"Normal": "#0072B2", "Osteopenia": "#E69F00", "Osteoporosis": "#CC79A7"}

# Colours of saliency maps: perceptually even, where Jet invents edges (Borland & Taylor 2007).
SALIENCY_CMAP: Final = "inferno"
# Of maps that have negative values: black at zero, even on both sides (Crameri et al. 2020).
SIGNED_CMAP: Final = "berlin"

# World Health Organization, Technical Report Series 843 (1994): T-scores in standard deviations.
OSTEOPENIA_BELOW: Final = -1.0
OSTEOPOROSIS_AT_OR_BELOW: Final = -2.5


def known_name(
    what: str, name: str, names: Collection[str], error: type[CourseError] = CourseError
) -> str:
    """A name that is known; of one that is not, the error says which known one is like it.

    Args:
        what: What is named, such as "profile".
        name: The name that was given.
        names: Those that are known, in the order in which they are told.
        error: The class of the error.

    Returns:
        `name`.

    Raises:
        CourseError: Nothing has this name.

    Example:
        >>> known_name("fruit", "aple", ["apple", "pear"])
        Traceback (most recent call last):
        osteo_utils.errors.CourseError: fruit: expected one of apple, pear, found 'aple'. Did you \
mean apple?
    """
    if name not in names:
        known = {each.casefold(): each for each in names}
        like = get_close_matches(name.casefold(), known, n=1)
        remedy = f"Did you mean {known[like[0]]}?" if like else "Choose one of them."
        raise error(what, f"one of {', '.join(names)}", repr(name), remedy)
    return name


def class_of_t_score(t_score: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Class index of each T-score by the WHO thresholds (WHO Technical Report Series 843, 1994).

    Normal at or above -1.0, Osteopenia between, Osteoporosis at or below -2.5.

    Args:
        t_score: T-scores in standard deviations, any shape.

    Returns:
        Places in `CLASS_NAMES`, 0 to 2, of the same shape.

    Raises:
        ValueError: A T-score is not a finite number.

    Example:
        >>> class_of_t_score([-0.5, -1.0, -1.1, -2.5])
        array([0, 0, 1, 2])
    """
    import numpy as np  # here alone, so that whoever asks for facts need not wait for it

    t = np.asarray(t_score, dtype=float)
    if not np.isfinite(t).all():
        raise ValueError(f"T-scores: expected finite numbers, found {t[~np.isfinite(t)][:3]}")
    return (t < OSTEOPENIA_BELOW).astype(np.int64) + (t <= OSTEOPOROSIS_AT_OR_BELOW)


def class_index(name: str) -> int:
    """Index of a class name, whatever its case and surrounding space.

    Args:
        name: One of `CLASS_NAMES`.

    Returns:
        Its place in `CLASS_NAMES`, 0 to 2.

    Raises:
        ValueError: No class has this name.

    Example:
        >>> class_index(" OSTEOPENIA ")
        1
    """
    key = name.strip().casefold()
    for index, known in enumerate(CLASS_NAMES):
        if known.casefold() == key:
            return index
    raise ValueError(f"class name: expected one of {', '.join(CLASS_NAMES)}, found {name!r}")


@dataclass(frozen=True)
class Score:
    """A score of `scoring.evaluate.scores`.

    Attributes:
        title: What tables and figures call it.
        best: What a perfect classifier has.
    """

    title: str
    best: float


SCORES: Final = {  # of a whole classifier, the one to look at first in front
    "balanced_accuracy": Score("balanced accuracy", 1),
    "accuracy": Score("accuracy", 1),
    "f1_macro": Score("macro F1", 1),
    "kappa_quadratic": Score("quadratic weighted kappa", 1),
    "auc_macro": Score("macro AUC", 1),
    "brier": Score("Brier score (0 to 2)", 0),
}
CALIBRATION: Final = {  # to be read side by side
    "ece": Score("expected calibration error", 0),
    "ece_if_calibrated": Score("the same if calibrated", 0),
}
CLASS_SCORES: Final = {  # of one class: "precision_normal" and so on
    "precision": Score("precision", 1),
    "recall": Score("recall", 1),
    "specificity": Score("specificity", 1),
    "f1": Score("F1", 1),
}

IMAGE_FOLDER: Final = "OS Collected Data"  # above the folders of the classes, as in the public set
METADATA_COLUMNS: Final = ("path", "patient", "side", "site")
FILM: Final = ("path", "sha256")  # what a film is, in a listing


@dataclass(frozen=True)
class Profile:
    """Settings of one profile; patients have two knees each.

    Attributes:
        name: Of the profile, as in a folder of runs.
        patients: Of the simulated corpus.
        corpus_size: Side of the phantom radiographs on disk, in pixels.
        image_size: Side of what the networks see, in pixels.
        epochs: From scratch, or of fine-tuning.
        batch_size: Images in a batch, at most.
        seeds: Training seeds of each model.
        resamples: Bootstrap resamples behind each interval.
        weights: What the training starts from: ImageNet's weights; "members", for a fusion, the
            runs of its members; None, nothing.
        precision: Keras dtype policy to train in.
        head_epochs: Of the first stage of transfer, on cached features.
        for_tests: Whether its numbers mean nothing; what is missing is trained unasked, and
            eagerly, since tracing takes longer than the few steps.
        training_time: Of all networks, in words.
        one_at_a_time: Whether a training of the build has the machine for itself, as on one GPU.
        width: The network's own share of its published width, or all of it.
        patience: Epochs without a lower loss before the rate falls; 0: it falls by a plan.
        replaces_stale: Whether a finished run that no longer fits is trained again unasked.
    """

    name: str
    patients: int
    corpus_size: int
    image_size: int
    epochs: int
    batch_size: int
    seeds: tuple[int, ...]
    resamples: int
    weights: Literal["imagenet", "members"] | None
    precision: Literal["float32", "mixed_bfloat16"]
    head_epochs: int = 40
    for_tests: bool = False
    training_time: str = "hours"
    one_at_a_time: bool = False
    width: Literal["thin", "published"] = "thin"
    patience: int = 0
    replaces_stale: bool = True


PROFILES: Final = {
    "smoke": Profile(
        name="smoke",
        patients=24,
        corpus_size=96,
        image_size=64,
        epochs=2,
        batch_size=16,
        seeds=(0,),
        resamples=50,
        weights=None,
        precision="float32",
        for_tests=True,
        training_time="some minutes",
    ),
    "quick": Profile(
        name="quick",
        patients=640,
        corpus_size=256,
        image_size=128,
        epochs=30,
        batch_size=16,
        seeds=(0,),
        resamples=1000,
        weights=None,
        precision="float32",
        training_time="about half an hour on two processor cores",
        patience=3,
    ),
    "full": Profile(
        name="full",
        patients=1000,
        corpus_size=512,
        image_size=224,
        epochs=30,
        batch_size=32,
        seeds=(0, 1, 2),
        resamples=2000,
        weights="imagenet",
        precision="mixed_bfloat16",
        training_time="hours on a GPU",
        one_at_a_time=True,
        replaces_stale=False,
    ),
}
# Of the reference study, which no chapter trains: see book/study.py. Its films are those of quick.
STUDY: Final = replace(
    PROFILES["quick"],
    name="study",
    epochs=60,
    batch_size=32,
    seeds=(0, 1, 2),
    width="published",
    patience=8,
    training_time="days on two processor cores, ten minutes on a GPU",
    replaces_stale=False,
)
STUDIES: Final = {
    "study": STUDY,
    "smoke": replace(
        STUDY, patients=24, image_size=80, epochs=2, batch_size=16, seeds=(0, 1), resamples=50
    ),
}


def get_profile(name: str) -> Profile:
    """The profile of a name.

    Args:
        name: A key of `PROFILES`: "smoke", "quick" or "full".

    Returns:
        Its settings.

    Raises:
        CourseError: No profile has this name.

    Example:
        >>> get_profile("quick").image_size
        128
    """
    return PROFILES[known_name("profile", name, PROFILES)]


@dataclass(frozen=True)
class Architecture:
    """What is particular to one architecture.

    Attributes:
        name: Its key in `ARCHITECTURES`, or those of its members joined by "+".
        title: What tables and figures call it.
        preprocessing: What the backbone expects: a key of `models.PREPROCESSING`, of a fusion
            several.
        channels: Of its input: 1 grey, 3 grey repeated.
        native_size: Side of the images that it was published for, in pixels.
        min_size: Least side of an image, in pixels.
        last_conv: The layer whose maps Grad-CAM weighs.
        fine_conv: The last layer with 13 to 16 regions across at 128 pixels; of a fusion none.
        learning_rate: Peak, from scratch.
        year: Of its publication.
        paper: Key in book/references.bib.
        last_conv_below: On images with a side below the first, in pixels, where the last maps are 1
            x 1, the layer that takes the place of `last_conv`.
        parameters: As published, with its own classifier of 1,000 classes; 0 if it was not
            published with one.
        pretrained: Whether ImageNet weights exist.
        fine_tuned_from: The first layer that moves in the second stage of transfer.
        thin: Share of the published width that hundreds of films can fill, 0 to 1.
        thin_rate: Peak, from scratch, at that width; None for that of the published width.
        members: Of a fusion: the backbones whose vectors are joined.
        hidden: Units between the vector and the logits; 0 for none.
        recipes: By profile, in what its training differs from the profile. What was tried for
            quick stands in data/reference/quick_search.csv.
    """

    name: str
    title: str
    preprocessing: str
    channels: int
    native_size: int
    min_size: int
    last_conv: str
    learning_rate: float
    year: int
    paper: str
    fine_conv: str = ""
    last_conv_below: tuple[int, str] = (0, "")
    parameters: int = 0
    pretrained: bool = False
    fine_tuned_from: str = ""
    thin: float = 1.0
    thin_rate: float | None = None
    members: tuple[str, ...] = ()
    hidden: int = 0
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)


def get_architecture(name: str) -> Architecture:
    """The architecture of a name.

    Args:
        name: A key of `ARCHITECTURES`, or backbones joined by "+", as "a+b", for their `fusion`.

    Returns:
        What is particular to it.

    Raises:
        CourseError: No architecture has this name.
        ValueError: The named backbones cannot be fused.

    Example:
        >>> get_architecture("vgg16").last_conv
        'block5_conv3'
    """
    if "+" in name:
        return fusion(*name.split("+"))
    return ARCHITECTURES[known_name("model", name, ARCHITECTURES)]


def fusion(*members: str) -> Architecture:
    """Feature-level fusion: the pooled vectors of several backbones joined before the classifier.

    The layers of each member carry its name as a prefix.

    Args:
        members: Names of two or more different backbones.

    Returns:
        The architecture of the fusion, named after its members.

    Raises:
        ValueError: Fewer than two members, the same one twice, an unknown one, or one that is
            itself a fusion.

    Example:
        >>> fused = fusion("vgg16", "inception_v3")
        >>> fused.name, fused.min_size, fused.last_conv
        ('vgg16+inception_v3', 75, 'vgg16_block5_conv3')
    """
    parts = [get_architecture(member) for member in members]
    if len(set(members)) < 2 or len(set(members)) < len(members) or any(p.members for p in parts):
        raise ValueError(f"fusion: expected two or more different backbones, found {members}")
    return Architecture(
        name="+".join(members),
        title=" + ".join(part.title for part in parts) + " (fused)",
        preprocessing=", ".join(part.preprocessing for part in parts),
        channels=parts[0].channels,
        native_size=max(part.native_size for part in parts),
        min_size=max(part.min_size for part in parts),
        last_conv=f"{members[0]}_{parts[0].last_conv}",
        learning_rate=min(part.learning_rate for part in parts),
        year=max(part.year for part in parts),
        paper=parts[0].paper,
        pretrained=all(part.pretrained for part in parts),
        members=members,
        hidden=256,
    )


def last_conv_layers(name: str, image_size: int | None = None) -> dict[str, str]:
    """The layer that Grad-CAM weighs, by branch.

    On small images the last maps of some networks shrink to one value, and an earlier layer takes
    their place.

    Args:
        name: Of the architecture, as `get_architecture` takes it.
        image_size: Side of the images in pixels, if not native.

    Returns:
        One entry, the name to its layer; of a fusion one for each member.

    Raises:
        ValueError: No architecture has this name.

    Example:
        >>> last_conv_layers("inception_v3", 80), last_conv_layers("inception_v3", 299)
        ({'inception_v3': 'mixed7'}, {'inception_v3': 'mixed10'})
    """
    architecture = get_architecture(name)
    if not architecture.members:
        return {name: _last_conv(architecture, image_size)}
    return {m: f"{m}_{_last_conv(get_architecture(m), image_size)}" for m in architecture.members}


def _last_conv(architecture: Architecture, image_size: int | None) -> str:
    below, layer = architecture.last_conv_below
    small = image_size is not None and image_size < below
    return layer if small else architecture.last_conv


_FROM_MEMBERS: Final = {"weights": "members", "head_epochs": 20}

_SINGLE: Final = (
    Architecture(
        name="custom_cnn",
        title="Custom CNN",
        preprocessing="0..1",
        channels=1,
        native_size=128,
        min_size=32,
        last_conv="block5_relu",
        fine_conv="block4_relu",
        learning_rate=2e-3,
        year=2015,
        paper="ioffe2015",
        recipes={"quick": {"seeds": (0, 1, 2)}},
    ),
    Architecture(
        name="alexnet",
        title="AlexNet",
        preprocessing="0..1",
        channels=3,
        native_size=227,
        min_size=67,
        last_conv="conv5_relu",
        fine_conv="conv2_relu",
        learning_rate=2e-3,
        thin=0.25,
        year=2012,
        paper="krizhevsky2012",
        parameters=62_378_344,
    ),
    Architecture(
        name="vgg16",
        title="VGG16",
        preprocessing="bgr",
        channels=3,
        native_size=224,
        min_size=32,
        last_conv="block5_conv3",
        fine_conv="block4_conv3",
        learning_rate=1.5e-4,
        thin=0.125,
        thin_rate=7e-4,
        year=2014,
        paper="simonyan2015",
        parameters=138_357_544,
        pretrained=True,
        fine_tuned_from="block5_conv1",
    ),
    Architecture(
        name="vgg19",
        title="VGG19",
        preprocessing="bgr",
        channels=3,
        native_size=224,
        min_size=32,
        last_conv="block5_conv4",
        fine_conv="block4_conv4",
        learning_rate=1.5e-4,
        thin=0.125,
        thin_rate=7e-4,
        year=2014,
        paper="simonyan2015",
        parameters=143_667_240,
        pretrained=True,
        fine_tuned_from="block5_conv1",
    ),
    Architecture(
        name="resnet50",
        title="ResNet50",
        preprocessing="bgr",
        channels=3,
        native_size=224,
        min_size=32,
        last_conv="conv5_block3_out",
        last_conv_below=(33, "conv4_block6_out"),
        fine_conv="conv3_block4_out",
        learning_rate=1.5e-3,
        thin=0.25,
        year=2015,
        paper="he2016",
        parameters=25_636_712,
        pretrained=True,
        fine_tuned_from="conv5_block1_1_conv",
    ),
    Architecture(
        name="inception_v3",
        title="InceptionV3",
        preprocessing="-1..1",
        channels=3,
        native_size=299,
        min_size=75,
        last_conv="mixed10",
        last_conv_below=(107, "mixed7"),
        fine_conv="mixed2",
        learning_rate=3e-3,
        thin=0.25,
        year=2015,
        paper="szegedy2016",
        parameters=23_851_784,
        pretrained=True,
        fine_tuned_from="mixed8",
    ),
    Architecture(
        name="xception",
        title="Xception",
        preprocessing="-1..1",
        channels=3,
        native_size=299,
        min_size=71,
        last_conv="block14_sepconv2_act",
        fine_conv="block4_sepconv2_act",
        learning_rate=2e-3,
        thin=0.125,
        year=2017,
        paper="chollet2017",
        parameters=22_910_480,
        pretrained=True,
        fine_tuned_from="block13_sepconv1_act",
    ),
    Architecture(
        name="densenet121",
        title="DenseNet121",
        preprocessing="imagenet",
        channels=3,
        native_size=224,
        min_size=32,
        last_conv="relu",
        last_conv_below=(61, "pool4_conv"),
        fine_conv="pool3_relu",
        learning_rate=2e-3,
        thin=0.25,
        year=2017,
        paper="huang2017",
        parameters=8_062_504,
        pretrained=True,
        fine_tuned_from="conv5_block1_0_bn",
    ),
    Architecture(
        name="mobilenet_v2",
        title="MobileNetV2",
        preprocessing="-1..1",
        channels=3,
        native_size=224,
        min_size=32,
        last_conv="out_relu",
        last_conv_below=(33, "block_13_expand_relu"),
        fine_conv="block_6_expand_relu",
        learning_rate=5e-3,
        thin=0.35,
        year=2018,
        paper="sandler2018",
        parameters=3_538_984,
        pretrained=True,
        fine_tuned_from="block_14_expand",
    ),
)
# In the order of the chapters, in which every table and figure names them.
ARCHITECTURES: Final = {architecture.name: architecture for architecture in _SINGLE}
ARCHITECTURES["late_fusion"] = replace(
    fusion("vgg16", "inception_v3"),
    name="late_fusion",
    title="Late Fusion",
    learning_rate=8e-4,  # between those of its members: VGG16 bears no more, InceptionV3 needs it
    recipes={"quick": _FROM_MEMBERS | {"epochs": 8}, "study": _FROM_MEMBERS},
)


# To readers who try a film of their own in the page: small enough to be fetched by a browser.
OFFERED: Final = ("custom_cnn", "mobilenet_v2")


def recipe(profile: Profile, model: str) -> Profile:
    """The profile with the image size, epochs, seeds and precision that a model needs in it.

    No network sees images below its least size. A fusion of two backbones, "a+b", sees the larger
    images of the two.

    Args:
        profile: The profile as it is for all models.
        model: Name of the architecture, as `get_architecture` takes it.

    Returns:
        The profile for this model.

    Raises:
        ValueError: No architecture has this name.

    Example:
        >>> smoke = get_profile("smoke")
        >>> recipe(smoke, "vgg16").image_size, recipe(smoke, "xception").image_size
        (64, 71)
    """
    architecture = get_architecture(model)
    changes: dict[str, Any] = {"image_size": max(profile.image_size, architecture.min_size)}
    changes |= architecture.recipes.get(profile.name, {})
    if model not in ARCHITECTURES:
        sizes = [recipe(profile, member).image_size for member in architecture.members]
        changes["image_size"] = max(sizes)
    return replace(profile, **changes)


class SaliencyMethod(NamedTuple):
    """What is known of a saliency method besides its function of this name in `gradcam`."""

    title: str
    reads: Literal["layer", "pixels"]  # the maps of one layer, or the film itself


SALIENCY_METHODS: Final = {
    "grad_cam": SaliencyMethod("Grad-CAM", "layer"),
    "grad_cam_plus_plus": SaliencyMethod("Grad-CAM++", "layer"),
    "layer_cam": SaliencyMethod("Layer-CAM", "layer"),
    "score_cam": SaliencyMethod("Score-CAM", "layer"),
    "occlusion": SaliencyMethod("Occlusion", "pixels"),
    "integrated_gradients": SaliencyMethod("Integrated gradients", "pixels"),
}
