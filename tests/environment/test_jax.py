"""Training and scoring on JAX, in an environment that has it."""

import os
import subprocess
import sys

from osteo_utils.networks.training import method_of
from osteo_utils.registry import PROFILES

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
