"""`python -m osteo_utils`: the command line of `osteo_utils.cli`."""

import sys

from osteo_utils.cli import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m osteo_utils"))
