"""Run here what a job of .github/workflows would run there.

python tests/workflows.py                       every job with its steps
python tests/workflows.py book/publish ...      run the `run:` steps of these jobs
python tests/workflows.py --from build/release book/publish
                                                with a folder that an earlier job would have left

The steps of all jobs that are named run in one fresh clone of the last commit, whose `origin` is
another clone beside it, so that a push goes nowhere else. `gh` is a stand-in that prints what it is
asked. Steps that use an action are told and left out: files lie where the next job looks for them.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / ".github/workflows"
BASH = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c"]
GH = '#!/bin/sh\nprintf "gh" >&2; printf " %s" "$@" >&2; echo >&2\n'
# What stands in ${{ }} in an `env:`; a matrix gives its first value.
KNOWN = {"github.token": "no-token", "github.repository": "ada/knees"}


def jobs() -> dict[str, dict[str, Any]]:
    """Every job by "workflow/job"."""
    return {
        f"{file.stem}/{name}": job
        for file in sorted(WORKFLOWS.glob("*.yml"))
        for name, job in yaml.safe_load(file.read_text("utf-8"))["jobs"].items()
    }


def told(step: dict[str, Any]) -> str:
    return (
        step.get("name") or step.get("run", "").splitlines()[0] if "run" in step else step["uses"]
    )


def given(value: str, job: dict[str, Any]) -> str:
    """A value of an `env:`, with what GitHub would put in the place of an expression."""
    if not value.startswith("${{"):
        return value
    name = value.strip("${} ")
    if name.startswith("matrix."):
        return str(job["strategy"]["matrix"][name.removeprefix("matrix.")][0])
    return KNOWN[name]


def cloned(folder: Path) -> tuple[Path, dict[str, str]]:
    """A clone to work in, and the environment of a step."""
    origin, work, tools = folder / "origin.git", folder / "work", folder / "tools"
    for command in (
        ["clone", "-q", "--bare", str(ROOT), str(origin)],
        ["clone", "-q", str(origin), str(work)],
    ):
        subprocess.run(["git", *command], check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    subprocess.run(["git", "checkout", "-q", head], cwd=work, check=True)
    tools.mkdir()
    (tools / "gh").write_text(GH)
    (tools / "gh").chmod(0o755)
    version = next(
        x for x in (ROOT / "osteo_utils/__init__.py").read_text().split('"') if x[:1].isdigit()
    )
    environment = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "CI": "true"}
    environment |= {"GITHUB_REPOSITORY": KNOWN["github.repository"], "GITHUB_SHA": head}
    environment |= {"GITHUB_REF_NAME": f"v{version}", "GITHUB_RUN_ID": "1"}
    return work, environment | {"GITHUB_SERVER_URL": "https://github.com"}


def run(name: str, job: dict[str, Any], work: Path, environment: dict[str, str]) -> bool:
    """Run the steps of one job in the clone, as far as the first that fails."""
    for step in job["steps"]:
        kind = "run" if "run" in step else "left out"
        print(f"{name}: {kind}: {told(step)}", flush=True)
        if "run" in step:
            own = {key: given(str(text), job) for key, text in step.get("env", {}).items()}
            done = subprocess.run(
                [*BASH, step["run"]], cwd=work, env=environment | own, check=False
            )
            if done.returncode:
                print(f"{name}: FAILED with {done.returncode}: {told(step)}", flush=True)
                return False
    return True


def main() -> None:
    """Run the named jobs in one clone; list all jobs if none is named. Exit 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", nargs="*", choices=[*jobs(), []], metavar="workflow/job")
    parser.add_argument(
        "--from", dest="left", type=Path, action="append", default=[], metavar="PATH"
    )
    asked = parser.parse_args()
    if not asked.jobs:
        for name, job in jobs().items():
            print(name, *(f"  {told(step)}" for step in job["steps"]), sep="\n")
        return
    with TemporaryDirectory() as folder:
        work, environment = cloned(Path(folder))
        for left in asked.left:
            shutil.copytree(ROOT / left, work / left)
        failed = [name for name in asked.jobs if not run(name, jobs()[name], work, environment)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
