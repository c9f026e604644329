"""The order of work: corpus -> chapters -> book. `make book` starts it through book/build.py.

That writes corpus.txt when the corpus has changed, and keeps the files of trained/: each says that
a finished run still fits its network, its settings and the split. Where none says so, `train` runs.
"""

import shlex
import sys
from pathlib import Path

from osteo_utils.registry import ARCHITECTURES, get_profile, recipe

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
    "07_alexnet": ["05_measuring_a_classifier"],
    "08_vgg16": ["05_measuring_a_classifier"],
    "09_vgg19": ["05_measuring_a_classifier"],
    "10_resnet50": ["05_measuring_a_classifier"],
    "11_inceptionv3": ["05_measuring_a_classifier"],
    "12_xception": ["05_measuring_a_classifier"],
    "13_densenet121": ["05_measuring_a_classifier"],
    "14_mobilenetv2": ["05_measuring_a_classifier"],
    "15_late_fusion": ["05_measuring_a_classifier"],
    "16_nine_pairs": ["05_measuring_a_classifier"],
    "17_comparison": ["05_measuring_a_classifier"],
    "18_where_does_it_look": ["03_splitting_without_leaking"],
    "19_can_you_trust_a_heatmap": ["03_splitting_without_leaking"],
    "20_leakage_laboratory": ["02_data_audit"],
    "21_real_radiographs": ["02_data_audit"],
    "22_try_your_own": ["03_splitting_without_leaking"],
}

OFFERED = ["custom_cnn", "mobilenet_v2"]  # to readers who try their own film

# A chapter, and the models whose runs it reads: trained before it, side by side.
TRAINED = {
    "06_custom_cnn": ["custom_cnn"],
    "07_alexnet": ["alexnet"],
    "08_vgg16": ["vgg16"],
    "09_vgg19": ["vgg19", "vgg16"],
    "10_resnet50": ["resnet50", "vgg16"],
    "11_inceptionv3": ["inception_v3", "resnet50"],
    "12_xception": ["xception", "vgg16", "custom_cnn"],
    "13_densenet121": ["densenet121"],
    "14_mobilenetv2": ["mobilenet_v2", "custom_cnn"],
    "15_late_fusion": ["late_fusion", "vgg16", "inception_v3"],
    "16_nine_pairs": list(ARCHITECTURES),
    "17_comparison": list(ARCHITECTURES),
    "18_where_does_it_look": list(ARCHITECTURES),
    "19_can_you_trust_a_heatmap": list(ARCHITECTURES),
    "22_try_your_own": OFFERED,
}

OSTEO_UTILS = sorted(str(path) for path in Path("osteo_utils").rglob("*") if path.suffix in {".py", ".js", ".css"})
DATA = sorted(str(path) for path in Path("data").rglob("*.csv"))
SERVED = {".md", ".bib", ".css", ".js", ".svg"}
PAGES = sorted(str(path) for path in Path("book").rglob("*") if path.suffix in SERVED)
RUNS = f"runs/{config['name']}/{PROFILE}"
HALF = max(1, workflow.cores // 2)  # two jobs side by side: small networks gain little from more
QUIET = "TF_CPP_MIN_LOG_LEVEL=3 PYDEVD_DISABLE_FILE_VALIDATION=1"
WITH_THREADS = "OMP_NUM_THREADS={threads} OPENBLAS_NUM_THREADS={threads} TF_NUM_INTRAOP_THREADS={threads}"
WITH_THREADS += f" TF_NUM_INTEROP_THREADS=1 {QUIET}"


def executed(chapters):
    return [f"{BUILD}/notebooks/{chapter}.ipynb" for chapter in chapters]


def runs_of(models):
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
        lambda wildcards: executed(CHAPTERS[wildcards.chapter]),
        lambda wildcards: runs_of(TRAINED.get(wildcards.chapter, [])),
        notebook="notebooks/{chapter}.ipynb",
    output:
        f"{BUILD}/notebooks/{{chapter}}.ipynb",
    log:
        f"{BUILD}/logs/{{chapter}}.log",
    params:
        corpus=lambda wildcards: CORPUS,  # a text would be searched for wildcards
    threads: HALF
    priority: 1
    shell:
        WITH_THREADS + " {PYTHON} book/execute.py {input.notebook:q} {output:q} {PROFILE} {params.corpus:q}"
        " 2> {log:q}"


rule train:
    # Newer files are no reason to train: the run itself knows what it was made from.
    input:
        ancient(executed(["03_splitting_without_leaking"])),
        started_from,
    output:
        f"{BUILD}/trained/{{model}}-seed{{seed}}.txt",
    log:
        f"{BUILD}/logs/{{model}}-seed{{seed}}.log",
    params:
        corpus=lambda wildcards: CORPUS,  # a text would be searched for wildcards
    threads: workflow.cores if PROFILE == "full" else HALF  # one at a time on one GPU
    priority: 2
    shell:
        WITH_THREADS + " {PYTHON} book/train.py {PROFILE} {params.corpus:q} {wildcards.model}"
        " {wildcards.seed} {output:q} 2> {log:q} || (tail -n 20 {log:q}; exit 1)"


rule export:
    input:
        "book/export_models.py",
        OSTEO_UTILS,
        f"{BUILD}/corpus.txt",
        executed(["03_splitting_without_leaking"]),
        runs_of(OFFERED),
    output:
        directory(f"{BUILD}/models"),
    log:
        f"{BUILD}/logs/export.log",
    params:
        corpus=lambda wildcards: CORPUS,  # a text would be searched for wildcards
        offered=" ".join(OFFERED),
    threads: HALF
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
        "book/stage.py",
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
