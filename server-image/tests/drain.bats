#!/usr/bin/env bats
# The preStop hook waits for running requests, not for ever, and always ends with 0.

# shellcheck disable=SC2030,SC2031 # each test is a process of its own

load helper

setup() { prepare; }
teardown() { clean_up; }

# Runs the hook as Kubernetes does, with the container's environment; the line that it leaves is in $line.
drain() { # [NAME=VALUE...]
    rm -f drained
    SECONDS=0
    run env -i PATH="$PATH" HOST=127.0.0.1 PORT="$PORT" API_KEY_FILE="$PWD/key" DRAIN_LOG="$PWD/drained" \
        DRAIN_MIN_SECONDS=0 "$@" "$IMAGE/drain.sh"
    took=$SECONDS
    echo "$output"
    [ "$status" = 0 ]
    line=$(cat drained)
    [ "$output" = "$line" ] # one line, for the log of the container as well
    line=${line%, after *}
}

stand_in() { # [NAME=VALUE...]
    PORT=$(free_port)
    python3 "$BATS_TEST_DIRNAME/stand_in_server.py" "$PORT" "$@" >requests 3>&- &
    SERVER=$!
    until grep -q ready requests; do
        kill -0 "$SERVER"
        sleep 0.02
    done
}

@test "a running stream is waited for" {
    real_model "$SMALL_MODEL"
    # One thread: it is quicker beside others than two that wait for each other.
    start THREADS=1
    ask v1/chat/completions --no-buffer --max-time 120 -d '{"messages": [{"role": "user", "content": "Hello"}],
        "stream": true, "max_tokens": 100, "ignore_eos": true}' >stream 3>&- &
    local client=$!
    until [ -s stream ]; do
        kill -0 "$client"
        sleep 0.02
    done
    drain DRAIN_MAX_SECONDS=120
    [ "$line" = "drain: nothing is processed any more" ]
    ((took >= 2))
    wait "$client"
    grep -q '^data: \[DONE\]' stream
    kill -0 "$SERVER"
}

@test "a server that does nothing is drained after the minimum" {
    real_model "$RANDOM_MODEL"
    start
    drain
    [ "$line" = "drain: nothing is processed any more" ]
    drain DRAIN_MIN_SECONDS=1
    ((took >= 1))
}

@test "a server that is gone is not waited for" {
    PORT=$(free_port)
    drain DRAIN_MIN_SECONDS=15
    [ "$line" = "drain: llama-server is gone" ]
    ((took < 10))
}

@test "a model that is still loading is not waited for" {
    stand_in health=503
    drain DRAIN_MIN_SECONDS=15
    [ "$line" = "drain: the model was still loading" ]
    ((took < 10))
}

@test "a server that ends during the minimum is not waited for" {
    stand_in
    (until grep -q health requests; do sleep 0.02; done && kill -KILL "$SERVER") 3>&- &
    drain DRAIN_MIN_SECONDS=15
    [ "$line" = "drain: llama-server is gone" ]
    ((took < 10))
}

@test "waiting requests count, and are asked for after the minimum, no oftener than every two seconds" {
    stand_in deferred=1,0
    drain DRAIN_MIN_SECONDS=1
    [ "$line" = "drain: nothing is processed any more" ]
    python3 - <<'END'
asked = [line.split() for line in open("requests").read().splitlines()[1:]]
assert [path for _, path, *_ in asked] == ["/health", "/metrics", "/metrics"], asked
times = [float(seconds) for seconds, *_ in asked]
assert all(later - earlier >= 2 for earlier, later in zip(times, times[1:])), times
END
}

@test "what still runs at the maximum is told" {
    stand_in processing=2 deferred=1
    drain DRAIN_MAX_SECONDS=1
    [ "$line" = "drain: 3 requests are cut" ]
    ((took < 10))
}

@test "a server that does not answer is taken for busy" {
    stand_in silent=1
    drain DRAIN_MAX_SECONDS=1
    [ "$line" = "drain: some requests are cut" ]
}

@test "after the key was changed, connections are waited for" {
    stand_in metrics=401
    exec 4<>"/dev/tcp/127.0.0.1/$PORT"
    drain DRAIN_MAX_SECONDS=1
    [ "$line" = "drain: 1 requests are cut" ]
    exec 4>&-
    drain DRAIN_MAX_SECONDS=10
    [ "$line" = "drain: nothing is processed any more" ]
}

@test "metrics that are called otherwise are no reason to end" {
    stand_in prefix=llama_server:
    drain DRAIN_MAX_SECONDS=1
    [ "$line" = "drain: some requests are cut" ]
}

@test "the key is sent, and not in arguments" {
    stand_in processing=1,0
    mkdir bin
    printf '#!/bin/sh\nprintf "%%s\\n" "$@" >>%q\nexec %q "$@"\n' "$PWD/arguments" "$(command -v curl)" >bin/curl
    chmod +x bin/curl
    printf '# made by hand\n\n%s\nanother-key\n' "$KEY" >key
    drain PATH="$PWD/bin:$PATH"
    [ "$(grep -cF " /metrics Bearer $KEY" requests)" = 2 ]
    lacks "$(cat arguments)" geheim
    lacks "$output" geheim
}

@test "nonsense, no key and no log are no reason to fail" {
    stand_in
    drain DRAIN_MIN_SECONDS=0 DRAIN_MAX_SECONDS=soon API_KEY_FILE=/nowhere HOST=0.0.0.0
    [ "$line" = "drain: nothing is processed any more" ]
    grep -q ' /metrics None' requests
    run env -i PATH="$PATH" PORT="$PORT" API_KEY_FILE=none DRAIN_MIN_SECONDS=0 DRAIN_LOG=/nowhere/log "$IMAGE/drain.sh"
    [ "$status" = 0 ]
    [ "${output%, after *}" = "drain: nothing is processed any more" ]
}

@test "a hook that cannot do its work ends with 0, too" {
    stand_in processing=1
    mkdir bin # with neither sleep nor cat
    ln -s "$(command -v bash)" "$(command -v curl)" bin
    run env -i PATH="$PWD/bin" PORT="$PORT" API_KEY_FILE=none DRAIN_MIN_SECONDS=0 bash "$IMAGE/drain.sh"
    [ "$status" = 0 ]
    contains "$output" "sleep: command not found"
}
