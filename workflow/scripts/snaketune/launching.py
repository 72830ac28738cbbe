"""How the processes of a training are started: by torchrun on one machine, by srun and torchrun over several nodes.

Light, for it is read by the job that waits for those processes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snaketune.job import StageError

GRACE = 120  # seconds that processes have to write a checkpoint when one of them, or their job, is told to stop
WAIT = 1800  # seconds that the other nodes wait for the last one, which may be writing the model
OF_THE_JOB = ("SLURM_JOB_ID", "SLURM_CONF", "SLURM_CLUSTERS", "SLURM_CLUSTER_NAME")


def world_size(settings: Mapping[str, Any]) -> int:
    """The processes of a training, over all nodes; `settings`: the section `train`."""
    return settings["devices"] * settings["nodes"]


def refuse_without_nodes(nodes: int, environment: Mapping[str, str]) -> None:
    """Raises StageError where several nodes are wanted and no scheduler has given any."""
    if nodes > 1 and "SLURM_JOB_ID" not in environment:
        raise StageError(
            f"`train.nodes` is {nodes}, and nothing here starts processes on other machines: run under Slurm "
            "(`snakemake --workflow-profile profiles/slurm`), or set `train.nodes: 1`"
        )


def command(settings: Mapping[str, Any], order: Path, environment: Mapping[str, str]) -> list[str]:
    """What starts the processes of a training; order: its Work as JSON, in a folder that every node sees.

    On one machine the processes find each other by themselves. Over nodes, srun starts one torchrun on each node of the
    job, and they meet at a free port of this one, which is among them.
    """
    nodes = settings["nodes"]
    refuse_without_nodes(nodes, environment)
    launcher = [sys.executable, "-m", "snaketune.model.launcher", f"--nproc-per-node={settings['devices']}"]
    ending = [f"--shutdown-timeout={GRACE}", "--module", "snaketune.model.process", str(order)]
    if nodes == 1:
        return [*launcher, "--standalone", *ending]
    # --overlap: where this job runs in a step itself, that step shares the processors of its node with the new one
    srun = ["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--wait={WAIT}"]
    meeting = f"{socket.gethostname()}:{_free_port()}"
    identity = f"{environment['SLURM_JOB_ID']}-{order.parent.name}"
    rendezvous = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={meeting}", f"--rdzv-id={identity}"]
    return [*srun, *launcher, *rendezvous, *ending]


def pass_on(launcher: subprocess.Popen[str], settings: Mapping[str, Any]) -> None:
    """Tell the processes of a training that their job was told to stop.

    Over nodes Slurm has told them itself, and srun would take the signal as an order to kill them.
    """
    if settings["nodes"] == 1:
        launcher.terminate()


def environment_of(given: Mapping[str, str], scripts: str, threads: int) -> dict[str, str]:
    """The variables of the processes; scripts: the folder of this package; threads: of each process.

    What srun told this step of itself is left out: a step inside would take the one node of it for the whole job.
    """
    kept = {key: value for key, value in given.items() if not key.startswith("SLURM_") or key in OF_THE_JOB}
    path = os.pathsep.join(filter(None, [scripts, given.get("PYTHONPATH")]))
    return kept | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(max(1, threads))}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
