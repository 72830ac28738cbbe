#!/usr/bin/env bash
# Stop what start.sh started, by the process ids that it wrote; jobs are cancelled first. `--purge` deletes the prefix
# too. The packages stay.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[ -f "$SLURM_CONF" ] || exit 0

stop() { # stop FILE NAME: half a minute to end in peace
  local pid tries=300
  up "$1" "$2" || return 0
  pid=$(cat "$RUN/$1.pid")
  kill "$pid"
  while runs "$pid" "$2" && [ $tries -gt 0 ]; do
    sleep 0.1
    tries=$((tries - 1))
  done
  if runs "$pid" "$2"; then
    say "$2 ($pid) did not end by itself"
    kill -9 "$pid"
  fi
}

if up slurmctld slurmctld; then
  timeout 10 scancel --user "$(id -un)"
  for _ in $(seq 75); do
    [ -n "$(timeout 10 squeue -h -t running,pending,completing -o %A)" ] || break
    sleep 0.2
  done
fi
for file in "$RUN"/node*.pid; do
  [ -e "$file" ] && stop "$(basename "$file" .pid)" slurmd
done
stop slurmctld slurmctld
stop slurmdbd slurmdbd
stop mariadb mariadbd
stop munged munged
if grep -qF " $MARK" /etc/hosts; then
  grep -vF " $MARK" /etc/hosts > "$RUN/hosts"
  cat "$RUN/hosts" > /etc/hosts
fi
if [ "${1:-}" = --purge ]; then rm -rf "$PREFIX"; fi
exit 0
