"""Numbers that stand in the text are those that the tables of physics and the code give."""

import re
from pathlib import Path

import numpy as np
import pytest

from osteo_utils.phantom.corpus import Population, best_possible
from osteo_utils.phantom.knee import MU
from osteo_utils.registry import ARCHITECTURES, PROFILES, recipe

ROOT = Path(__file__).resolve().parents[2]
# Mass attenuation (cm2/g) of Hubbell and Seltzer at 40, 50 and 80 keV; density (g/cm3) of ICRU 44.
BONE = np.array([0.6655, 0.4242, 0.2229]) * 1.92 / 10  # per mm
MUSCLE = np.array([0.2688, 0.2262, 0.1823]) * 1.05 / 10


def numbers(pattern, file):
    """The numbers that a pattern catches in a page or a notebook."""
    found = re.search(pattern, (ROOT / file).read_text("utf-8"))
    return [float(each) for each in found.groups()]


def at(energy, two):
    """Attenuation between 40 and 50 keV, along a power law."""
    return two[0] * (energy / 40) ** (np.log(two[1] / two[0]) / np.log(50 / 40))


def test_two_beams_have_the_attenuation_of_the_tables():
    told = numbers(
        r"mu = np.array\(\[\[([\d.]+), ([\d.]+)\], \[([\d.]+), ([\d.]+)\]\]\)",
        "notebooks/deeper_x_ray_physics.ipynb",
    )
    assert told == pytest.approx([BONE[0], MUSCLE[0], BONE[2], MUSCLE[2]], rel=5e-3)


def test_the_harder_beam_of_the_first_chapter_is_four_kiloelectronvolts_harder():
    page = "notebooks/bones_and_x_rays.ipynb"
    bone, muscle = numbers(r'MU = \{\\"bone\\": ([\d.]+), \\"muscle\\": ([\d.]+)\}', page)
    harder, harder_muscle = numbers(r"([\d.]+) \* solid \+ ([\d.]+) \* \(110 - solid\)", page)
    energies = np.linspace(40, 50, 1001)
    first, second = (energies[np.abs(at(energies, BONE) - mu).argmin()] for mu in (bone, harder))
    assert second - first == pytest.approx(4, abs=0.1)
    assert harder_muscle / muscle == pytest.approx(at(second, MUSCLE) / at(first, MUSCLE), rel=2e-3)


def test_the_phantom_takes_one_density_of_muscle_for_both_energies():
    assert np.divide(MU["bone"], BONE[:2]) == pytest.approx(1, rel=1e-3)
    assert np.ptp(np.divide(MU["muscle"], MUSCLE[:2])) < 2e-3


def test_the_page_on_data_states_the_error_of_the_labels_and_the_best_possible_scores():
    error, accuracy, balanced = numbers(
        r"standard deviation of ([\d.]+) T-scores.*accuracy of ([\d.]+) and a balanced accuracy of "
        r"([\d.]+)\.",
        "book/data.md",
    )
    assert error == Population().error
    best = best_possible()
    assert [accuracy, balanced] == [round(best[k], 3) for k in ("accuracy", "balanced_accuracy")]


def test_all_networks_of_quick_see_images_of_one_size():
    sizes = {recipe(PROFILES["quick"], name).image_size for name in ARCHITECTURES}
    assert sizes == {PROFILES["quick"].image_size}
