#!/usr/bin/env bats
# scripts/deploy.sh against a stand-in cluster; DEPLOY_TEST_CLI=oc runs the same file against the real one that this CLI
# is logged in to (docs/deploy.md). There, tests that need something broken are left out: only the stand-in can break it.

bats_require_minimum_version 1.5.0

setup_file() {
    ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    STAND_IN=$BATS_TEST_DIRNAME/stand-in
    OVERLAY=${DEPLOY_TEST_OVERLAY:-openshift-kimi-k2-t4}
    export ROOT STAND_IN OVERLAY
    export DEPLOY_POLL_SECONDS=${DEPLOY_TEST_CLI:+5} DEPLOY_CALL_ATTEMPTS=${DEPLOY_TEST_CLI:+60}
    [ -z "${DEPLOY_TEST_CLI:-}" ] || return 0
    export DEPLOY_POLL_SECONDS=0.01 DEPLOY_CALL_ATTEMPTS=4
    export STAND_IN_KUBECTL STAND_IN_CURL STAND_IN_GATEWAY_PORT STAND_IN_PACKAGES STAND_IN_RENDERED=$BATS_FILE_TMPDIR
    STAND_IN_PACKAGES=$(python3 -c 'import os, yaml; print(os.path.dirname(os.path.dirname(yaml.__file__)))')
    STAND_IN_KUBECTL=$(command -v kubectl)
    STAND_IN_CURL=$(command -v curl)
    mkfifo "$BATS_FILE_TMPDIR/port"
    "$STAND_IN/gateway" >"$BATS_FILE_TMPDIR/port" 3>&- &
    echo $! >"$BATS_FILE_TMPDIR/gateway.pid"
    read -r STAND_IN_GATEWAY_PORT <"$BATS_FILE_TMPDIR/port"
    # One first run, which most tests go on from.
    state=$BATS_FILE_TMPDIR/deployed
    use_stand_in
    "$ROOT/scripts/deploy.sh" </dev/null >"$BATS_FILE_TMPDIR/stdout" 2>"$BATS_FILE_TMPDIR/stderr" ||
        { cat "$BATS_FILE_TMPDIR/stderr" && return 1; }
}

teardown_file() {
    [ ! -f "$BATS_FILE_TMPDIR/gateway.pid" ] || kill "$(cat "$BATS_FILE_TMPDIR/gateway.pid")"
}

setup() {
    unset HF_TOKEN OC
    export TMPDIR=$BATS_TEST_TMPDIR/tmp
    mkdir -p "$TMPDIR"
    state=$BATS_TEST_TMPDIR/state
    if [ -n "${DEPLOY_TEST_CLI:-}" ]; then
        export OC=$DEPLOY_TEST_CLI
    else
        use_stand_in
    fi
}

use_stand_in() {
    export STAND_IN_STATE=$state
    mkdir -p "$state/record" "$state/mode" "$state/stages"
    PATH=$STAND_IN:$PATH
}

teardown() {
    [ -z "$(ls -A "$TMPDIR")" ] || { echo "left behind:" && ls -R "$TMPDIR" && return 1; }
}

only_stand_in() {
    [ -z "${DEPLOY_TEST_CLI:-}" ] || skip "only the stand-in can be broken like this"
}

# A cluster on which a first run was made, or nothing yet.
deployed() {
    if [ -n "${DEPLOY_TEST_CLI:-}" ]; then
        "$ROOT/scripts/deploy.sh" --overlay "$OVERLAY" </dev/null
    else
        cp -r "$BATS_FILE_TMPDIR/deployed/." "$state"
        rm -r "$state/record" && mkdir "$state/record"
    fi
}

fresh() {
    [ -z "${DEPLOY_TEST_CLI:-}" ] || "$ROOT/scripts/deploy.sh" --uninstall --purge --yes </dev/null
}

# Without the descriptor that bats waits for: a child that is left behind shall fail a test and not hold it up.
deploy() { run --separate-stderr "$ROOT/scripts/deploy.sh" "$@" </dev/null 3>&-; }

cli() { "${OC:-oc}" -n llm-models-llamacpp "$@"; }

# What may not change by itself: generations, what ConfigMaps and Secrets hold, which volumes there are.
everything() {
    cli get deployments -o 'jsonpath={range .items[*]}{.metadata.name} {.metadata.generation}{"\n"}{end}'
    cli get configmaps -o 'jsonpath={range .items[*]}{.metadata.name} {.data}{"\n"}{end}'
    for name in kimi-k2-upstream-key kimi-k2-gateway-admin-key; do
        cli get secret "$name" --ignore-not-found -o 'jsonpath={.data}' | sha256sum
    done
    cli get persistentvolumeclaims -o 'jsonpath={range .items[*]}{.metadata.name} {.spec}{"\n"}{end}'
    [ -n "${DEPLOY_TEST_CLI:-}" ] || cat "$state/objects.json" "$state/keys.json" 2>/dev/null || true
}

mode() { printf '%s' "${2:-}" >"$state/mode/$1"; }

stages() { # deployment, lines...
    local deployment=$1
    shift
    printf '%s\n' "$@" >"$state/stages/$deployment"
}

says() { # text
    [[ "$stderr" == *"$1"* ]] || { printf 'not said: %s\nsaid:\n%s\n' "$1" "$stderr" && return 1; }
}

says_not() { # text
    [[ "$stderr" != *"$1"* ]] || { printf 'said: %s\n' "$stderr" && return 1; }
}

ends_with() { # code
    [ "$status" = "$1" ] || { printf 'code %s, said:\n%s\n' "$status" "$stderr" && return 1; }
}

refuses() { # text: by a check, and nothing is there
    ends_with 3
    says "$1"
    says "hint: "
    [ ! -e "$state/objects.json" ]
}

# A plain "!" would not fail a test.
not() {
    if "$@"; then
        echo "unexpected: $*" && return 1
    fi
}

parameter() { cli get configmap kimi-k2-llamacpp-config -o "jsonpath={.data.$1}"; }

secret() { cli get secret "$1" -o "jsonpath={.data.$2}" | base64 -d; }

restarts() { # how often llama-server's template has changed
    cli get deployment kimi-k2-llamacpp -o 'jsonpath={.metadata.generation}'
}

# Every secret that there is now, one a line, as it is and as Kubernetes writes it.
all_secrets() {
    local one
    for one in "$(secret kimi-k2-upstream-key api-key)" "$(secret kimi-k2-gateway-admin-key key)" "$HUGGING_FACE" \
        $(grep -o 'sk-lgw-[a-z0-9-]*' "$state/keys.json"); do
        printf '%s\n' "$one"
        printf '%s' "$one" | base64 -w 0 && echo
    done
}

HUGGING_FACE=hf_abcdefghijklmnopqrstuvwxyz0123456789

@test "a first run makes all of it, one key and one call" {
    if [ -n "${DEPLOY_TEST_CLI:-}" ]; then
        fresh
        deploy --overlay "$OVERLAY"
        ends_with 0
    else
        deployed
        output=$(cat "$BATS_FILE_TMPDIR/stdout")
        stderr=$(cat "$BATS_FILE_TMPDIR/stderr")
        cmp "$BATS_FILE_TMPDIR/deployed/record/requests" - <<<$'GET /v1/models 200\nPOST /v1/chat/completions 200'
    fi
    [[ "$output" =~ ^sk-lgw-[a-z2-7]{8}-[a-z2-7]{59}$ ]]
    says "kimi-k2-llamacpp: ready"
    says "endpoint: https://kimi-k2-llamacpp-llm-models-llamacpp."
    says_not "$output"
    [[ $(secret kimi-k2-upstream-key api-key) =~ ^[0-9a-f]{64}$ ]]
    [[ $(secret kimi-k2-gateway-admin-key key) =~ ^[0-9a-f]{64}$ ]]
    [ "$(cli get configmap kimi-k2-deploy -o 'jsonpath={.data.overlay}')" = "$OVERLAY" ]
}

@test "the key of the check call is revoked and would expire, the first key is not" {
    only_stand_in
    deployed
    run -0 grep -A 20 deploy-check "$state/keys.json"
    [ "$(grep -c '"state": "revoked"' "$state/keys.json")" = 1 ]
    [ "$(grep -c '"state": "valid"' "$state/keys.json")" = 1 ]
    grep -q '"expires": "30m"' "$state/keys.json"
}

@test "secrets come by standard input, are applied in order, and images are built before what needs them" {
    only_stand_in
    run -0 cat "$BATS_FILE_TMPDIR/deployed/record/argv"
    order=$(sed '/--help/d' <<<"$output" | grep -oE ' (apply|create secret|start-build|exec) ' | uniq | xargs)
    [ "$order" = "apply create secret apply start-build apply exec" ]
    tar -tzf "$BATS_FILE_TMPDIR/deployed/record/archive.kimi-k2-gateway" >"$BATS_TEST_TMPDIR/files"
    grep -qx Cargo.toml "$BATS_TEST_TMPDIR/files"
    not grep -qE '^(\./)?(target|\.cache|\.git)/' "$BATS_TEST_TMPDIR/files"
}

@test "pods ask for the built image by its digest, and a new build restarts them" {
    only_stand_in
    deployed
    path='jsonpath={.spec.template.spec.containers[0].image}'
    before=$(cli get deployment kimi-k2-llamacpp -o "$path")
    [[ $before == *"/kimi-k2-llamacpp@sha256:"* ]]
    deploy --build
    ends_with 0
    [ "$(cli get deployment kimi-k2-llamacpp -o "$path")" != "$before" ]
}

@test "a second run changes nothing, makes no key and says so" {
    deployed
    before=$(everything)
    deploy
    ends_with 0
    says "nothing was changed"
    [ -z "$output" ]
    diff <(echo "$before") <(everything)
}

@test "what somebody changed by hand is put right" {
    only_stand_in
    deployed
    sed -i 's/"CTX_SIZE": "16384"/"CTX_SIZE": "1"/' "$state/objects.json"
    deploy
    ends_with 0
    [ "$(parameter CTX_SIZE)" = 16384 ]
}

@test "--set counts, restarts llama-server once, is remembered and dropped by --reset" {
    deployed
    before=$(restarts)
    deploy --set CTX_SIZE=8192 --set "EXTRA_FLAGS=--chat-template 'it''s'"
    ends_with 0
    says "until then clients get 503"
    [ "$(parameter CTX_SIZE)" = 8192 ]
    [ "$(parameter EXTRA_FLAGS)" = "--chat-template 'it''s'" ]
    [ "$(restarts)" = $((before + 1)) ]
    deploy
    says "nothing was changed"
    [ "$(parameter CTX_SIZE)" = 8192 ]
    deploy --reset
    ends_with 0
    [ "$(parameter CTX_SIZE)" = 16384 ]
}

@test "another overlay does not take along what was set for the one before" {
    only_stand_in
    deployed
    deploy --set CTX_SIZE=8192
    deploy --overlay openshift-gpt-oss-20b-t4
    ends_with 0
    says "does not go with it"
    [ "$(parameter MODEL_REPO)" = ggml-org/gpt-oss-20b-GGUF ]
    [ "$(parameter CTX_SIZE)" != 8192 ]
}

@test "--dry-run without a namespace shows the whole set and makes nothing" {
    only_stand_in
    deploy --dry-run
    ends_with 0
    says "nothing was changed"
    [[ $output == *"kind: Deployment"* ]]
    [ ! -e "$state/objects.json" ]
    not grep -qE ' (apply|create secret|start-build kimi|delete|exec) ' "$state/record/argv"
}

@test "--dry-run shows what would change and changes nothing" {
    deployed
    before=$(everything)
    deploy --dry-run --set CTX_SIZE=4096
    ends_with 0
    [[ $output == *4096* ]]
    diff <(echo "$before") <(everything)
    deploy --dry-run
    says "nothing would change"
    [ -z "$output" ]
}

@test "a cluster that cannot tell the difference is not changed" {
    only_stand_in
    deployed
    before=$(everything)
    mode diff-fails
    deploy --set CTX_SIZE=4096
    ends_with 1
    says "etcdserver: request timed out; hint:"
    diff <(echo "$before") <(everything)
}

@test "who is not logged in is told how to" {
    only_stand_in
    mode no-login
    deploy
    refuses "You must be logged in"
}

@test "missing rights are told all at once, before anything is made" {
    only_stand_in
    mode no-rights $'patch routes.route.openshift.io\ncreate pods/exec'
    deploy
    refuses "create pods/exec, patch routes.route.openshift.io in llm-models-llamacpp"
}

@test "who may not make the namespace is told who can" {
    only_stand_in
    mode no-namespace-rights
    deploy
    refuses "there is no namespace llm-models-llamacpp, and you may not make it"
}

@test "who may not change the namespace leaves it as it is" {
    only_stand_in
    deployed
    mode no-namespace-rights
    deploy --set CTX_SIZE=4096
    ends_with 0
    says "its labels stay as they are"
    [ "$(parameter CTX_SIZE)" = 4096 ]
}

@test "a cluster without a T4 is refused, with the labels that there are" {
    only_stand_in
    mode no-gpu-node
    deploy
    refuses "no node has the label nvidia.com/gpu.product=Tesla-T4; nodes have: no GPU label at all"
}

@test "a shared T4 is refused and named" {
    only_stand_in
    mode shared-label
    deploy
    refuses "node gpu-1 shares its GPU by time-slicing (nvidia.com/gpu.product=Tesla-T4-SHARED)"
}

@test "a T4 that is cordoned or offers no GPU is named" {
    only_stand_in
    mode cordoned
    deploy
    refuses "node gpu-1, which has the GPU, is cordoned"
    rm "$state/mode/cordoned"
    mode no-device-plugin
    deploy
    refuses "node gpu-1 is labelled Tesla-T4 but offers 0 nvidia.com/gpu"
}

@test "a node that is too small is refused with both numbers" {
    only_stand_in
    mode small-node
    deploy
    refuses "asks for 64 GiB and 8 CPUs, and the greatest node with the GPU has 14 GiB"
}

@test "who may not list nodes is warned and goes on" {
    only_stand_in
    deployed
    mode no-node-rights
    deploy
    ends_with 0
    says "warning: you may not list nodes"
}

@test "a cluster without a default storage class is refused, with the classes that there are" {
    only_stand_in
    mode no-default-class
    deploy
    refuses "no storage class is the default"
    says "local-nvme standard"
}

@test "all problems are told in one run" {
    only_stand_in
    mode no-default-class
    mode shared-label
    mode no-rights "create secrets"
    mode no-registry
    deploy
    refuses "5 of the checks failed"
    says "time-slicing"
    says "create secrets"
    says "the cluster's own registry is off (Removed)"
}

@test "what an administrator could set better is a warning only" {
    only_stand_in
    deployed
    mode no-monitoring
    mode network 10.8.0.0/16
    deploy
    ends_with 0
    says "warning: user workload monitoring is off"
    says "closedClientConnectionPolicy: Abort"
    says "set LLAMA_GATEWAY_SERVER_TRUSTED_PROXIES to 10.8.0.0/16"
}

@test "a volume that is greater than the overlay says stays so" {
    only_stand_in
    deployed
    sed -i 's/"storage": "400Gi"/"storage": "500Gi"/' "$state/objects.json"
    deploy
    ends_with 0
    [ "$(cli get persistentvolumeclaim kimi-k2-gguf-cache -o 'jsonpath={.spec.resources.requests.storage}')" = 500Gi ]
}

@test "a volume that cannot grow, and one of another class, are refused" {
    only_stand_in
    deployed
    sed -i 's/"storage": "400Gi"/"storage": "300Gi"/' "$state/objects.json"
    mode fixed-size
    deploy
    ends_with 3
    says "the claim kimi-k2-gguf-cache has 300Gi, the overlay asks for 400Gi"
}

@test "a CLI that is too old is told" {
    only_stand_in
    mode old-cli
    deploy
    refuses 'unknown field "labels"; hint: oc must be of 2023 or newer'
}

@test "an OpenShift overlay on another Kubernetes is refused, with the overlay to use" {
    only_stand_in
    mode plain
    deploy --overlay openshift-kimi-k2-t4
    refuses "the cluster does not know route.openshift.io/v1"
    says "use --overlay kubernetes-kimi-k2-t4"
}

@test "Kubernetes without routes: kubectl, images of a registry, a call through a forwarded port" {
    only_stand_in
    mode plain
    mkdir "$BATS_TEST_TMPDIR/bin"
    ln -s "$STAND_IN/oc" "$BATS_TEST_TMPDIR/bin/kubectl"
    PATH=$BATS_TEST_TMPDIR/bin:$STAND_IN:$PATH OC=kubectl deploy --registry quay.io/me
    ends_with 0
    [[ $output == sk-lgw-* ]]
    says "endpoint: https://kimi-k2.example.com/v1"
    says "kimi-k2.example.com is not in the DNS here"
    says "say under which name clients come: --host NAME"
    [ "$(cli get deployment kimi-k2-gateway -o 'jsonpath={.spec.template.spec.containers[0].image}')" = quay.io/me/kimi-k2-gateway:0.1.0 ]
    grep -qx 'POST /v1/chat/completions 200' "$state/record/requests"
    not kill -0 "$(cat "$state/record/port-forward")" 2>/dev/null
    deploy
    says_not "warning: without --registry"
}

@test "--host is the name in the Ingress, the HTTPRoute or the Route, and is remembered" {
    only_stand_in
    mode plain
    deploy --no-wait --host llm.example.org
    ends_with 0
    [ "$(cli get ingress kimi-k2-llamacpp -o 'jsonpath={.spec.rules[0].host} {.spec.tls[0].hosts[0]}')" = "llm.example.org llm.example.org" ]
    deploy --no-wait --overlay kubernetes-gpt-oss-20b-t4
    ends_with 0
    [ "$(cli get httproute kimi-k2-llamacpp -o 'jsonpath={.spec.hostnames[*]}')" = llm.example.org ]
    rm "$state/mode/plain"
    deploy --no-wait --overlay openshift-gpt-oss-20b-t4
    ends_with 0
    [ "$(cli get route kimi-k2-llamacpp -o 'jsonpath={.spec.host}')" = llm.example.org ]
}

@test "an overlay that is published nowhere is called through a forwarded port" {
    only_stand_in
    mode plain
    deploy --overlay dev-cpu
    ends_with 0
    says "port-forward -n llm-models-llamacpp service/kimi-k2-gateway 8080"
    says "endpoint: http://127.0.0.1:8080/v1"
}

@test "a child that does not get the first signal is sent another one" {
    only_stand_in
    mode plain
    mode loses-a-signal
    deploy --overlay dev-cpu
    ends_with 0
    not kill -0 "$(cat "$state/record/port-forward")" 2>/dev/null
}

@test "download and load are shown while it waits" {
    only_stand_in
    stages kimi-k2-llamacpp "fetch 12 of 247 GB, 110 MB/s" "fetch 240 of 247 GB, 110 MB/s" "load load_tensors: 61 layers" ready
    deploy
    ends_with 0
    says "kimi-k2-llamacpp: fetch-model: 12 of 247 GB, 110 MB/s"
    says "kimi-k2-llamacpp: fetch-model: 240 of 247 GB, 110 MB/s"
    says "kimi-k2-llamacpp: llama-server starts: load_tensors: 61 layers"
}

@test "a rollout that fails shows the scheduling event and ends with 4" {
    only_stand_in
    stages kimi-k2-llamacpp "unschedulable 0/2 nodes are available: 2 Insufficient nvidia.com/gpu." late
    deploy
    ends_with 4
    says "Warning FailedScheduling: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    says "hint: the GPU is in use or not offered"
    [ -z "$output" ]
    # What was in the way is gone: the deadline of before does not count, and what was applied is not applied again.
    stages kimi-k2-llamacpp "unschedulable 0/2 nodes are available" late late "load load_tensors: 61 layers" ready
    deploy
    ends_with 0
    says "load_tensors: 61 layers"
    [[ $output == sk-lgw-* ]]
}

@test "a rollout that takes longer than --timeout ends with 4" {
    only_stand_in
    stages kimi-k2-llamacpp "load load_tensors: 3 layers"
    deploy --timeout 1s
    ends_with 4
    says "kimi-k2-llamacpp is not ready after 1s"
}

@test "a fetcher that gives up shows its last lines" {
    only_stand_in
    stages kimi-k2-llamacpp "fetch-waiting CrashLoopBackOff 7" "fetch-waiting CrashLoopBackOff 9"
    deploy
    ends_with 4
    says "the last words of fetch-model before it"
    says "cannot start: container fetch-model ended 9 times"
}

@test "an image that cannot be pulled ends the wait" {
    only_stand_in
    stages kimi-k2-gateway "load-waiting ImagePullBackOff 0"
    deploy
    ends_with 4
    says "Failed to pull image"
    says "cannot start: ImagePullBackOff of container gateway"
}

@test "a pod that is not admitted ends with what the cluster says" {
    only_stand_in
    stages kimi-k2-gateway "no-pod unable to validate against any security context constraint" late
    deploy
    ends_with 4
    says "unable to validate against any security context constraint"
    says "remove runAsUser"
}

@test "a cluster that stops answering ends the wait" {
    only_stand_in
    mode no-answer
    deploy
    ends_with 4
    says "the cluster does not tell about deployment kimi-k2-gateway"
}

@test "a build that fails is told, and nothing runs" {
    only_stand_in
    mode build-fails
    deploy
    ends_with 1
    says "the build kimi-k2-gateway-1 ended as Failed; hint: oc logs build/kimi-k2-gateway-1"
    not grep -q '"kind": "Deployment"' "$state/objects.json"
}

@test "images that may not be seen are not taken for missing ones, and built again" {
    only_stand_in
    deployed
    mode no-image-rights
    deploy
    ends_with 3
    says "you may not see the images in llm-models-llamacpp"
    not grep -q "start-build kimi" "$state/record/argv"
}

@test "--no-build with no image is refused" {
    only_stand_in
    deploy --no-build
    refuses "the image kimi-k2-gateway:0.1.0 has not been built"
}

@test "a CLI that cannot build is refused where there is something to build" {
    only_stand_in
    mode no-builds
    deploy
    refuses "oc cannot build the image kimi-k2-gateway; hint: use oc"
}

@test "a certificate that is not trusted is told, and the router's own one is used if it can be read" {
    only_stand_in
    deployed
    mode untrusted
    deploy --set CTX_SIZE=4096
    ends_with 5
    says "is not trusted here: set CURL_CA_BUNDLE"
    mode own-certificate
    deploy --set CTX_SIZE=8192
    ends_with 0
}

@test "--reset forgets registry and host as well" {
    only_stand_in
    deploy --no-wait --registry quay.io/me --host llm.example.org
    deploy --no-wait --reset
    ends_with 0
    [ "$(cli get configmap kimi-k2-deploy -o 'jsonpath={.data.registry}{.data.host}')" = "" ]
}

interrupt() { # signal: once deploy.sh has come to the gate
    mkfifo "$state/gate"
    # A background job of a shell ignores SIGINT, and so would its children.
    env --default-signal=INT "$ROOT/scripts/deploy.sh" </dev/null >"$BATS_TEST_TMPDIR/out" 2>"$BATS_TEST_TMPDIR/err" 3>&- &
    local pid=$!
    at_gate=$(timeout 60 cat "$state/gate")
    kill "-$1" "$pid"
    status=0
    wait "$pid" || status=$?
    output=$(cat "$BATS_TEST_TMPDIR/out")
    stderr=$(cat "$BATS_TEST_TMPDIR/err")
}

@test "Ctrl-C while the model is loaded says so, and the next run goes on" {
    only_stand_in
    stages kimi-k2-llamacpp "fetch 12 of 247 GB" gate
    interrupt INT
    ends_with 130
    says "stopped by Ctrl-C while it waited for kimi-k2-llamacpp, which loads its model"
    says "The same command goes on from here"
    [ -z "$output" ]
    stages kimi-k2-llamacpp "fetch 200 of 247 GB" ready
    deploy
    ends_with 0
    [[ $output == sk-lgw-* ]]
    says "the cluster has all of it already"
}

@test "Ctrl-C during a build ends its log, and the next run follows the same build" {
    only_stand_in
    mode build-gate
    interrupt INT
    ends_with 130
    says "while the image kimi-k2-gateway was built (the build goes on in the cluster)"
    not kill -0 "$at_gate" 2>/dev/null
    rm "$state/mode/build-gate"
    deploy
    ends_with 0
    says "following kimi-k2-gateway-1, which is running"
    [ "$(grep -c 'start-build kimi-k2-gateway ' "$state/record/argv")" = 1 ]
}

@test "SIGTERM ends it as well" {
    only_stand_in
    stages kimi-k2-llamacpp "fetch 12 of 247 GB" gate
    interrupt TERM
    ends_with 143
    says "stopped by SIGTERM"
}

@test "a gateway that is not ready yet is asked again" {
    only_stand_in
    printf '404\n503\n' >"$state/answers"
    deploy
    ends_with 0
    says "the gateway does not answer yet (status 503"
}

@test "a call that fails ends with 5, after the first key was shown" {
    only_stand_in
    printf '200\n500\n' >"$state/answers"
    deploy
    ends_with 5
    [[ $output == sk-lgw-* ]]
    says "status 500"
    grep -A 5 deploy-check "$state/keys.json" >/dev/null
    [ "$(grep -c '"state": "revoked"' "$state/keys.json")" = 1 ]
}

@test "--no-wait applies and makes neither key nor call" {
    only_stand_in
    deploy --no-wait
    ends_with 0
    [ -z "$output" ]
    [ ! -e "$state/keys.json" ]
    [ ! -e "$state/record/requests" ]
}

@test "no secret is in arguments, environments, messages, traces or temporary files" {
    only_stand_in
    printf '%s\n' "$HUGGING_FACE" >"$BATS_TEST_TMPDIR/token"
    export STAND_IN_WATCH=$TMPDIR
    run --separate-stderr bash -x "$ROOT/scripts/deploy.sh" --hf-token-file "$BATS_TEST_TMPDIR/token" </dev/null
    ends_with 0
    all_secrets >"$BATS_TEST_TMPDIR/secrets"
    [ "$(wc -l <"$BATS_TEST_TMPDIR/secrets")" = 10 ]
    says "+ parse_arguments" # it was traced
    [ -s "$state/record/temporary" ]
    not grep -F -f "$BATS_TEST_TMPDIR/secrets" "$state/record/argv" "$state/record/environment" "$state/record/temporary"
    not grep -F -f "$BATS_TEST_TMPDIR/secrets" <<<"$stderr"
    grep -qF "$HUGGING_FACE" <<<"$(secret huggingface-token HF_TOKEN)"
    [ "$(grep -c . <<<"$output")" = 1 ]
}

@test "a token of the environment is not in the environment of children" {
    only_stand_in
    HF_TOKEN=$HUGGING_FACE deploy
    ends_with 0
    [ "$(secret huggingface-token HF_TOKEN)" = "$HUGGING_FACE" ]
    not grep -qF "$HUGGING_FACE" "$state/record/environment" "$state/record/argv"
    says_not "$HUGGING_FACE"
}

@test "without a token none is made, and nobody is asked where there is no terminal" {
    only_stand_in
    not cli get secret huggingface-token -o name
    deployed
    not cli get secret huggingface-token -o name
    not grep -q "Hugging Face" "$BATS_FILE_TMPDIR/stderr"
}

@test "a token that changes is replaced, and restarts nothing" {
    only_stand_in
    deployed
    before=$(restarts)
    HF_TOKEN=$HUGGING_FACE deploy
    HF_TOKEN=hf_other deploy
    [ "$(secret huggingface-token HF_TOKEN)" = hf_other ]
    [ "$(restarts)" = "$before" ]
}

@test "a token file that is not there or empty is refused" {
    only_stand_in
    deploy --hf-token-file "$BATS_TEST_TMPDIR/nothing"
    ends_with 2
    says "cannot be read; hint:"
    : >"$BATS_TEST_TMPDIR/empty"
    deploy --hf-token-file "$BATS_TEST_TMPDIR/empty"
    ends_with 2
    says "is empty; hint:"
    [ ! -e "$state/objects.json" ]
}

@test "on a terminal it asks for the token, and does not show it" {
    only_stand_in
    run -0 "$STAND_IN/terminal" "Hugging Face token" "$HUGGING_FACE" "$ROOT/scripts/deploy.sh"
    [ "$(secret huggingface-token HF_TOKEN)" = "$HUGGING_FACE" ]
    [[ $output != *"$HUGGING_FACE"* ]]
}

@test "switch-model is remembered, keeps the old model, and tells the downtime" {
    only_stand_in
    deployed
    deploy switch-model ggml-org/gpt-oss-20b-GGUF mxfp4 --set MoE_OFFLOAD=none
    ends_with 0
    says "the model changes from unsloth/Kimi-K2-Thinking-GGUF UD-TQ1_0 to ggml-org/gpt-oss-20b-GGUF mxfp4"
    [ "$(parameter QUANT_TYPE) $(parameter MoE_OFFLOAD) $(parameter FETCH_PRUNE)" = "mxfp4 none 0" ]
    says 'model="gpt-oss-20b"'
    deploy
    says "nothing was changed"
    [ "$(parameter MODEL_REPO)" = ggml-org/gpt-oss-20b-GGUF ]
}

@test "switch-model refuses a model for which the volume is too small, and --prune makes room" {
    only_stand_in
    deployed
    before=$(everything)
    deploy switch-model unsloth/Kimi-K2-Instruct-GGUF UD-IQ1_S
    ends_with 3
    says "needs 528 GB; hint: switch-model --prune deletes the old model when there is no room"
    diff <(echo "$before") <(everything)
    deploy switch-model unsloth/Kimi-K2-Instruct-GGUF UD-IQ1_S --prune
    ends_with 0
    [ "$(parameter FETCH_PRUNE)" = 1 ]
    deploy switch-model someone/Unknown-GGUF Q4_K_M
    says "the size of someone/Unknown-GGUF Q4_K_M is not known here"
}

@test "--uninstall keeps volumes, secrets and what was set, and the next run brings all back" {
    deployed
    deploy --set CTX_SIZE=8192
    key=$(secret kimi-k2-upstream-key api-key)
    deploy --uninstall
    ends_with 0
    says "kept: the volumes kimi-k2-gguf-cache"
    [ -z "$(cli get deployments -o 'jsonpath={.items[*].metadata.name}')" ]
    [ "$(cli get persistentvolumeclaims -o 'jsonpath={.items[*].metadata.name}')" = "kimi-k2-gateway-data kimi-k2-gguf-cache" ]
    deploy
    ends_with 0
    [ -z "$output" ] # the keys were kept, too
    [ "$(secret kimi-k2-upstream-key api-key)" = "$key" ]
    [ "$(parameter CTX_SIZE)" = 8192 ]
}

@test "--purge asks on a terminal, and wants the namespace's name" {
    only_stand_in
    deployed
    before=$(everything)
    run -2 "$STAND_IN/terminal" "to go on" "yes" "$ROOT/scripts/deploy.sh" --uninstall --purge
    [[ $output == *"nothing was changed"* ]]
    diff <(echo "$before") <(everything)
    run -0 "$STAND_IN/terminal" "to go on" llm-models-llamacpp "$ROOT/scripts/deploy.sh" --uninstall --purge
    [ "$(cat "$state/objects.json")" = "{}" ]
}

@test "--purge without a terminal needs --yes" {
    deployed
    before=$(everything)
    deploy --uninstall --purge
    ends_with 2
    says "without a terminal, say --yes"
    diff <(echo "$before") <(everything)
    deploy --uninstall --purge --yes
    ends_with 0
    [ -z "$(cli get deployments -o 'jsonpath={.items[*].metadata.name}')" ]
    deploy --uninstall
    ends_with 0
    says "nothing to remove"
}

@test "status tells how far it is and changes nothing" {
    only_stand_in
    deployed
    before=$(cat "$state/objects.json")
    deploy status
    ends_with 0
    says "kimi-k2-llamacpp: ready"
    says "endpoint: https://kimi-k2-llamacpp-"
    [ "$(cat "$state/objects.json")" = "$before" ]
}

@test "wrong arguments are refused with what would be right" {
    for arguments in "--what" "--overlay" "--set CTX_SIZE" "--purge" "--prune" "--timeout soon" "switch-model Kimi" \
        "--host http://x" "--uninstall --dry-run"; do
        # shellcheck disable=SC2086 # words
        deploy $arguments
        ends_with 2
        says "hint: scripts/deploy.sh --help"
    done
    deploy --set CTX=1
    ends_with 2
    says "there is no parameter CTX; hint: one of MODEL_REPO"
    deploy --overlay ../base
    ends_with 2
    says "there is no overlay ../base; hint: one of dev-cpu"
    [ -n "${DEPLOY_TEST_CLI:-}" ] || [ ! -e "$state/record/argv" ]
}

@test "--help tells all options and codes" {
    deploy --help
    ends_with 0
    [[ $output == *"--hf-token-file FILE"*"exit codes: 0 done"* ]]
}

@test "a machine without a CLI is told to install one" {
    only_stand_in
    mkdir "$BATS_TEST_TMPDIR/bin"
    for tool in bash dirname realpath mktemp rm env; do
        ln -s "$(command -v "$tool")" "$BATS_TEST_TMPDIR/bin/$tool"
    done
    PATH=$BATS_TEST_TMPDIR/bin deploy
    ends_with 3
    says "neither oc nor kubectl is there; hint:"
    OC=nothing deploy
    ends_with 2
    says "OC names nothing, which is not there"
}

@test "the stand-in reads JSONPath as kubectl does" {
    only_stand_in
    export STAND_IN_KEEP_JSONPATHS=yes
    stages kimi-k2-llamacpp "fetch 1 of 2 GB" "unschedulable no node" ready
    deploy
    ends_with 0
    "$STAND_IN/compare-jsonpaths" "$state/record/jsonpaths"
}
