"""Write down how each network of a profile would be trained now, for build.py to compare.

python book/methods.py PROFILE OUTPUT

Keras has to build every network for that, so build.py asks only when the package has changed.
"""

import json
import sys
from pathlib import Path

from osteo_utils.networks.training import method_of
from osteo_utils.registry import ARCHITECTURES, get_profile, recipe
from osteo_utils.store import replace_file


def main() -> None:
    """Write `training.method_of` each network as JSON."""
    profile, output = get_profile(sys.argv[1]), Path(sys.argv[2])
    methods = {name: method_of(name, recipe(profile, name)) for name in ARCHITECTURES}
    text = json.dumps(methods, indent=1) + "\n"
    replace_file(output, lambda part: part.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
