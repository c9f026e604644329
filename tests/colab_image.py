"""Write the versions that Colab has today into constraints-colab.txt, and say what has changed.

python tests/colab_image.py [FILE]

FILE is a list as `pip freeze` writes it; without one, Colab's own list is fetched.
"""

import re
import sys
from datetime import date
from pathlib import Path
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
LIST = "https://raw.githubusercontent.com/googlecolab/backend-info/main/pip-freeze.txt"


def named(package: str) -> str:
    return re.sub(r"[._-]+", "-", package).lower()


def updated(constraints: str, frozen: str, today: date) -> str:
    """The constraints with the versions of a `pip freeze`; a package that it lacks is left out."""
    pins = re.findall(r"^([\w.-]+)==([^\s;@+]+)", frozen, re.MULTILINE)
    ships = {named(package): version for package, version in pins}
    lines = []
    for line in constraints.splitlines():
        package, pinned, _ = line.partition("==")
        if not pinned or line.startswith("#"):
            month = f"Colab's image of {today:%B %Y}"
            lines.append(re.sub(r"Colab's image of \w+ \d{4}", month, line))
        elif named(package) in ships:
            lines.append(f"{package}=={ships[named(package)]}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Update the file in place."""
    file = ROOT / "constraints-colab.txt"
    if sys.argv[1:]:
        frozen = Path(sys.argv[1]).read_text("utf-8")
    else:
        with urlopen(LIST, timeout=60) as answer:
            frozen = answer.read().decode()
    before = file.read_text("utf-8")
    after = updated(before, frozen, date.today())
    file.write_text(after, "utf-8")
    old, new = (set(text.splitlines()) for text in (before, after))
    print(
        "\n".join([*(f"- {x}" for x in sorted(old - new)), *(f"+ {x}" for x in sorted(new - old))])
    )


if __name__ == "__main__":
    main()
