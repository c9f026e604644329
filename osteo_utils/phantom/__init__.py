"""A knee phantom with a known truth; needs no TensorFlow and may be used alone."""

from osteo_utils.phantom.knee import (
    FIELD_MM,
    MARKER_STYLES,
    MASKS,
    SPACING_MM,
    T_SCORE_RANGE,
    Anatomy,
    Radiograph,
    Setting,
    bone_truth,
    sample_anatomy,
    sample_setting,
    simulate_knee,
)

__all__ = [
    "FIELD_MM",
    "MARKER_STYLES",
    "MASKS",
    "SPACING_MM",
    "T_SCORE_RANGE",
    "Anatomy",
    "Radiograph",
    "Setting",
    "bone_truth",
    "sample_anatomy",
    "sample_setting",
    "simulate_knee",
]
