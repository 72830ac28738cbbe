"""Jobs that Slurm ends, refuses or holds back: what is said, and that a rerun goes on."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from cluster import Run, checkpoints, until

import micro

RULES = """
rule all:
    input: expand("gpu-{n}.txt", n=range(3)), "hungry.txt"

rule gpu:
    output: "gpu-{n}.txt"
    resources: gpu=1
    shell: "echo $CUDA_VISIBLE_DEVICES > {output}; sleep 3"

rule hungry:
    output: "hungry.txt"
    resources: mem_mb=lambda wildcards, attempt: 400 * attempt
    shell: "python3 -c 'import time; full = b\\"x\\" * 500_000_000; time.sleep(5)'; touch {output}"

rule slow:
    output: "slow.txt"
    resources: runtime=1, slurm_extra="--signal=TERM@10"
    shell: "trap 'touch warned' TERM; while true; do sleep 1 || true; done"
"""
SMALL = ("--default-resources", "mem_mb=400", "runtime=5")
ACCOUNT = ("slurm_account=lab", "qos=urgent")


@pytest.fixture(scope="module", autouse=True)
def slow(tmp_path_factory):
    """A job above its time limit, beside the other tests: a limit is a minute at least."""
    return Run(workflow(tmp_path_factory.mktemp("slow")), *SMALL, "--retries", "0", "slow.txt")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Three jobs that want one of two GPUs, and one that takes more memory than it asked for at first."""
    account()
    run = Run(workflow(tmp_path_factory.mktemp("small")), *SMALL, *ACCOUNT)
    run.ended()
    return run


@pytest.fixture(scope="module")
def long(both, tmp_path_factory):
    """A training of some hundred steps, of which all but the training is done."""
    folder = shutil.copytree(both[1], tmp_path_factory.mktemp("long") / "run", symlinks=True)
    config = yaml.safe_load((folder / "config/config.yaml").read_text(encoding="utf-8"))
    config["train"] |= {"epochs": 30, "evaluations": 15}
    micro.write_config(folder, config)
    micro.snakemake(folder, "results/micro/train/preflight.json")
    return folder


def test_no_two_jobs_have_the_same_gpu_at_the_same_time(small):
    jobs = [job for job in small.jobs if job.name.startswith("rule_gpu_")]
    assert [job.given["gres/gpu"] for job in jobs] == ["1"] * 3
    had = {job.number: (small.folder / f"gpu-{job.name[-1]}.txt").read_text().strip() for job in jobs}
    assert set(had.values()) == {"0", "1"}, "each job sees one, and both are used"
    for one in jobs:
        for other in jobs:
            if one is not other and had[one.number] == had[other.number]:
                assert one.end <= other.start or other.end <= one.start


def test_a_job_above_its_memory_is_killed_in_words_and_gets_more_the_next_time(small):
    first, second = sorted((job for job in small.jobs if job.name == "rule_hungry"), key=lambda job: job.start)
    assert first.state in ("FAILED", "OUT_OF_MEMORY")
    assert (first.given["mem"], second.given["mem"]) == ("400M", "800M")
    assert second.state == "COMPLETED"
    assert "exceeded memory limit" in small.text or "OUT_OF_MEMORY" in small.text


def test_account_and_quality_of_service_are_those_of_the_profile(small):
    assert {(job.account, job.qos) for job in small.jobs} == {("lab", "urgent")}


@pytest.mark.example
def test_a_training_that_slurm_ends_goes_on_from_its_checkpoint(long):
    model = "results/micro/model/config.json"
    run = Run(long, "--retries", "1", model)
    first = run.number("train")
    until(lambda: checkpoints(long))
    signal(first, "TERM")  # as Slurm does before the time limit
    second = run.number("train", after=1)
    assert "The checkpoint is kept" in run.text
    (kept,) = checkpoints(long)
    log = until(lambda: list(long.glob(f".snakemake/slurm_logs/rule_train/*/{second}.log")))[0]
    until(lambda: f"goes on from step {kept}" in log.read_text(encoding="utf-8"))
    signal(second)
    assert f"SLURM-job '{second}' failed, SLURM status is: 'CANCELLED'" in run.ended(1)
    assert [job.state.split()[0] for job in run.jobs if "_train_" in job.name] == ["FAILED", "CANCELLED"]
    (kept,) = checkpoints(long)
    run = Run(long, "--slurm-keep-successful-logs", model)
    third = run.number("train")
    run.ended()
    (log,) = long.glob(f".snakemake/slurm_logs/rule_train/*/{third}.log")
    assert f"goes on from step {kept}" in log.read_text(encoding="utf-8")


@pytest.mark.example
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--set-resources", "plan:mem_mb=99999999"), ""),
        (("--set-resources", "leaks:mem_mb=99999999"), "Memory specification can not be satisfied"),
        (("--set-resources", "leaks:gpu=9"), "Requested node configuration is not available"),
        (("--set-threads", "leaks=64"), "More processors requested than permitted"),
    ],
)
def test_more_than_a_node_has_is_refused_at_once(long, asked, said):
    rule = asked[1].split(":")[0].split("=")[0]
    run = Run(long, "--retries", "0", *asked, "--forcerun", rule, "--", f"results/micro/{TARGETS[rule]}")
    assert said in run.ended(1)
    assert f"Error in {'group' if rule == 'plan' else 'rule'}" in run.text


def test_a_job_is_warned_before_its_time_limit_and_the_limit_is_named(slow):
    assert "SLURM status is: 'TIMEOUT'" in slow.ended(1)
    assert (slow.folder / "warned").exists()
    (job,) = slow.jobs
    assert (job.state, (job.end - job.start).seconds >= 60) == ("TIMEOUT", True)


TARGETS = {"plan": "train/plan.json", "leaks": "split/leaks.json"}


def workflow(folder: Path) -> Path:
    """A folder with a few small rules."""
    (folder / "Snakefile").write_text(RULES, encoding="utf-8")
    return folder


def signal(number: str, name: str | None = None) -> None:
    """End a job, or send a signal to what runs in it."""
    subprocess.run([str(shutil.which("scancel")), *(["--signal", name] if name else []), number], check=True)


def account() -> None:
    """An account and a quality of service beside those that everybody has."""
    for words in (
        "add qos urgent",
        "add account lab description=lab organization=lab",
        "add user root account=lab",
        "modify user root where account=lab set qos+=urgent",
    ):
        subprocess.run(["sacctmgr", "-i", *words.split()], check=True, stdout=subprocess.DEVNULL)
