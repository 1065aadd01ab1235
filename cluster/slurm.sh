#!/usr/bin/env bash
# Run a study as a Slurm job: Ray on every node of the job, the driver of the study on the first one.
#
#   sbatch cluster/slurm.sh STUDY.yaml [--set KEY=VALUE ...]        run in the root of the project
#
# Edit the lines below, and activate your Python environment before `sbatch`, which passes it to the job.
#SBATCH --partition=REPLACE_PARTITION
#SBATCH --job-name=instsel
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --mem=128G
#SBATCH --time=12:00:00
# A preempted job is requeued by Slurm, a job that reaches its time limit by `requeue` below. It resumes from what is
# committed in the study's `out`.
#SBATCH --requeue
#SBATCH --signal=B:USR1@180
#SBATCH --open-mode=append
#SBATCH --output=instsel-%j.log
#
# Environment:
#   INSTSEL_HEAD_IP       address of the first node, if the first one of `hostname -I` is not the one to use
#   INSTSEL_MAX_RESTARTS  how often a job that reached its time limit is requeued; default 20
set -euo pipefail

if (($# == 0)); then
    echo "usage: sbatch cluster/slurm.sh STUDY.yaml [--set KEY=VALUE ...]" >&2
    exit 2
fi

job=${SLURM_JOB_ID:?run this by sbatch}
cpus=${SLURM_CPUS_PER_TASK:?give --cpus-per-task}
cd "$SLURM_SUBMIT_DIR"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
read -r head_ip _ <<<"${INSTSEL_HEAD_IP:-$(hostname -I)}"
scratch=/tmp/ray-$job
token=$PWD/.ray-token-$job
steps=()
study=

taken() {
    (exec 3<>"/dev/tcp/$head_ip/$1" || exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Ray's default ports are the same for every job, so two jobs on a node would collide. Each job gets 400 ports by its id,
# below 32768, where Linux starts to assign ports to any process. This node tries one slot after another; on other
# nodes, jobs collide only if their ids differ by a multiple of 50, and then Ray does not start.
choose_ports() {
    local slot=$((job % 50)) try
    for try in {0..49}; do
        base=$((11000 + (slot + try) % 50 * 400))
        taken "$base" || taken $((base + 1)) || return 0
    done
    echo "slurm.sh: no free ports between 11000 and 31000" >&2
    return 1
}

# One step per node, which runs as long as Ray does there. Steps share the node's CPUs and GPUs with the study.
start_ray() {
    local node=$1
    shift
    srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --nodelist="$node" \
        ray start --block --num-cpus="$cpus" \
        --dashboard-agent-listen-port=$((base + 2)) --dashboard-agent-grpc-port=$((base + 3)) \
        --runtime-env-agent-port=$((base + 4)) --metrics-export-port=$((base + 5)) \
        --node-manager-port=$((base + 7)) --object-manager-port=$((base + 8)) \
        --min-worker-port=$((base + 20)) --max-worker-port=$((base + 399)) "$@" &
    steps+=($!)
}

wait_for_head() {
    local since=$SECONDS
    until taken "$base"; do
        if ! kill -0 "${steps[0]}" 2>/dev/null || ((SECONDS - since > 180)); then
            echo "slurm.sh: Ray did not start on ${nodes[0]}" >&2
            return 1
        fi
        sleep 1
    done
}

# shellcheck disable=SC2329 # called by a trap
clean_up() {
    trap - EXIT
    trap '' TERM USR1
    local process
    for process in $study "${steps[@]}"; do
        kill -TERM "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    rm -f "$token"
    srun --overlap --ntasks-per-node=1 rm -rf "$scratch" || true
}

# The time limit is near. Slurm does not requeue such a job by itself.
# shellcheck disable=SC2329 # called by a trap
requeue() {
    clean_up
    if ((${SLURM_RESTART_COUNT:-0} >= ${INSTSEL_MAX_RESTARTS:-20})); then
        echo "slurm.sh: time is up for the ${SLURM_RESTART_COUNT}th time; submit the job again to resume" >&2
        exit 1
    fi
    scontrol requeue "$job"
    exit 0
}

trap clean_up EXIT
trap requeue USR1
# Preempted, or cancelled by scancel; Slurm knows which, and requeues the job or not.
trap 'exit 143' TERM

# A new token for every job, readable by this user only, on the file system that the nodes share.
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token
# No work moves elsewhere when a job ends, so do not spend the notice period waiting for it.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

choose_ports
export RAY_ADDRESS=$head_ip:$base
start_ray "${nodes[0]}" --head --node-ip-address="$head_ip" --port="$base" --temp-dir="$scratch" \
    --dashboard-host=127.0.0.1 --dashboard-port=$((base + 1)) --ray-client-server-port=$((base + 6))
wait_for_head
for node in "${nodes[@]:1}"; do
    start_ray "$node" --address="$RAY_ADDRESS" --temp-dir="$scratch"
done
echo "slurm.sh: dashboard on ${nodes[0]}, port $((base + 1)); its token is in $token"

# In the background, because bash runs a trap only after the foreground command has ended.
# The study waits until the CPUs of all nodes are available.
python jobs/run.py --config "$@" --set resources.cpus=$((${#nodes[@]} * cpus)) &
study=$!
wait "$study" && status=0 || status=$?
study=
exit "$status"
