# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # the parts use each other's names; deploy.sh is checked with all of them
# One real call from outside, and how to make more. Sourced by scripts/deploy.sh.

endpoint="" forwarder="" check_key="" ca_file=""
readonly call_attempts=${DEPLOY_CALL_ATTEMPTS:-60}

# Where clients reach the gateway; empty if the overlay publishes it nowhere, or a load balancer has no address yet.
find_endpoint() {
    local host secure
    if has_kind Route; then
        host=$(read_object route "$server" '{.spec.host}')
        endpoint=${host:+https://$host}
    elif has_kind Ingress; then
        IFS='|' read -r host secure < <(read_object ingress "$server" '{.spec.rules[0].host}|{.spec.tls[0].hosts[0]}' && echo)
        [ -z "$host" ] || endpoint=http${secure:+s}://$host
    elif has_kind HTTPRoute; then
        host=$(read_object httproute "$server" '{.spec.hostnames[0]}')
        endpoint=${host:+https://$host}
    fi
}

forward_port() {
    local port=""
    : >"$work/forward" # or it is read before the child has made it
    "$OC" -n "$namespace" port-forward "service/$gateway" :8080 >"$work/forward" 2>&1 &
    forwarder=$!
    while kill -0 "$forwarder" 2>/dev/null && [ -z "$port" ]; do
        port=$(sed -n 's/^Forwarding from 127\.0\.0\.1:\([0-9]*\) .*/\1/p' "$work/forward")
        [ -n "$port" ] || in_background sleep 0.1
    done
    [ -n "$port" ] ||
        fail call "no port can be forwarded to the gateway: $(tail -n 1 "$work/forward"); hint: run again"
    endpoint=http://127.0.0.1:$port
}

# Routers of clusters for trying out have a certificate of their own; who may read it can check it.
find_certificate() {
    is_openshift || return 0
    "$OC" -n openshift-config-managed get configmap default-ingress-cert -o 'jsonpath={.data.ca-bundle\.crt}' \
        >"$work/ca.crt" 2>/dev/null || return 0
    [ ! -s "$work/ca.crt" ] || ca_file=$work/ca.crt
}

# The key goes to curl by standard input. Prints the status; the answer is in $work/answer.
ask() { # path, body or nothing
    local - body=$2
    set +x
    local arguments=(--silent --show-error --config - --max-time 1800 --output "$work/answer" --write-out '%{http_code}')
    [ -z "$body" ] || arguments+=(--header 'Content-Type: application/json' --data "$body")
    [ -z "$ca_file" ] || arguments+=(--cacert "$ca_file")
    printf 'header = "Authorization: Bearer %s"\n' "$check_key" | curl "${arguments[@]}" "$endpoint$1" 2>"$work/errors"
}

# A route takes seconds until the router knows it, and the gateway needs some until it sees that llama-server is ready.
ask_until_answered() { # path, body or nothing
    local status code attempt
    for ((attempt = 1; attempt <= call_attempts; attempt++)); do
        code=0
        status=$(ask "$1" "$2") || code=$?
        case "$code $status" in
            "0 200") return ;;
            "6 "*) has_kind Route || call_elsewhere ;;
            "60 "*) call_failed "the certificate of $endpoint is not trusted here: set CURL_CA_BUNDLE to a file that has its CA" ;;
            "0 404" | "0 502" | "0 503" | "0 504" | "7 "* | "35 "* | "52 "* | "56 "*) ;;
            *) break ;;
        esac
        show "the gateway does not answer yet ($(call_problem "$code" "$status"))"
        a_moment
    done
    call_failed "$(call_problem "$code" "$status")"
}

call_problem() { # exit code of curl, status
    if [ "$1" != 0 ]; then
        tail -n 1 "$work/errors"
    else
        printf 'status %s: %s' "$2" "$(head -c 300 "$work/answer" | tr -d '\n')"
    fi
}

call_failed() { # what is wrong
    fail call "everything runs, but the call to $endpoint failed: $1; hint: docs/TROUBLESHOOTING.md; run again to try again"
}

# The name of an Ingress is in somebody else's DNS, perhaps not yet.
call_elsewhere() {
    say "warning: ${endpoint#*://} is not in the DNS here, so the call goes through a forwarded port; hint: add it to the DNS"
    forward_port
}

check_call() {
    local public
    phase="it made a call through the gateway"
    find_endpoint
    public=$endpoint
    [ -n "$endpoint" ] || forward_port
    find_certificate
    make_check_key || fail failed "no key for the call could be made; hint: $OC logs deployment/$gateway -n $namespace"
    ask_until_answered /v1/models ""
    say "calling the model, which can take minutes where it does not fit into memory"
    ask_until_answered /v1/chat/completions \
        '{"messages": [{"role": "user", "content": "Say OK."}], "max_tokens": 4, "temperature": 0}'
    grep -q '"choices"' "$work/answer" || call_failed "the answer is none of a chat: $(head -c 300 "$work/answer")"
    revoke_check_key
    say "the call through ${endpoint#*://} was answered"
    endpoint=$public
}

# Nothing was changed, so nothing is asked of the model, and no key is made.
check_health() {
    find_endpoint
    [ -n "$endpoint" ] || return 0
    find_certificate
    curl --silent --fail --max-time 30 ${ca_file:+--cacert "$ca_file"} --output /dev/null "$endpoint/health" ||
        warning "$endpoint/health does not answer" "docs/TROUBLESHOOTING.md"
}

tell_how_to_call() {
    local base=$endpoint
    if [ -z "$base" ]; then
        base=http://127.0.0.1:8080
        say "" "The gateway is published nowhere. From this machine:"
        say "    $OC port-forward -n $namespace service/$gateway 8080"
    fi
    cat >&2 <<END

endpoint: $base/v1

    curl $base/v1/chat/completions -H "Authorization: Bearer \$KEY" \\
        -d '{"messages": [{"role": "user", "content": "Hello!"}]}'

    from openai import OpenAI
    client = OpenAI(base_url="$base/v1", api_key=key)
    client.chat.completions.create(model="$model_alias", messages=[{"role": "user", "content": "Hello!"}])

more keys: $OC exec -n $namespace deployment/$gateway -c gateway -- /usr/local/bin/llama-gateway keys create --tenant NAME
END
}
