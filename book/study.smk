"""The reference study as a graph of jobs: films -> a training for each network and seed -> tables.

`make study` starts it, `make study EXECUTOR=slurm` on a cluster: where the jobs run is said in
profiles/. A training that was killed goes on where it stopped.
"""

import shlex
import sys

sys.path.append("book")
from luck import trainings

from osteo_utils.registry import ARCHITECTURES, STUDIES

STUDY = STUDIES[config.get("study", "study")]
MODELS = config.get("models", list(ARCHITECTURES))
HOME = config.get("home", "build/study")
RUN = f"{HOME}/runs/simulated/study/{{model}}/seed{{seed}}"
PYTHON = shlex.quote(sys.executable)
SCRIPT = f"{PYTHON} book/study.py --study {config.get('study', 'study')}"
QUIET = "TF_CPP_MIN_LOG_LEVEL=3 OMP_NUM_THREADS={threads} TF_NUM_INTRAOP_THREADS={threads}"


wildcard_constraints:
    model="|".join(ARCHITECTURES),
    seed=r"\d+",


rule tables:
    input:
        expand(f"{RUN}/maps.npz", model=MODELS, seed=STUDY.seeds),
        films=f"{HOME}/inputs/films.npz",
    output:
        f"{HOME}/tables/scores.csv",
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        QUIET + " {SCRIPT} collect {HOME}/inputs {HOME}/runs {HOME}/tables"


rule luck:
    input:
        expand(f"{HOME}/luck/done/{{number}}", number=range(len(trainings()))),
    output:
        f"{HOME}/luck/luck.csv",
    shell:
        QUIET + " {PYTHON} book/luck.py collect {HOME}/luck {output}"


rule luck_pool:
    output:
        f"{HOME}/luck/pool.npz",
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        QUIET + " {PYTHON} book/luck.py draw {HOME}/luck"


rule luck_training:
    input:
        f"{HOME}/luck/pool.npz",
    output:
        touch(f"{HOME}/luck/done/{{number}}"),
    log:
        f"{HOME}/logs/luck-{{number}}.log",
    resources:
        mem_mb=4000,
        runtime=240,
    shell:
        QUIET + " {PYTHON} book/luck.py one {HOME}/luck {wildcards.number} > {log} 2>&1"


rule inputs:
    output:
        f"{HOME}/inputs/films.npz",
        f"{HOME}/inputs/split.csv",
    threads: 2
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        QUIET + " {SCRIPT} pack {HOME}/inputs"


rule train:
    input:
        f"{HOME}/inputs/films.npz",
        lambda wildcards: expand(
            f"{RUN}/maps.npz", model=ARCHITECTURES[wildcards.model].members, seed=wildcards.seed
        ),
    output:
        f"{RUN}/maps.npz",  # written last
    log:
        f"{HOME}/logs/{{model}}-seed{{seed}}.log",
    threads: 2
    resources:
        mem_mb=8000,
        runtime=2880,  # minutes, without a GPU
    shell:
        QUIET + " {SCRIPT} one {HOME}/inputs {HOME}/runs {wildcards.model} --seeds {wildcards.seed} > {log} 2>&1"
