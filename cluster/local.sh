#!/usr/bin/env bash
# Run Ray on this machine, with its dashboard and job server.
#
#   cluster/local.sh start [options of `ray start`]     such as --num-gpus=2
#   cluster/local.sh status
#   cluster/local.sh stop
#
# Environment, to run a second Ray besides the first:
#   INSTSEL_RAY_DIR         folder of Ray's files          /tmp/instsel-ray-UID
#   INSTSEL_RAY_PORT        port of Ray                    6379
#   INSTSEL_DASHBOARD_PORT  port of the dashboard          8265
#   INSTSEL_RAY_TIMEOUT     seconds to start or to stop    60
set -euo pipefail

folder=${INSTSEL_RAY_DIR:-/tmp/instsel-ray-$(id -u)}
port=${INSTSEL_RAY_PORT:-6379}
dashboard_port=${INSTSEL_DASHBOARD_PORT:-8265}
timeout=${INSTSEL_RAY_TIMEOUT:-60}
pid_file=$folder/pid
log=$folder/start.log

fail() {
    echo "local.sh: $1" >&2
    exit "${2:-1}"
}

# Whether the process of our `ray start` is running. The process id alone is not enough: it may have been reused.
running() {
    [[ -f $pid_file ]] && ps -ww -o args= -p "$(<"$pid_file")" 2>/dev/null | grep -qF -- "--temp-dir=$folder "
}

own_folder() {
    (umask 077 && mkdir -p "$folder")
    [[ -O $folder && ! -L $folder ]] || fail "$folder belongs to someone else; set INSTSEL_RAY_DIR" 2
}

taken() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

answers() {
    taken "$dashboard_port" && ray status --address="127.0.0.1:$port" >/dev/null 2>&1
}

# Without a token, everyone who can reach Ray's ports can run code as this user, also other users of this machine.
token() {
    export RAY_AUTH_MODE=token
    [[ -z ${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-} && ! -s $HOME/.ray/auth_token ]] || return 0
    # Ray creates the file with the permissions of the umask, by default readable by everyone.
    (umask 077 && ray get-auth-token --generate >/dev/null)
    echo "created a token: $HOME/.ray/auth_token"
}

start() {
    local option
    for option in "$@"; do
        case $option in
        --head | --block | --address* | --temp-dir* | --port* | --dashboard-host* | --dashboard-port* | --include-dashboard*)
            fail "$option is given by this script; see its first lines for what can be set" 2
            ;;
        esac
    done
    command -v ray >/dev/null || fail "no command \`ray\`; pip install -e '.[cluster]' -c constraints.txt" 2
    own_folder
    if running; then
        fail "Ray of $folder runs already; cluster/local.sh stop"
    fi
    # Another Ray on the port would answer instead of the new one.
    ! taken "$port" || fail "port $port is taken; set INSTSEL_RAY_PORT"
    ! taken "$dashboard_port" || fail "port $dashboard_port is taken; set INSTSEL_DASHBOARD_PORT"
    token
    # The agent, which starts jobs, uses any free port: the default may belong to another Ray on this machine.
    # `ray stop` stops every Ray of the user. With --block one process owns this Ray and stops it on a signal. It would
    # first wait 30 seconds for work to move elsewhere, but there is no other machine.
    RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 nohup ray start --head --block --temp-dir="$folder" --port="$port" \
        --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port="$dashboard_port" \
        --dashboard-agent-listen-port=0 \
        "$@" >"$log" 2>&1 </dev/null &
    echo $! >"$pid_file"
    until answers; do
        kill -0 $! 2>/dev/null || fail "Ray did not start:"$'\n'"$(tail -n 20 "$log")"
        if ((SECONDS > timeout)); then
            stop >/dev/null
            fail "Ray did not answer within $timeout seconds; see $log"
        fi
        sleep 0.5
    done
    cat <<END
Ray is running; its dashboard is http://127.0.0.1:$dashboard_port (log in with what \`ray get-auth-token\` prints). Usage:
    export RAY_AUTH_MODE=token RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard_port
    ray job submit --working-dir . -- python jobs/run.py --config STUDY.yaml
END
}

stop() {
    if ! running; then
        echo "no Ray of $folder runs"
        return
    fi
    local pid since=$SECONDS
    pid=$(<"$pid_file")
    kill -TERM "$pid"
    while running; do
        if ((SECONDS - since > timeout)); then
            # On Linux the kernel kills Ray's processes with the one that started them.
            kill -KILL "$pid"
            break
        fi
        sleep 0.2
    done
    rm -f "$pid_file"
    echo "stopped Ray of $folder"
}

status() {
    running || fail "no Ray of $folder runs"
    RAY_AUTH_MODE=token ray status --address="127.0.0.1:$port"
}

command=${1:-}
case $command in
start)
    shift
    start "$@"
    ;;
stop | status)
    "$command"
    ;;
*)
    fail "usage: cluster/local.sh start [options of ray start] | status | stop" 2
    ;;
esac
