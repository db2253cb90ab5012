# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # the parts use each other's names; deploy.sh is checked with all of them
# Waits for a Deployment, shows how far it is, and why it failed. Sourced by scripts/deploy.sh.

timeout=6h           # as long as the model's progressDeadlineSeconds
waited=""            # whether anything was not ready when it was first looked at
readonly patience=12 # answers of the cluster that may fail in a row
last_progress=""
declare -A restarts_before=() # by deployment/container, when it was first seen

show() { # text: what is new only
    [ "$1" = "$last_progress" ] || say "  $1"
    last_progress=$1
}

# "ready", "waiting", "late" (the progress deadline is over) or "unknown" (no answer).
rollout_state() { # deployment
    local generation observed wanted total updated available reason
    IFS='|' read -r generation observed wanted total updated available reason < <(
        cli get deployment "$1" -o 'jsonpath={.metadata.generation}|{.status.observedGeneration}|{.spec.replicas}|{.status.replicas}|{.status.updatedReplicas}|{.status.availableReplicas}|{.status.conditions[?(@.type=="Progressing")].reason}' 2>/dev/null
        echo
    ) || true
    if [ -z "$generation" ]; then
        echo unknown
    elif [ "${observed:-0}" -lt "$generation" ]; then
        echo waiting
    elif [ "$reason" = ProgressDeadlineExceeded ]; then
        echo late
    elif [ "${updated:-0}" = "$wanted" ] && [ "${available:-0}" = "$wanted" ] && [ "${total:-0}" = "$wanted" ]; then
        echo ready
    else
        echo waiting
    fi
}

wait_for() { # deployment, what it does, for people
    local state was_late="" silent=0 deadline=$((SECONDS + $(seconds "$timeout")))
    phase="it waited for $1, which $2"
    state=$(rollout_state "$1")
    [ "$state" != late ] || was_late=yes # of an earlier run: what was in the way then may be gone
    while :; do
        [ "$state$was_late" != lateyes ] || state=waiting
        case $state in
            ready)
                say "$1: ready"
                return
                ;;
            late) explain_failure "$1" "is not ready within its progressDeadlineSeconds" ;;
            unknown)
                silent=$((silent + 1))
                [ "$silent" -lt "$patience" ] ||
                    fail rollout "the cluster does not tell about deployment $1; hint: see to the connection and run again"
                ;;
            waiting)
                silent=0
                [ -n "$waited" ] || say "waiting, up to $timeout; Ctrl-C is safe, running again goes on"
                waited=yes
                show_progress "$1"
                ;;
        esac
        [ "$SECONDS" -lt "$deadline" ] || explain_failure "$1" "is not ready after $timeout"
        a_moment
        state=$(rollout_state "$1")
    done
}

# Lines of "pod|scheduled|message", then each container's "init or main,name,running since,reason,exit code,restarts";
# of the newest pod only, and of none that ends.
newest_pod() { # deployment
    cli get pods -l "app=$1" --sort-by=.metadata.creationTimestamp -o 'jsonpath={range .items[*]}pod|{.metadata.name}|{.metadata.deletionTimestamp}|{.status.conditions[?(@.type=="PodScheduled")].status}|{.status.conditions[?(@.type=="PodScheduled")].message}{"\n"}{range .status.initContainerStatuses[*]}init|{.name}|{.state.running.startedAt}|{.state.waiting.reason}|{.state.terminated.exitCode}|{.restartCount}{"\n"}{end}{range .status.containerStatuses[*]}main|{.name}|{.state.running.startedAt}|{.state.waiting.reason}|{.state.terminated.exitCode}|{.restartCount}{"\n"}{end}{end}' 2>/dev/null |
        awk -F '|' '$1 == "pod" { ending = $3 != ""; if (!ending) text = "" } !ending { text = text $0 "\n" } END { printf "%s", text }'
}

show_progress() { # deployment
    local kind name running reason ended restarts pod="" scheduled message
    newest_pod "$1" >"$work/pod" || return 0
    while IFS='|' read -r kind name running reason ended restarts; do
        if [ "$kind" = pod ]; then
            pod=$name scheduled=$reason message=$ended${restarts:+|$restarts}
            if [ "$scheduled" = False ]; then
                show "$1: waits for a node: $message"
                return
            fi
        elif [ -n "$running" ]; then
            show_container "$1" "$pod" "$kind" "$name"
            return
        elif [ -n "$reason" ] && [ "$reason" != PodInitializing ]; then
            show "$1: container $name: $reason"
            check_hopeless "$1" "$name" "$reason" "$restarts"
            return
        fi
    done <"$work/pod"
    [ -n "$pod" ] || show "$1: waits for its pod; an old one ends first, when its requests are done"
}

show_container() { # deployment, pod, init or main, container
    local line
    line=$(cli logs "$2" -c "$4" --tail=1 2>/dev/null) || line=""
    case $3 in
        init) show "$1: $4: $line" ;;
        main) show "$1: $4 starts: $line" ;;
    esac
}

# What does not get better by waiting. A container may end twice while this run looks on.
check_hopeless() { # deployment, container, reason, restarts
    local before container=$1/$2
    before=${restarts_before[$container]:=${4:-0}}
    case $3 in
        ImagePullBackOff | InvalidImageName | ErrImageNeverPull | CreateContainerConfigError)
            explain_failure "$1" "cannot start: $3 of container $2"
            ;;
        CrashLoopBackOff)
            [ $((${4:-0} - before)) -lt 2 ] || explain_failure "$1" "cannot start: container $2 ended $4 times"
            ;;
    esac
}

# All that the cluster knows about it, then the error, then what to do.
explain_failure() { # deployment, what is wrong
    local pod kind name ended restarts text reason=""
    text=$(read_object deployment "$1" '{.status.conditions[?(@.type=="ReplicaFailure")].message}')
    [ -z "$text" ] || say "  $text"
    newest_pod "$1" >"$work/pod" || true
    while IFS='|' read -r kind name _ reason ended restarts; do
        if [ "$kind" = pod ]; then
            pod=$name
            show_events "$pod"
        elif [ "$ended" != 0 ]; then
            show_log "$pod" "$name" "${restarts:-0}"
            break
        fi
    done <"$work/pod"
    fail rollout "$1 $2; hint: $(failure_hint "$1" "$text")"
}

show_events() { # pod
    say "events of pod $1:"
    cli get events --field-selector "involvedObject.name=$1" --sort-by=.lastTimestamp \
        -o 'jsonpath={range .items[*]}  {.type} {.reason}: {.message}{"\n"}{end}' 2>/dev/null | tail -n 8 |
        tee "$work/events" >&2 || true
}

show_log() { # pod, container, restarts
    local previous=""
    [ "$3" = 0 ] || previous=--previous
    say "last lines of container $2:"
    cli logs "$1" -c "$2" ${previous:+"$previous"} --tail=15 2>/dev/null | sed 's/^/  /' >&2 || true
}

failure_hint() { # deployment, message of a ReplicaFailure
    local events=""
    [ ! -f "$work/events" ] || events=$(cat "$work/events")
    case "$2 $events" in
        *"security context constraint"*) echo "remove runAsUser and fsGroup from the overlay, OpenShift sets them" ;;
        *FailedScheduling*nvidia.com/gpu*) echo "the GPU is in use or not offered: $OC describe nodes -l nvidia.com/gpu.present=true" ;;
        *FailedScheduling*) echo "the message above tells what no node has; then run again" ;;
        *ailed*[Pp]ull*) echo "see that the image is there and may be pulled; --build builds it anew, --registry names where it is" ;;
        *) echo "docs/TROUBLESHOOTING.md; $OC describe pods -l app=$1 -n $namespace; then run again" ;;
    esac
}
