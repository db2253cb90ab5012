# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # the parts use each other's names; deploy.sh is checked with all of them
# Messages, the cluster's CLI, children and signals. Sourced by scripts/deploy.sh.
#
# Standard output carries results only (the first key, a rendered set, a diff); everything for people to read goes to
# standard error.

readonly namespace=llm-models-llamacpp
readonly server=kimi-k2-llamacpp gateway=kimi-k2-gateway
readonly model_claim=kimi-k2-gguf-cache ledger_claim=kimi-k2-gateway-data
readonly remembered=kimi-k2-deploy # the ConfigMap that remembers how the last run was called
readonly field_manager=llama-gateway

work=""            # a directory of our own for rendered manifests; nothing secret is ever in it
phase="it started" # what is going on, for whoever presses Ctrl-C
poll=${DEPLOY_POLL_SECONDS:-5}

say() { printf '%s\n' "$*" >&2; }

# The exit codes are part of the interface: docs/deploy.md lists them.
fail() { # kind, text
    local kind=$1
    shift
    say "error: $*"
    case $kind in
        failed) exit 1 ;;
        usage) exit 2 ;;
        checks) exit 3 ;;
        rollout) exit 4 ;;
        call) exit 5 ;;
    esac
}

cli() { "$OC" -n "$namespace" "$@"; }

# One field or a few of an object that may not be there. A failure of any kind gives nothing.
read_object() { # kind, name, jsonpath
    cli get "$1" "$2" --ignore-not-found -o "jsonpath=$3" 2>/dev/null || true
}

# A trapped signal interrupts `wait` at once, while a command in the foreground would be waited for. Only programs, no
# functions: their subshell would get the signal that is meant for the program.
in_background() { # program, arguments...
    "$@" &
    wait $!
}

a_moment() { in_background sleep "$poll"; }

# Background jobs ignore SIGINT when a shell without job control starts them, so they get SIGTERM.
# One that is being started can lose it: bash's own handler is there until the program is. So it is sent until it counts.
stop_children() {
    local child attempt
    for child in $(jobs -p); do
        for ((attempt = 1; attempt <= 50; attempt++)); do
            kill "$child" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    done
}

interrupted() { # signal's name, exit code
    trap '' INT TERM HUP
    stop_children
    say ""
    say "stopped by $1 while $phase."
    say "What has been applied stays, and the cluster goes on with it. The same command goes on from here;" \
        "\"scripts/deploy.sh status\" shows how far it is."
    exit "$2"
}

clean_up() {
    local code=$?
    trap '' INT TERM HUP
    stop_children
    restore_terminal
    revoke_check_key || true
    [ -z "$work" ] || rm -rf "$work"
    exit "$code"
}

start_work() {
    trap clean_up EXIT
    trap 'interrupted Ctrl-C 130' INT
    trap 'interrupted SIGTERM 143' TERM
    trap 'interrupted SIGHUP 129' HUP
    work=$(mktemp -d)
    work=$(realpath "$work")
}

choose_cli() {
    if [ -n "${OC:-}" ]; then
        command -v "$OC" >/dev/null ||
            fail usage "OC names $OC, which is not there; hint: unset it, or name oc or kubectl"
    elif command -v oc >/dev/null; then
        OC=oc
    elif command -v kubectl >/dev/null; then
        OC=kubectl
    else
        fail checks "neither oc nor kubectl is there; hint: install one of them (OpenShift: oc) and put it on PATH"
    fi
    local tool
    for tool in curl diff; do
        command -v "$tool" >/dev/null || fail checks "$tool is not there; hint: install it"
    done
}

# Kubernetes' quantities as whole numbers. Memory in MiB, rounded down; nothing gives 0.
mebibytes() { # quantity
    local number=${1%%[A-Za-z]*}
    local unit=${1#"$number"} whole=${number%%.*}
    case $unit in
        Ti) echo $((whole * 1048576)) ;;
        Gi) echo $((whole * 1024)) ;;
        Mi) echo $((whole)) ;;
        Ki) echo $((whole / 1024)) ;;
        T) echo $((whole * 1000000000000 / 1048576)) ;;
        G) echo $((whole * 1000000000 / 1048576)) ;;
        M) echo $((whole * 1000000 / 1048576)) ;;
        k) echo $((whole * 1000 / 1048576)) ;;
        *) echo $((${whole:-0} / 1048576)) ;;
    esac
}

millicores() { # quantity
    case $1 in
        "") echo 0 ;;
        *m) echo "${1%m}" ;;
        *.*)
            local part=${1#*.}000
            echo $((${1%%.*} * 1000 + 10#${part:0:3}))
            ;;
        *) echo $(($1 * 1000)) ;;
    esac
}

seconds() { # such as 90, 90s, 30m or 6h
    case $1 in
        *h) echo $((${1%h} * 3600)) ;;
        *m) echo $((${1%m} * 60)) ;;
        *) echo "${1%s}" ;;
    esac
}

# Sums or the greatest of a list, after each word went through a function such as mebibytes.
total() { # function, words...
    local function=$1 sum=0 word
    shift
    for word in "$@"; do
        sum=$((sum + $("$function" "$word")))
    done
    echo "$sum"
}

greatest() { # function, words...
    local function=$1 most=0 value word
    shift
    for word in "$@"; do
        value=$("$function" "$word")
        [ "$value" -le "$most" ] || most=$value
    done
    echo "$most"
}
