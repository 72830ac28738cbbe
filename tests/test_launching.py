"""How the processes of a training are started, on one machine and over several nodes."""

from pathlib import Path

import pytest

from snaketune.job import StageError
from snaketune.launching import command, environment_of, world_size

ORDER = Path("/shared/results/.store/ab12/work.json")


def test_one_machine_needs_no_scheduler():
    made = command({"devices": 4, "nodes": 1}, ORDER, {})
    assert "--nproc-per-node=4" in made
    assert "--standalone" in made
    assert "srun" not in made
    assert made[-1] == str(ORDER)


def test_over_nodes_one_torchrun_starts_on_each_and_they_meet_at_this_one():
    made = command({"devices": 4, "nodes": 3}, ORDER, {"SLURM_JOB_ID": "77"})
    assert made[0] == "srun"
    assert {"--overlap", "--nodes=3", "--ntasks-per-node=1", "--nnodes=3", "--nproc-per-node=4"} <= set(made)
    assert "--standalone" not in made
    assert "--rdzv-id=77-ab12" in made
    (meeting,) = [part for part in made if part.startswith("--rdzv-endpoint=")]
    port = int(meeting.rpartition(":")[2])
    assert 1024 <= port < 65536
    assert world_size({"devices": 4, "nodes": 3}) == 12


def test_nodes_without_a_scheduler_are_refused_in_words():
    with pytest.raises(StageError, match=r"`train.nodes` is 2, .* run under Slurm .*profiles/slurm"):
        command({"devices": 1, "nodes": 2}, ORDER, {})


def test_every_process_finds_the_package_and_has_a_thread():
    made = environment_of({"PYTHONPATH": "/mine", "HOME": "/home"}, "/scripts", 0)
    assert made == {"PYTHONPATH": "/scripts:/mine", "HOME": "/home", "OMP_NUM_THREADS": "1"}


def test_a_step_over_all_nodes_does_not_hear_of_the_step_that_starts_it():
    given = {"SLURM_JOB_ID": "7", "SLURM_CONF": "/etc/slurm.conf", "SLURM_JOB_NODELIST": "node1", "SLURM_NNODES": "1"}
    made = environment_of(given, "/scripts", 2)
    assert {key for key in made if key.startswith("SLURM_")} == {"SLURM_JOB_ID", "SLURM_CONF"}
