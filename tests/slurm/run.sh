#!/usr/bin/env bash
# The tests of tests/slurm through a Slurm of their own, which is gone afterwards: run.sh PYTHON [arguments of pytest]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SLURM_PREFIX=$(mktemp -d "${TMPDIR:-/tmp}/snaketune-slurm.XXXX")
# More than the machine has: Slurm counts what jobs ask for, not what they use.
export SLURM_PREFIX SLURM_PORT="${SLURM_PORT:-17817}" SLURM_CPUS=16 SLURM_MEM_MB=64000 SLURM_GPUS=2
trap '"$here/stop.sh" --purge' EXIT
"$here/start.sh"
. "$SLURM_PREFIX/env.sh"
SNAKETUNE_SLURM=1 "$1" -m pytest "$here" "${@:2}"
