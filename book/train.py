"""Train one model with one seed, unless its run is whole; print one line.

python book/train.py PROFILE CORPUS MODEL SEED

The lock makes a restarted build wait for a training that outlived a killed one.
"""

import sys
from contextlib import redirect_stdout

from locked import acquire

from osteo_utils.corpus import corpus_name
from osteo_utils.course import open_course, train_model
from osteo_utils.runs import run_folder


def main() -> None:
    """Train, or read the run that is there."""
    profile, corpus, model, seed = sys.argv[1:]
    with redirect_stdout(sys.stderr):  # the log; a build shows the one line below
        course = open_course(profile, corpus, int(seed), "runs")
        folder = run_folder(course.runs, corpus_name(corpus), profile, model, int(seed))
        acquire(folder.with_suffix(".lock"))
        run = train_model(course, model)
    score = run.metrics["validation"]["balanced_accuracy"]
    print(
        f"{model}, seed {seed}: trained in {run.info['seconds']:.0f} s, balanced accuracy on "
        f"validation {score['value']:.2f} ({score['low']:.2f} to {score['high']:.2f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
