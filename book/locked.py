"""Run a command while holding a lock file, so that two `make` never write the same files.

python book/locked.py build/book.lock COMMAND...

The command inherits the lock: it is let go when the last process that holds it ends, however it
ends, so a killed build leaves no stale lock behind. Only the standard library: this also guards
the making of the environment. Without `fcntl` (Windows) the command runs unguarded, and says so.
"""

import os
import sys
from pathlib import Path


def acquire(path: Path) -> None:
    """Wait for the lock, telling whom for, and keep it for the life of this process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        print("No file locks on this system: run one make at a time.", file=sys.stderr)
        return
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 20).decode() or "unknown"
        print(f"Another build is at work (process {holder}): waiting for it.", file=sys.stderr)
        fcntl.flock(handle, fcntl.LOCK_EX)
    os.truncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
    os.set_inheritable(handle, True)


if __name__ == "__main__":
    acquire(Path(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
