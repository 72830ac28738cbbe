#!/usr/bin/env bash
# Start a real Slurm on this machine, without systemd: Debian's packages, own configuration and ports, 127.0.0.1 only.
#
# It may be called again: what runs is left running. Everything that it writes is below the prefix, but the packages
# and lines in /etc/hosts where the host's own name, or the nodes' where there are several, do not resolve to 127.0.0.1;
# stop.sh removes them.
# Then: `. PREFIX/env.sh`, and sbatch, squeue, sacct and snakemake talk to it.
#
#   SLURM_PREFIX  its folder (/tmp/snaketune-slurm; short: Unix sockets allow 108 characters)
#   SLURM_PORT    slurmctld; slurmdbd is +1, the nodes +2, +3, … (16817)
#   SLURM_NODES   nodes, each a slurmd of its own on this host (1)
#   SLURM_CPUS    CPUs of a node; may be more than there are (nproc)
#   SLURM_MEM_MB  memory of a node; may be more than there is (90 % of it)
#   SLURM_GPUS    GPUs of a node, copies of /dev/null: counted, handed out, useless (2)
#   SLURM_DBD     1: accounting by slurmdbd and a MariaDB of its own; 0: none (1)
#   SLURM_CGROUP  1: memory limits by cgroups (state OUT_OF_MEMORY); 0: by Slurm's own watch (state FAILED) (0)
set -euo pipefail
umask 022
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[ "$(id -u)" = 0 ] || die "root is needed: slurmd starts jobs, apt-get installs"

install() { # the packages that are missing; their own services stay off
  local need=() policy=/usr/sbin/policy-rc.d made=0 failed=0
  command -v munged >/dev/null || need+=(munge)
  { command -v slurmctld && command -v slurmd && command -v sbatch; } >/dev/null || need+=(slurm-wlm)
  if [ "$DBD" = 1 ]; then
    command -v slurmdbd >/dev/null || need+=(slurmdbd)
    command -v mariadbd >/dev/null || need+=(mariadb-server)
  fi
  [ ${#need[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "missing: ${need[*]}; only Debian's packages can be installed here"
  say "installing ${need[*]}"
  if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' > $policy && chmod 755 $policy && made=1; fi
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update && apt-get install -y --no-install-recommends "${need[@]}"; } > "$PREFIX/apt.log" 2>&1 || failed=1
  if [ $made = 1 ]; then rm -f $policy; fi
  if [ $failed = 1 ]; then tail -20 "$PREFIX/apt.log" >&2; die "apt-get failed"; fi
  hash -r
}

local_name() { [ "$(getent ahostsv4 "$1" | awk '{print $1; exit}')" = 127.0.0.1 ]; }

resolve() { # the host's own name must be 127.0.0.1: daemons listen, and srun is called back, where it points
  local name
  for name in "$HOST" $([ "$NODES" -gt 1 ] && nodes); do
    if local_name "$name"; then continue; fi
    { printf '127.0.0.1 %s %s\n' "$name" "$MARK"; cat /etc/hosts; } > "$PREFIX/hosts"
    cat "$PREFIX/hosts" > /etc/hosts
    local_name "$name" || die "$name is not 127.0.0.1, and /etc/hosts does not help"
  done
}

nodes() { seq -f 'node%.0f' "$NODES"; }

gpus() { # gres.conf: devices, since plain files are not handed out; where none can be made, GPUs are only counted
  echo "AutoDetect=off"
  local node number device
  for node in $(nodes); do
    for number in $(seq 0 $((GPUS - 1))); do
      device=$STATE/gpu/$node-$number
      if [ -c "$device" ] || mknod "$device" c 1 3 2>/dev/null; then
        echo "NodeName=$node Name=gpu File=$device"
      else
        echo "NodeName=$node Name=gpu Count=1"
      fi
    done
  done
}

accounting() {
  if [ "$DBD" = 0 ]; then echo "AccountingStorageType=accounting_storage/none"; return; fi
  cat <<CONF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + 1))
# the munge socket for talks with slurmdbd, where AuthInfo is not used
AccountingStoragePass=$RUN/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
CONF
}

limits() { # who kills a job above its memory; slurmctld refuses to have both
  if [ "$CGROUP" = 1 ]; then printf 'ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup\n'; return; fi
  printf 'ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherParams=OverMemoryKill\n'
}

members() {
  local node port=$((PORT + 2)) gres=
  if [ "$GPUS" -gt 0 ]; then gres="Gres=gpu:$GPUS"; echo "GresTypes=gpu"; fi
  for node in $(nodes); do
    echo "NodeName=$node NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$port CPUs=$CPUS RealMemory=$MEM $gres"
    port=$((port + 1))
  done
}

configure() {
  mkdir -p "$PREFIX/bin" "$ETC" "$RUN" "$LOG" "$STATE"/{ctld,munge,gpu,slurmd}
  chmod 755 "$PREFIX" "$ETC" "$RUN" "$LOG" "$STATE" # munged refuses a socket below a folder that others can write
  chmod 700 "$STATE/munge"
  [ -s "$ETC/munge.key" ] || (umask 077; head -c 128 /dev/urandom > "$ETC/munge.key")
  [ -s "$ETC/sql.password" ] || (umask 077; od -An -N16 -tx1 /dev/urandom | tr -d ' \n' > "$ETC/sql.password")
  if [ "$GPUS" -gt 0 ]; then gpus > "$ETC/gres.conf"; fi
  printf 'CgroupMountpoint=/sys/fs/cgroup\nConstrainRAMSpace=yes\nConstrainSwapSpace=no\n' > "$ETC/cgroup.conf"
  cat > "$ETC/slurm.conf" <<CONF
ClusterName=snaketune
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$PORT
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket=$RUN/munge.socket
CredType=cred/munge
StateSaveLocation=$STATE/ctld
SlurmdSpoolDir=$STATE/slurmd/%n
SlurmctldPidFile=$RUN/slurmctld.pid
SlurmdPidFile=$RUN/%n.pid
SlurmctldLogFile=$LOG/slurmctld.log
SlurmdLogFile=$LOG/%n.log
SlurmdParameters=config_overrides
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PriorityType=priority/basic
# finished jobs stay visible to squeue, by which the executor asks
MinJobAge=600
KillWait=15
OverTimeLimit=0
InactiveLimit=0
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobRequeue=0
# what no node can ever give is refused, not left pending
EnforcePartLimits=ALL
$(limits)
$(accounting)
$(members)
PartitionName=main Nodes=ALL Default=YES DefaultTime=60 MaxTime=7-00:00:00 DefMemPerCPU=500 State=UP
CONF
  cat > "$ETC/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$RUN/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((PORT + 1))
CommunicationParameters=NoInAddrAny
SlurmUser=root
LogFile=$LOG/slurmdbd.log
PidFile=$RUN/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=$(cat "$ETC/sql.password")
StorageLoc=slurm
CONF
  chmod 600 "$ETC/slurmdbd.conf"
  # The executor's job step forgets every variable that begins with SLURM_; where no file stands at the usual place,
  # srun must be told again.
  printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$SLURM_CONF" "$(command -v srun)" > "$PREFIX/bin/srun"
  chmod +x "$PREFIX/bin/srun"
  printf 'export SLURM_CONF=%s PATH=%s:$PATH\n' "$SLURM_CONF" "$PREFIX/bin" > "$PREFIX/env.sh"
}

wait_for() { # wait_for WHAT COMMAND…: half a minute at most
  local what=$1 tries=0
  shift
  until timeout 10 "$@" > "$RUN/wait" 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || { cat "$RUN/wait" >&2; tail -n 5 "$LOG"/*.log >&2; die "$what does not come up"; }
    sleep 0.1
  done
}

munge_daemon() {
  up munged munged || {
    rm -f "$RUN"/munge{d.pid,.socket,.socket.lock}
    munged --socket="$RUN/munge.socket" --key-file="$ETC/munge.key" --log-file="$LOG/munged.log" \
      --pid-file="$RUN/munged.pid" --seed-file="$STATE/munge/seed" --num-threads=2
  }
  wait_for munged sh -c "munge -n -S '$RUN/munge.socket' | unmunge -S '$RUN/munge.socket'"
}

accounting_daemons() {
  local socket=$RUN/mariadb.sock data=$STATE/mariadb
  sql() { mariadb --no-defaults --socket="$socket" -u root "$@"; }
  if [ ! -d "$data/mysql" ]; then
    rm -rf "$data"
    mkdir -p "$data"
    mariadb-install-db --no-defaults --datadir="$data" --user=root --skip-test-db \
      --auth-root-authentication-method=socket > "$LOG/mariadb-install.log" 2>&1 || die "see $LOG/mariadb-install.log"
  fi
  up mariadb mariadbd || {
    rm -f "$socket" "$RUN/mariadb.pid"
    setsid mariadbd --no-defaults --user=root --datadir="$data" --socket="$socket" --pid-file="$RUN/mariadb.pid" \
      --skip-networking --log-error="$LOG/mariadb.log" --innodb-buffer-pool-size=128M < /dev/null > /dev/null 2>&1 &
  }
  wait_for mariadb mariadb --no-defaults --socket="$socket" -u root -e "select 1"
  sql -e "create database if not exists slurm; create user if not exists slurm@localhost;
          alter user slurm@localhost identified by '$(cat "$ETC/sql.password")';
          grant all on slurm.* to slurm@localhost;"
  up slurmdbd slurmdbd || {
    rm -f "$RUN/slurmdbd.pid"
    MYSQL_UNIX_PORT=$socket slurmdbd # by this variable it finds the socket
  }
  wait_for slurmdbd sacctmgr -n -P show cluster
  sacctmgr -n -P show cluster format=cluster | grep -qx snaketune || sacctmgr -i add cluster snaketune > /dev/null
}

idle() { # all nodes are there; one that was killed comes back when it is told to
  local states
  states=$(sinfo -h -N -o %T)
  case $states in
  *down* | *drain*) scontrol update nodename="$(nodes | paste -sd,)" state=resume ;;
  esac
  [ "$(grep -cE '^(idle|mixed|allocated)$' <<< "$states")" = "$NODES" ]
}

mkdir -p "$PREFIX"
install
resolve
configure
munge_daemon
if [ "$DBD" = 1 ]; then accounting_daemons; fi
up slurmctld slurmctld || { rm -f "$RUN/slurmctld.pid"; slurmctld; }
wait_for slurmctld sh -c 'scontrol ping | grep -q UP'
for node in $(nodes); do
  up "$node" slurmd || { rm -f "$RUN/$node.pid"; slurmd -N "$node"; }
done
tries=0
until idle; do
  tries=$((tries + 1))
  [ $tries -lt 150 ] || { sinfo -R >&2; tail -n 5 "$LOG"/*.log >&2; die "the nodes do not come up"; }
  sleep 0.2
done
say "$NODES node(s) of $CPUS CPUs, $MEM MB, $GPUS GPUs; . $PREFIX/env.sh"
