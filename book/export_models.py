"""Export networks and example phantoms for the page on which readers try their own X-ray.

python book/export_models.py PROFILE CORPUS TARGET MODEL...
"""

import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path

from osteo_utils.course import arrays, open_course, trained
from osteo_utils.export import write_site


def main() -> None:
    """Fill TARGET, in place only when everything has been exported and agrees."""
    profile, corpus, target, *models = sys.argv[1:]
    fresh = Path(f"{target}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    with redirect_stdout(sys.stderr):  # the log
        course = open_course(profile, corpus, runs="runs")
        runs = [trained(course, model) for model in models]
        parts = [arrays(course, run.info["image_size"]) for run in runs]
        write_site(runs, parts, fresh, course.profile.corpus_size)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


if __name__ == "__main__":
    main()
