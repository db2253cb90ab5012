#!/usr/bin/env bash
# preStop hook of llama-server: waits until it processes nothing. SIGTERM would break its streams at once.
#
# The pod leaves the DNS when its end begins, but the gateway asks again only every few seconds and may send requests
# until then, so the hook waits DRAIN_MIN_SECONDS even if all is quiet. After DRAIN_MAX_SECONDS it gives up.
# It ends with 0 always, and tells on one line how it went.
set -euo pipefail

log=${DRAIN_LOG:-/proc/1/fd/1} # the log of the container: what a hook prints is lost
minimum=${DRAIN_MIN_SECONDS:-15}
maximum=${DRAIN_MAX_SECONDS:-280}
[[ $minimum =~ ^[0-9]{1,6}$ ]] || minimum=15
[[ $maximum =~ ^[0-9]{1,6}$ ]] || maximum=280
port=${PORT:-8001}
host=${HOST:-0.0.0.0}
[ "$host" != 0.0.0.0 ] || host=127.0.0.1
key_file=${API_KEY_FILE:-/run/secrets/upstream/api-key}

# Asked more often, llama-server would not notice that clients leave.
readonly POLL_SECONDS=2

finish() {
    local line="drain: $1, after $SECONDS s"
    echo "$line"
    { echo "$line" >"$log"; } 2>/dev/null || true
    exit 0
}

# The key as a line of curl's configuration: arguments are seen by others.
key_header() {
    local key=""
    if [ "$key_file" != none ] && [ -r "$key_file" ]; then
        key=$(grep -v -m 1 -e '^#' -e '^$' "$key_file") || true
    fi
    key=${key//\\/\\\\}
    [ -z "$key" ] || printf 'header = "Authorization: Bearer %s"\n' "${key//\"/\\\"}"
}

answer="" # body and, on the last line, status code of the newest answer; 000 when there was none in time
ask() {   # PATH
    local code=0
    answer=$(key_header | curl --config - --silent --noproxy '*' --max-time 10 --write-out '\n%{http_code}' \
        "http://$host:$port$1") || code=$?
    # 7: nobody listens.
    [ "$code" != 7 ] || finish "llama-server is gone"
    [ "${answer##*$'\n'}" != 503 ] || finish "the model was still loading"
}

# Connections of others to the port. The gateway closes its own some seconds after they have nothing to do.
open_connections() {
    awk -v port="$(printf ':%04X' "$port")" \
        '$4 == "01" && substr($2, length($2) - 4) == port { n++ } END { print n + 0 }' /proc/net/tcp /proc/net/tcp6
}

left="some" # requests that are processed or wait for a slot
count_requests() {
    ask /metrics
    case ${answer##*$'\n'} in
        200) left=$(awk '/^llamacpp:requests_(processing|deferred) / { n += $2 } END { print n + 0 }' <<<"$answer") ;;
        000) left="some" ;; # busy: a long prompt may hold the answer up
        # A key that was changed since, for instance.
        *) left=$(open_connections) ;;
    esac
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
