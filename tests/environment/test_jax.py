"""Training and scoring on JAX, in an environment that has it."""

import os
import subprocess
import sys

import numpy as np

from osteo_utils.networks.models import build
from osteo_utils.networks.training import method_of
from osteo_utils.registry import PROFILES
from osteo_utils.saliency.gradcam import METHODS

JAX = """
import sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'tensorflow':
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nowhere())
from osteo_utils.course import open_course, train_model
from osteo_utils.networks.saved import load_model
run = train_model(open_course('smoke', runs=sys.argv[1]), 'custom_cnn')
model = load_model(run)
assert run.info['versions']['backend'] == 'jax' and 'tensorflow' not in sys.modules
assert all(layer.supports_jit for layer in model.layers)  # else it goes operation by operation
print(run.info['network'])
"""


def test_a_training_runs_on_jax_where_there_is_no_tensorflow(tmp_path):
    command = [sys.executable, "-c", JAX, str(tmp_path / "runs")]
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    here = method_of("custom_cnn", PROFILES["smoke"])["network"]
    assert done.stdout.splitlines()[-1] == str(here)  # the run may travel to TensorFlow


MAPS = """
import sys
import numpy as np
from osteo_utils.networks.models import build
from osteo_utils.saliency.gradcam import METHODS
model = build('custom_cnn', 32)
model.load_weights(sys.argv[1] + '/weights.weights.h5')
films = np.load(sys.argv[1] + '/films.npy')
maps = {name: method(model, films, [0, 1], flat='nan') for name, method in METHODS.items()}
model.get_layer('logits').kernel.assign(2 * np.asarray(model.get_layer('logits').kernel))
again = METHODS['grad_cam'](model, films, [0, 1], flat='nan')
np.savez(sys.argv[1] + '/maps.npz', again=again, **maps)
"""


def test_every_saliency_method_has_the_same_maps_on_jax(tmp_path):
    model = build("custom_cnn", 32)
    films = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 1), dtype=np.uint8)
    model.save_weights(tmp_path / "weights.weights.h5")
    np.save(tmp_path / "films.npy", films)
    command = [sys.executable, "-c", MAPS, str(tmp_path)]
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "maps.npz")
    for name, method in METHODS.items():
        expected = method(model, films, [0, 1], flat="nan")
        largest = np.nanmax(np.abs(expected))
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-4 * largest)
    np.testing.assert_allclose(found["again"], 2 * found["grad_cam"], rtol=1e-4)  # new weights
