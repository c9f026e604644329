"""The order of work: corpus -> chapters -> book. `make book` starts it through book/build.py.

That writes corpus.txt when the corpus has changed, and keeps the files of trained/: each says that
a finished run still fits its network, its settings and the split. Where none says so, `train` runs.
"""

import json
import shlex
import sys
from pathlib import Path

from osteo_utils.registry import ARCHITECTURES, OFFERED, get_profile, recipe

PROFILE, CORPUS = config["profile"], config["corpus"]
BUILD = f"build/{config['name']}/{PROFILE}"
PYTHON = shlex.quote(sys.executable)
JUPYTER_BOOK = shlex.quote(str(Path(sys.executable).parent / "jupyter-book"))

# As its notebook says: the results of other chapters that a chapter reads, those that it writes, and
# the runs that are trained before it, side by side. The order is that of the table of contents.
sys.path.append("book")
from contents import notebooks

CHAPTERS = {path.stem: json.loads(path.read_text(encoding="utf-8"))["metadata"]["osteo"] for path in notebooks()}
WRITERS = {result: chapter for chapter, facts in CHAPTERS.items() for result in facts["writes"]}

OSTEO_UTILS = sorted(str(path) for path in Path("osteo_utils").rglob("*") if path.suffix in {".py", ".js", ".css", ".json", ".md"})
DATA = sorted(str(path) for path in Path("data").rglob("*.csv"))
SERVED = {".md", ".bib", ".css", ".js", ".svg"}
PAGES = sorted(str(path) for path in Path("book").rglob("*") if path.suffix in SERVED)
SCRIPTS = ("assignments", "buttons", "contents", "decks", "dress", "editions", "guide", "minutes", "quizzes")
STAGING = [f"book/{script}.py" for script in (*SCRIPTS, "stage", "syllabus")]
RUNS = f"runs/{config['name']}/{PROFILE}"
MEMORY = 3000  # MiB, of a training or a chapter (measured: at most 2,500)
QUIET = "TF_CPP_MIN_LOG_LEVEL=3 PYDEVD_DISABLE_FILE_VALIDATION=1"
WITH_THREADS = "OMP_NUM_THREADS={threads} OPENBLAS_NUM_THREADS={threads} TF_NUM_INTRAOP_THREADS={threads}"
WITH_THREADS += f" TF_NUM_INTEROP_THREADS=1 {QUIET}"


def executed(chapters):
    return [f"{BUILD}/notebooks/{chapter}.ipynb" for chapter in chapters]


def written(results):
    return executed(WRITERS[result] for result in results)


def read_by(chapter):
    # Runs are on the split. Behind a training, whose input is ancient, Snakemake would overlook that
    # other inputs are newer.
    return [*chapter["reads"], *(["split"] if chapter["runs"] and "split" not in chapter["writes"] else [])]


def runs_of(models):
    models = list(ARCHITECTURES) if models == "all" else models
    seeds = {model: recipe(get_profile(PROFILE), model).seeds for model in models}
    return [f"{BUILD}/trained/{model}-seed{seed}.txt" for model in models for seed in seeds[model]]


def started_from(wildcards):
    if recipe(get_profile(PROFILE), wildcards.model).weights != "members":
        return []
    return [f"{BUILD}/trained/{member}-seed{wildcards.seed}.txt" for member in ARCHITECTURES[wildcards.model].members]


wildcard_constraints:
    chapter="|".join(CHAPTERS),
    model="|".join(ARCHITECTURES),


rule book:
    input:
        f"{BUILD}/html/index.html",


rule chapter:
    input:
        f"{BUILD}/corpus.txt",
        "book/execute.py",
        OSTEO_UTILS,
        DATA,
        lambda wildcards: written(read_by(CHAPTERS[wildcards.chapter])),
        lambda wildcards: runs_of(CHAPTERS[wildcards.chapter]["runs"]),
        notebook="notebooks/{chapter}.ipynb",
    output:
        f"{BUILD}/notebooks/{{chapter}}.ipynb",
    log:
        f"{BUILD}/logs/{{chapter}}.log",
    params:
        corpus=lambda wildcards: CORPUS,  # a text would be searched for wildcards
    resources:
        mem_mb=MEMORY,
    priority: 1
    shell:
        WITH_THREADS + " {PYTHON} book/execute.py {input.notebook:q} {output:q} {PROFILE} {params.corpus:q}"
        " 2> {log:q}"


rule train:
    # Newer files are no reason to train: the run itself knows what it was made from.
    input:
        ancient(written(["split"])),
        started_from,
    output:
        f"{BUILD}/trained/{{model}}-seed{{seed}}.txt",
    log:
        f"{BUILD}/logs/{{model}}-seed{{seed}}.log",
    params:
        corpus=lambda wildcards: CORPUS,  # a text would be searched for wildcards
    # Thin networks gain little from a second core, so as many are trained side by side as there are.
    threads: workflow.cores if get_profile(PROFILE).one_at_a_time else 1
    resources:
        mem_mb=MEMORY,
    priority: 2
    shell:
        WITH_THREADS + " {PYTHON} book/train.py {PROFILE} {params.corpus:q} {wildcards.model}"
        " {wildcards.seed} {output:q} 2> {log:q} || (tail -n 20 {log:q}; exit 1)"


rule export:
    input:
        "book/export_models.py",
        OSTEO_UTILS,
        f"{BUILD}/corpus.txt",
        written(["split"]),
        runs_of(OFFERED),
    output:
        directory(f"{BUILD}/models"),
    log:
        f"{BUILD}/logs/export.log",
    params:
        corpus=lambda wildcards: CORPUS,  # a text would be searched for wildcards
        offered=" ".join(OFFERED),
    resources:
        mem_mb=MEMORY,
    shell:
        WITH_THREADS + " {PYTHON} book/export_models.py {PROFILE} {params.corpus:q} {output:q}"
        " {params.offered} 2> {log:q} || (tail -n 20 {log:q}; exit 1)"


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
        STAGING,
        chapters=executed(CHAPTERS),
        vendor="build/vendor",
        models=f"{BUILD}/models",
    output:
        f"{BUILD}/html/index.html",
    log:
        f"{BUILD}/logs/html.log",
    params:
        site=f"{BUILD}/site",
        html=f"{BUILD}/html",
    shell:
        # Always the whole book from nothing: seconds, and never a stale page.
        "{PYTHON} book/stage.py {params.site} {input.vendor} {input.models} {RUNS} {input.chapters}"
        " && ({JUPYTER_BOOK} build {params.site} -W -n --keep-going -q > {log} 2>&1"
        " || (tail -n 40 {log}; exit 1))"
        " && rm -rf {params.html} && mv {params.site}/_build/html {params.html}"
