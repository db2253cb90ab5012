#!/usr/bin/env bash
# preStop hook of llama-server: waits until it processes nothing. SIGTERM would break its streams at once.
#
# The pod leaves the DNS when its end begins, but the gateway asks only every 5 seconds, believes the second answer, and
# gets answers that are up to 30 seconds old. It may send requests until then, so the hook waits DRAIN_MIN_SECONDS even
# if all is quiet. After DRAIN_MAX_SECONDS it gives up.
# It ends with 0 always, and tells on one line how it went.
set -euo pipefail

log=${DRAIN_LOG:-/proc/1/fd/1} # the log of the container: what a hook prints is lost
minimum=${DRAIN_MIN_SECONDS:-45}
maximum=${DRAIN_MAX_SECONDS:-280}
[[ $minimum =~ ^[0-9]{1,6}$ ]] || minimum=45
[[ $maximum =~ ^[0-9]{1,6}$ ]] || maximum=280
port=${PORT:-8001}
case ${HOST:-0.0.0.0} in
    0.0.0.0) host=127.0.0.1 ;;
    ::) host='[::1]' ;;
    *:*) host="[$HOST]" ;;
    *) host=$HOST ;;
esac
key_file=${API_KEY_FILE:-/run/secrets/upstream/api-key}

# Asked more often, llama-server would not notice that clients leave.
readonly POLL_SECONDS=2

# A hook that fails says nothing to anybody, and its pod is stopped all the same.
trap 'exit 0' EXIT

finish() {
    local line="drain: $1, after $SECONDS s"
    echo "$line"
    { echo "$line" >"$log"; } 2>/dev/null || true
    exit 0
}

# The first key of the file as a line of curl's configuration: arguments are seen by others.
key_header() {
    local line
    [ "$key_file" != none ] && [ -r "$key_file" ] || return 0
    while IFS= read -r line || [ -n "$line" ]; do
        [[ -n $line && $line != '#'* ]] || continue
        line=${line//\\/\\\\}
        printf 'header = "Authorization: Bearer %s"\n' "${line//\"/\\\"}"
        return 0
    done <"$key_file"
}

# Sets body and status code of the newest answer; 000 when there was none in time.
answer="" status=000
ask() { # PATH
    local code=0
    answer=$(key_header | curl --config - --silent --noproxy '*' --max-time 5 --write-out '\n%{http_code}' \
        "http://$host:$port$1") || code=$?
    status=${answer##*$'\n'}
    # 7: nobody listens.
    [ "$code" != 7 ] || finish "llama-server is gone"
    [ "$status" != 503 ] || finish "the model was still loading"
}

# Sets the number of requests that are processed or wait for a slot.
left=some
count_requests() {
    local name value sum=""
    ask /metrics
    while read -r name value; do
        case $name in
            llamacpp:requests_processing | llamacpp:requests_deferred) sum=$((sum + 10#0${value%%[!0-9]*})) ;;
        esac
    done <<<"$answer"
    left=${sum:-some}
    case $status in
        # No answer in time: a long prompt may hold it up.
        200 | 000) ;;
        # The key was changed since, for instance.
        *) count_connections ;;
    esac
}

# Connections of others to the port. The gateway closes its own some seconds after they have nothing to do.
count_connections() {
    local hex at state
    printf -v hex '%04X' "$port"
    left=0
    while read -r _ at _ state _; do
        [[ $at == *:$hex && $state == 01 ]] && left=$((left + 1))
    done < <(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null)
    return 0
}

while ((SECONDS < maximum)); do
    if ((SECONDS < minimum)); then
        ask /health # which does not disturb llama-server, and tells when it is gone
    else
        count_requests
        [ "$left" != 0 ] || finish "nothing is processed any more"
    fi
    sleep "$POLL_SECONDS"
done
finish "$left requests are cut"
