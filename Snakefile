"""The order of work: corpus -> chapters -> book. `make book` starts it through book/build.py."""

import shlex
import sys
from pathlib import Path

PROFILE, CORPUS = config["profile"], config["corpus"]
BUILD = f"build/{config['name']}/{PROFILE}"
PYTHON = shlex.quote(sys.executable)
JUPYTER_BOOK = shlex.quote(str(Path(sys.executable).parent / "jupyter-book"))

# A chapter, and the chapters whose results it reads.
CHAPTERS = {
    "01_bones_and_x_rays": [],
    "02_data_audit": [],
    "03_splitting_without_leaking": ["02_data_audit"],
    "04_pixels_to_tensors": [],
    "05_measuring_a_classifier": ["03_splitting_without_leaking"],
    "06_custom_cnn": ["05_measuring_a_classifier"],
    "14_mobilenetv2": ["06_custom_cnn"],
    "18_where_does_it_look": ["14_mobilenetv2"],
}

OSTEO_UTILS = sorted(str(path) for path in Path("osteo_utils").rglob("*.py"))
SERVED = {".md", ".bib", ".css", ".js", ".svg"}
PAGES = sorted(str(path) for path in Path("book").rglob("*") if path.suffix in SERVED)


def executed(chapters):
    return [f"{BUILD}/notebooks/{chapter}.ipynb" for chapter in chapters]


wildcard_constraints:
    chapter="|".join(CHAPTERS),


rule book:
    input:
        f"{BUILD}/html/index.html",


rule corpus:
    input:
        [f"osteo_utils/{name}.py" for name in ("labels", "profiles", "phantom", "images", "corpus")],
    output:
        f"{BUILD}/corpus.txt",
    params:
        corpus=CORPUS,
    shell:
        "{PYTHON} book/make_corpus.py {PROFILE} {params.corpus:q} > {output}"


rule chapter:
    input:
        f"{BUILD}/corpus.txt",
        "book/execute.py",
        OSTEO_UTILS,
        lambda wildcards: executed(CHAPTERS[wildcards.chapter]),
        notebook="notebooks/{chapter}.ipynb",
    output:
        f"{BUILD}/notebooks/{{chapter}}.ipynb",
    log:
        f"{BUILD}/logs/{{chapter}}.log",
    params:
        corpus=CORPUS,
    threads: max(1, workflow.cores // 2)  # two chapters side by side; small networks gain little from more
    priority: 1
    shell:
        "OMP_NUM_THREADS={threads} OPENBLAS_NUM_THREADS={threads} TF_NUM_INTRAOP_THREADS={threads}"
        " TF_NUM_INTEROP_THREADS=1 TF_CPP_MIN_LOG_LEVEL=3 PYDEVD_DISABLE_FILE_VALIDATION=1"
        " {PYTHON} book/execute.py {input.notebook} {output} {PROFILE} {params.corpus:q} 2> {log}"


rule browser_libraries:
    input:
        "book/package-lock.json",
        "book/vendor.py",
    output:
        directory("build/vendor"),
    shell:
        "{PYTHON} book/vendor.py {output}"


rule html:
    input:
        PAGES,
        "_config.yml",
        "_toc.yml",
        "book/stage.py",
        chapters=executed(CHAPTERS),
        vendor="build/vendor",
    output:
        f"{BUILD}/html/index.html",
    log:
        f"{BUILD}/logs/html.log",
    params:
        site=f"{BUILD}/site",
        html=f"{BUILD}/html",
    shell:
        # Always the whole book from nothing: seconds, and never a stale page.
        "{PYTHON} book/stage.py {params.site} {input.vendor} {input.chapters}"
        " && ({JUPYTER_BOOK} build {params.site} -W -n --keep-going -q > {log} 2>&1"
        " || (tail -n 40 {log}; exit 1))"
        " && rm -rf {params.html} && mv {params.site}/_build/html {params.html}"
