"""The graph of the reference study runs as jobs of a cluster."""

import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]


def test_a_small_study_runs_as_jobs_of_a_cluster(tmp_path):
    command = [sys.executable, "-m", "snakemake", "--snakefile", "book/study.smk", "--nolock"]
    command += ["--executor", "cluster-generic", "--jobs", "2", "--cores", "2"]
    command += ["--cluster-generic-submit-cmd", str(Path(__file__).with_name("submit.sh"))]
    command += ["--config", "study=smoke", "models=['custom_cnn']", f"home={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    scores = pd.read_csv(tmp_path / "tables/scores.csv")
    assert set(zip(scores["model"], scores["seed"], strict=True)) == {
        ("custom_cnn", 0),
        ("custom_cnn", 1),
    }
