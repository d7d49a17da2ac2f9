#!/usr/bin/env bash
# Dask workers on a plain list of hosts, one for each GPU, and a scheduler here:
#
#     pipelines/cluster/hosts.sh hosts.txt /shared/scheduler.json
#     diffcache extract pipelines/own_images.toml --cache /shared/cache --dask /shared/scheduler.json
#
# hosts.txt has a host a line, with how many GPUs it has: "node7 8"; 0 or nothing is one worker without a GPU. The hosts
# are reached by ssh without a password, and this folder, its .venv, images, weights, cache and the scheduler's file are
# on a disk that they share, at the same paths. A worker that ends is started again after some seconds, as after a
# reboot of its host. Ctrl-C ends all of it; extractions go on where they stopped when it is started again.
#
#     DASK      the dask command on the hosts (default: .venv/bin/dask of this folder)
#     SSH       how a command is run on a host (default: ssh -o BatchMode=yes -tt)
#     PAUSE     seconds before a worker is started again (default: 10)
set -euo pipefail

if [[ $# -ne 2 || ! -r $1 ]]; then
    echo "usage: $0 HOSTS SCHEDULER_FILE" >&2
    exit 2
fi
hosts=$1 file=$(realpath -m "$2") folder=$(cd "$(dirname "$0")/../.." && pwd)
dask=${DASK:-$folder/.venv/bin/dask} ssh=${SSH:-ssh -o BatchMode=yes -tt} pause=${PAUSE:-10}

stop() {
    trap - EXIT INT TERM
    rm -f "$file"
    # shellcheck disable=SC2046  # one word a process
    kill $(jobs -p) 2>/dev/null || true
    wait
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

rm -f "$file"
# A worker that is lost is no fault of its task.
DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=20 "$dask" scheduler --scheduler-file "$file" &
while [[ ! -s $file ]]; do
    kill -0 $! 2>/dev/null || { echo "$0: the scheduler has ended" >&2; exit 1; }
    sleep 0.2
done

keep() {  # host name gpu
    local child="" gpu=$3
    trap 'kill "$child" 2>/dev/null; exit' TERM
    while true; do
        $ssh "$1" "cd '$folder' && ${gpu:+CUDA_VISIBLE_DEVICES=$gpu }exec '$dask' worker --scheduler-file '$file' \
            --nthreads 1 --memory-limit 0 --name '$2' --death-timeout 60" </dev/null &
        child=$!
        wait "$child" || true
        echo "$0: $2 has ended; it is started again" >&2
        sleep "$pause" &
        wait $!
    done
}

while read -r host gpus _; do
    [[ -z $host || $host == \#* ]] && continue
    if [[ ${gpus:-0} -eq 0 ]]; then
        keep "$host" "$host" "" &
    else
        for ((gpu = 0; gpu < gpus; gpu++)); do
            keep "$host" "$host-gpu$gpu" "$gpu" &
        done
    fi
done < "$hosts"
wait
