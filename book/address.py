"""Set the address of the repository everywhere, or say where it is.

    python book/address.py owner/name

`_config.yml` is its home. Colab's buttons, the installation in Colab, the README and the citation
spell it out; they are changed with it. Only the standard library, since this runs in a fresh clone.
"""

import re
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PLACEHOLDER: Final = "osteo-course/osteo-xray-course"
PLACES: Final = ("*.md", "*.yml", "*.cff", "book/**/*.md", "notebooks/*.ipynb", ".github/**/*")


def address_in(root: Path = ROOT) -> str:
    """The repository as `owner/name`, as `_config.yml` says."""
    config = (root / "_config.yml").read_text(encoding="utf-8")
    found = re.search(r"^  url: https://github\.com/(\S+)$", config, re.MULTILINE)
    if not found:
        raise ValueError(
            f"{root / '_config.yml'}: expected repository: url: https://github.com/..."
        )
    return found[1]


def pages_of(repository: str) -> str:
    """Where GitHub shows the pages of a repository, with "/" at the end.

    Example:
        >>> pages_of("Ada/knees"), pages_of("ada/ada.github.io")
        ('https://ada.github.io/knees/', 'https://ada.github.io/')
    """
    owner, name = repository.lower().split("/")[0], repository.split("/")[1]
    host = f"{owner}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def set_address(repository: str, root: Path = ROOT) -> list[Path]:
    """Write another address in the place of the one that stands in `_config.yml`.

    Args:
        repository: As `owner/name`.
        root: Folder of the repository.

    Returns:
        The files that were changed.

    Raises:
        ValueError: It is no such name.
    """
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9-]*)/[A-Za-z0-9._-]+", repository):
        raise ValueError(
            f"expected owner/name, as in make address REPO=ada/knees; found {repository!r}"
        )
    old, changed = address_in(root), []
    here = re.compile(rf"((?:github\.com|github|gh)/){re.escape(old)}(?![\w-])")
    for file in sorted({file for place in PLACES for file in root.glob(place) if file.is_file()}):
        before = file.read_text(encoding="utf-8")
        after = here.sub(rf"\g<1>{repository}", before).replace(pages_of(old), pages_of(repository))
        if after != before:
            file.write_text(after, encoding="utf-8")
            changed.append(file)
    return changed


def warning(root: Path = ROOT) -> str:
    """What a build says while nobody has set the address; "" once it is set."""
    if address_in(root) != PLACEHOLDER:
        return ""
    return (
        f"\nTHE ADDRESS OF THIS REPOSITORY IS NOT SET. Colab's buttons lead to {PLACEHOLDER},\n"
        "which is a placeholder. Set it once, then build again: make address REPO=owner/name\n"
    )


def main() -> None:
    """Set the address that is given; without one say which it is."""
    try:
        changed = set_address(sys.argv[1]) if sys.argv[1:] and sys.argv[1] else []
    except ValueError as error:
        sys.exit(f"The address was not set: {error}")
    print(f"{address_in()}, written in {len(changed)} files; pages: {pages_of(address_in())}")
    print(warning(), end="", file=sys.stderr)


if __name__ == "__main__":
    main()
