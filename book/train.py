"""Train one model with one seed, unless its run is whole and fits; a line at start and end.

python book/train.py PROFILE CORPUS MODEL SEED OUTPUT

OUTPUT then says which run it is, see build.py.
"""

import sys
from contextlib import redirect_stdout
from pathlib import Path

from osteo_utils.course import open_course, train_model

from build import write_stamp


def main() -> None:
    """Train, or read the run that is there."""
    profile, corpus, model, seed, output = sys.argv[1:]
    print(f"{model}, seed {seed}: training", flush=True)
    with redirect_stdout(sys.stderr):  # the log; a build shows the lines outside
        course = open_course(profile, corpus, int(seed), "runs")
        run = train_model(course, model)
    write_stamp(Path(output), run.folder)
    score = run.metrics["validation"]["balanced_accuracy"]
    print(
        f"{model}, seed {seed}: trained in {run.info['seconds']:.0f} s, balanced accuracy on "
        f"validation {score['value']:.2f} ({score['low']:.2f} to {score['high']:.2f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
