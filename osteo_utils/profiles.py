"""Smoke, quick and full: how big, how long and how careful one run of the course is."""

from dataclasses import dataclass, replace
from typing import Any, Final, Literal


@dataclass(frozen=True)
class Profile:
    """Settings of one profile; sizes in pixels, patients have two knees each."""

    name: str
    patients: int
    corpus_size: int  # side of the phantom radiographs on disk
    image_size: int  # side of what the networks see
    epochs: int  # from scratch, or of fine-tuning
    batch_size: int
    seeds: tuple[int, ...]  # training seeds of each model
    resamples: int  # bootstrap resamples behind each interval
    weights: Literal["imagenet", "members"] | None  # members: a fusion starts from their runs
    precision: Literal["float32", "mixed_bfloat16"]
    head_epochs: int = 40  # of the first stage of transfer, on cached features
    for_tests: bool = False  # its numbers mean nothing; what is missing is trained unasked
    training_time: str = "hours"  # of all networks, in words
    width: Literal["thin", "published"] = "thin"
    patience: int = 0  # epochs without a lower loss before the rate falls; 0: it falls by a plan
    replaces_stale: bool = True  # a finished run that no longer fits is trained again unasked


PROFILES: Final = {
    "smoke": Profile(
        *("smoke", 24, 96, 64, 2, 16, (0,), 50, None, "float32"),
        for_tests=True,
        training_time="some minutes",
    ),
    "quick": Profile(
        *("quick", 640, 256, 96, 8, 16, (0, 1, 2), 1000, None, "float32"),
        training_time="about half an hour on two processor cores",
    ),
    "full": Profile(
        *("full", 1000, 512, 224, 30, 32, (0, 1, 2), 2000, "imagenet", "mixed_bfloat16"),
        training_time="hours on a GPU",
        replaces_stale=False,
    ),
}
# Of the reference study, which no chapter trains: see book/study.py.
STUDY: Final = Profile(
    *("study", 640, 256, 128, 60, 32, (0, 1, 2), 1000, None, "float32"),
    width="published",
    patience=8,
    training_time="days on two processor cores, ten minutes on a GPU",
    replaces_stale=False,
)


def get_profile(name: str) -> Profile:
    """The profile of that name; `ValueError` names the choices."""
    if name not in PROFILES:
        raise ValueError(f"profile: expected one of {', '.join(PROFILES)}, found {name!r}")
    return PROFILES[name]


_ONCE: Final[dict[str, Any]] = {"seeds": (0,)}
_ONCE_BF16: Final = _ONCE | {"precision": "mixed_bfloat16"}

# What one model does otherwise than its profile. Smoke: the least size a network takes. Quick:
# what two cores can train within the time of a build (measured; see benchmarks/bench_training.py).
RECIPES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "smoke": {
        "alexnet": {"image_size": 67},
        "inception_v3": {"image_size": 75},
        "xception": {"image_size": 71},
        "late_fusion": {"image_size": 75},
    },
    "quick": {
        "alexnet": _ONCE | {"image_size": 96},
        "vgg16": _ONCE_BF16 | {"image_size": 64, "epochs": 5},
        "vgg19": _ONCE_BF16 | {"image_size": 64, "epochs": 5},
        "resnet50": _ONCE | {"image_size": 64},
        "inception_v3": _ONCE | {"image_size": 80, "epochs": 6},
        "xception": _ONCE | {"image_size": 72, "epochs": 4},
        "densenet121": _ONCE | {"image_size": 64, "epochs": 7},
        "mobilenet_v2": _ONCE | {"epochs": 12},
        "late_fusion": _ONCE_BF16
        | {"image_size": 75, "weights": "members", "head_epochs": 20, "epochs": 1},
    },
    "full": {},
    "study": {"late_fusion": {"weights": "members", "head_epochs": 20}},
}


def recipe(profile: Profile, model: str) -> Profile:
    """The profile with the image size, epochs, seeds and precision that this model needs in it.

    A fusion of two backbones, "a+b", sees the larger images of the two.
    """
    known = RECIPES.get(profile.name, {})
    if "+" in model and model not in known:
        sizes = [recipe(profile, member).image_size for member in model.split("+")]
        return replace(profile, image_size=max(sizes))
    return replace(profile, **known.get(model, {}))
