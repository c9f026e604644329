"""Make, fetch or find the corpus of a profile, and write its folder and a digest of its films.

python book/make_corpus.py PROFILE CORPUS [OUTPUT]

OUTPUT is written only if its content changed, so that its time is that of the last change of the
corpus; without it both lines are printed.
"""

import sys
from contextlib import redirect_stdout
from pathlib import Path

from osteo_utils.corpus import listing_digest
from osteo_utils.course import listed, open_course
from osteo_utils.store import replace_file


def corpus_lines(profile: str, corpus: str) -> str:
    """The folder of the corpus, and a digest of all that a listing tells of it."""
    with redirect_stdout(sys.stderr):
        course = open_course(profile, corpus, runs="runs")
    return f"{course.root}\n{listing_digest(listed(course))}\n"


def main() -> None:
    """Write or print the lines."""
    profile, corpus, *output = sys.argv[1:]
    lines = corpus_lines(profile, corpus)
    if not output:
        print(lines, end="")
    elif not (file := Path(output[0])).exists() or file.read_text(encoding="utf-8") != lines:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, lambda part: part.write_text(lines, encoding="utf-8"))


if __name__ == "__main__":
    main()
