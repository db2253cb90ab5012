# What the tests of entrypoint.sh and drain.sh share. LLAMA_SERVER, MODEL and TINY_MODEL come from scripts/fetch.
# shellcheck shell=bash disable=SC2034 # the tests read these

bats_require_minimum_version 1.5.0

IMAGE="$BATS_TEST_DIRNAME/.."
REAL_SERVER=${LLAMA_SERVER:?scripts/fetch llama-server prints its path}
SMALL_MODEL=${MODEL:?scripts/fetch model prints its path}
RANDOM_MODEL=${TINY_MODEL:?scripts/fetch tiny-model prints its path}
AS=() # a command that runs the entrypoint as another user
KEY='ein-"sehr\geheimer"-key'

# A volume with a model that only looks like one, a key, and a stand-in for llama-server that tells how it was started.
prepare() {
    cd "$BATS_TEST_TMPDIR" || return
    # Other users shall reach it, too.
    chmod 755 "$BATS_RUN_TMPDIR" "$BATS_SUITE_TMPDIR" "$BATS_FILE_TMPDIR" "$BATS_TEST_TMPDIR" "$BATS_RUN_TMPDIR"/*
    DIRECTORY="$PWD/models/acme--Tiny-GGUF/Q8_0"
    mkdir -p "$DIRECTORY" cgroup
    printf 'GGUF' >"$DIRECTORY/tiny.gguf"
    printf '%s\n' "$KEY" >key
    cat >llama-server <<'END'
#!/usr/bin/env bash
printf '%s\n' "$@" >"$BASH_SOURCE.arguments"
env >"$BASH_SOURCE.environment"
echo "stand-in: process $$"
END
    chmod +x llama-server
}

# Becomes the entrypoint, in an environment that has nothing but what a pod has.
become_entrypoint() { # [NAME=VALUE...] [-- ARGUMENT...]
    local settings=()
    while (($# > 0)) && [ "$1" != -- ]; do
        settings+=("$1")
        shift
    done
    shift || true
    exec env -i PATH="$PATH" MODEL_REPO=acme/Tiny-GGUF QUANT_TYPE=Q8_0 MODELS_DIR="$PWD/models" API_KEY_FILE="$PWD/key" \
        LLAMA_SERVER="$PWD/llama-server" CGROUP_ROOT="$PWD/cgroup" NVIDIA_DEVICE=/dev/null \
        "${settings[@]}" "${AS[@]}" "$IMAGE/entrypoint.sh" "$@"
}

entrypoint() { # the same
    (become_entrypoint "$@")
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Starts the real llama-server by the entrypoint, in the background, and waits until it serves: start [NAME=VALUE...]
start() {
    PORT=$(free_port)
    # fd 3 belongs to bats, which would wait for its end.
    become_entrypoint LLAMA_SERVER="$REAL_SERVER" HOST=127.0.0.1 PORT="$PORT" N_GPU_LAYERS=0 "$@" >log 2>&1 3>&- &
    SERVER=$!
    for ((i = 0; i < 600; i++)); do
        ask health >/dev/null 2>&1 && return 0
        kill -0 "$SERVER" 2>/dev/null || break
        sleep 0.05
    done
    cat log
    return 1
}

ask() { # PATH [curl's arguments]
    curl --silent --show-error --fail --max-time 20 -H "Authorization: Bearer $KEY" "http://127.0.0.1:$PORT/$1" "${@:2}"
}

# Ends what a test started in the background.
clean_up() {
    local job
    for job in $(jobs -p); do
        kill -KILL "$job" 2>/dev/null || true
    done
    wait 2>/dev/null || true
}

real_model() { # MODEL: puts it in place of the one that only looks like one
    ln -sf "$1" "$DIRECTORY/tiny.gguf"
}

contains() { # TEXT PART
    [[ $1 == *"$2"* ]] || {
        printf 'not found: %s\nin: %s\n' "$2" "$1"
        return 1
    }
}

lacks() { # TEXT PART
    [[ $1 != *"$2"* ]] || {
        printf 'found: %s\nin: %s\n' "$2" "$1"
        return 1
    }
}
