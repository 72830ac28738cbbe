# What start.sh and stop.sh share: settings from the environment, and daemons by the process ids that they wrote.
# shellcheck shell=bash

PREFIX=${SLURM_PREFIX:-${TMPDIR:-/tmp}/snaketune-slurm}
PORT=${SLURM_PORT:-16817}
NODES=${SLURM_NODES:-1}
CPUS=${SLURM_CPUS:-$(nproc)}
MEM=${SLURM_MEM_MB:-$(awk '/MemTotal/{print int($2 / 1024 * 0.9)}' /proc/meminfo)}
GPUS=${SLURM_GPUS:-2}
DBD=${SLURM_DBD:-1}
CGROUP=${SLURM_CGROUP:-0}
HOST=$(hostname -s 2>/dev/null || hostname)
ETC=$PREFIX/etc RUN=$PREFIX/run LOG=$PREFIX/log STATE=$PREFIX/state
MARK="# snaketune-slurm $PORT"
PATH=$PATH:/usr/sbin:/sbin
export SLURM_CONF=$ETC/slurm.conf

say() { printf 'slurm: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

runs() { # runs PID NAME: the process is there, has that name, and is no zombie, which a slow init leaves behind
  [ -n "$1" ] && awk -v name="$2" '/^Name:/{n=$2} /^State:/{s=$2} END{exit !(n == name && s != "Z" && s != "X")}' \
    "/proc/$1/status" 2>/dev/null
}

up() { # up FILE NAME: the process whose id stands in run/FILE.pid runs
  runs "$(cat "$RUN/$1.pid" 2>/dev/null)" "$2"
}
