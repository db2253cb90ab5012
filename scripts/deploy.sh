#!/usr/bin/env bash
# Deploys llama-server and the gateway to an OpenShift or Kubernetes cluster: docs/deploy.md.
# shellcheck source-path=SCRIPTDIR
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/deploy.sh [options]                            deploy, or bring what is deployed up to date
       scripts/deploy.sh switch-model REPO QUANT [options]    serve another model
       scripts/deploy.sh status                               how far it is
       scripts/deploy.sh --uninstall [--purge] [--yes]

  --overlay NAME         what to deploy, one of manifests/overlays (default: as before, else the cluster's Kimi-K2)
  --set KEY=VALUE        a parameter of llama-server, such as CTX_SIZE=8192; remembered; can be repeated
  --reset                forget --set, switch-model, --registry and --host of earlier runs
  --registry PREFIX      where the images are, such as quay.io/you; remembered. OpenShift needs none, it builds them
  --host NAME            the name that clients use (Ingress, Gateway, Route); remembered. A Route has one by itself
  --hf-token-file FILE   the Hugging Face token, or in the environment: HF_TOKEN. Public models need none
  --build, --no-build    build the images even if they are there; never build
  --dry-run              check everything, show what would change, change nothing
  --no-wait              do not wait until the model answers; makes no key and no call
  --timeout TIME         how long to wait for each part, such as 90m (default: 6h)
  --prune                switch-model: delete the old model if both do not fit on the volume
  --uninstall            remove what runs; keeps volumes and Secrets
  --purge                with --uninstall: delete the namespace with all that is in it
  --yes                  ask nothing
  -h, --help             this

environment: OC, the cluster's CLI (default: oc, else kubectl); HF_TOKEN
exit codes: 0 done; 1 failed; 2 wrong usage; 3 a check failed, nothing was changed; 4 a part did not start;
            5 all runs, but the call failed; 130 Ctrl-C
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=lib/deploy/common.sh
. "$root/scripts/lib/deploy/common.sh"
# shellcheck source=lib/deploy/render.sh
. "$root/scripts/lib/deploy/render.sh"
# shellcheck source=lib/deploy/questions.sh
. "$root/scripts/lib/deploy/questions.sh"
# shellcheck source=lib/deploy/checks.sh
. "$root/scripts/lib/deploy/checks.sh"
# shellcheck source=lib/deploy/images.sh
. "$root/scripts/lib/deploy/images.sh"
# shellcheck source=lib/deploy/secrets.sh
. "$root/scripts/lib/deploy/secrets.sh"
# shellcheck source=lib/deploy/model.sh
. "$root/scripts/lib/deploy/model.sh"
# shellcheck source=lib/deploy/wait.sh
. "$root/scripts/lib/deploy/wait.sh"
# shellcheck source=lib/deploy/call.sh
. "$root/scripts/lib/deploy/call.sh"
# shellcheck source=lib/deploy/remove.sh
. "$root/scripts/lib/deploy/remove.sh"

action=deploy dry_run="" no_wait="" reset="" changed="" key_made=""
given_overlay="" given_registry="" given_host=""
declare -A given_settings=()

wrong_usage() {
    fail usage "$*; hint: scripts/deploy.sh --help"
}

take_setting() { # KEY=VALUE
    [[ $1 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || wrong_usage "--set $1 is not KEY=VALUE"
    [[ $parameters == *" ${1%%=*} "* ]] ||
        fail usage "there is no parameter ${1%%=*}; hint: one of$parameters"
    [[ ${1#*=} != *[[:cntrl:]]* ]] || wrong_usage "--set ${1%%=*} has a value of more than one line"
    given_settings[${1%%=*}]=${1#*=}
}

parse_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
            --overlay | --set | --registry | --host | --hf-token-file | --timeout)
                [ $# -gt 1 ] || wrong_usage "$1 needs a value"
                take_option "$1" "$2"
                shift
                ;;
            --*=*) take_option "${1%%=*}" "${1#*=}" ;;
            --dry-run) dry_run=yes ;;
            --yes) assume_yes=yes ;;
            --no-wait) no_wait=yes ;;
            --reset) reset=yes ;;
            --build) build=always ;;
            --no-build) build=never ;;
            --uninstall) action=uninstall ;;
            --purge) purge=yes ;;
            --prune) prune=1 ;;
            -h | --help)
                usage
                exit
                ;;
            status) action=status ;;
            switch-model)
                [[ ${2:-} =~ ^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$ && ${3:-} =~ ^[A-Za-z0-9._-]+$ ]] ||
                    wrong_usage "switch-model takes a repo such as unsloth/Kimi-K2-Thinking-GGUF and a quant such as UD-TQ1_0"
                switch_repo=$2 switch_quant=$3
                shift 2
                ;;
            *) wrong_usage "unknown argument $1" ;;
        esac
        shift
    done
    [ -z "$purge" ] || [ "$action" = uninstall ] || wrong_usage "--purge goes with --uninstall"
    [ -z "$prune" ] || [ -n "$switch_repo" ] || wrong_usage "--prune goes with switch-model"
    [ -z "$dry_run" ] || [ "$action" = deploy ] || wrong_usage "--dry-run does not go with $action"
}

take_option() { # option, value
    case $1 in
        --overlay) given_overlay=$2 ;;
        --set) take_setting "$2" ;;
        --registry) given_registry=${2%/} ;;
        --host)
            [[ $2 =~ ^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$ ]] || wrong_usage "--host $2 is not a name such as llm.example.org"
            given_host=$2
            ;;
        --hf-token-file) hf_token_file=$2 ;;
        --timeout)
            [[ $2 =~ ^[1-9][0-9]{0,5}[smh]?$ ]] || wrong_usage "--timeout $2 is not a time such as 90m"
            timeout=$2
            ;;
        *) wrong_usage "unknown argument $1" ;;
    esac
}

# What an earlier run was called with counts until it is said otherwise. Another overlay is another profile: what was
# set for the one before does not go with it.
recall() {
    local name line remembered_overlay remembered_registry remembered_host
    read_object configmap "$remembered" '{.data.overlay}|{.data.registry}|{.data.host}{"\n"}{.data.set}' >"$work/remembered"
    IFS='|' read -r remembered_overlay remembered_registry remembered_host <"$work/remembered" || true
    overlay=${given_overlay:-$remembered_overlay}
    [ -z "$reset" ] || remembered_registry="" remembered_host=""
    registry=${given_registry:-$remembered_registry}
    host=${given_host:-$remembered_host}
    [ -n "$overlay" ] || overlay=$(default_overlay)
    require_overlay "$overlay"
    if [ -z "$reset" ] && [ "$overlay" = "$remembered_overlay" ]; then
        while IFS= read -r line; do
            [ -z "$line" ] || settings[${line%%=*}]=${line#*=}
        done < <(tail -n +2 "$work/remembered")
    elif [ -z "$reset" ] && [ -n "$remembered_overlay" ]; then
        say "the overlay changes from $remembered_overlay to $overlay; what --set and switch-model have set does not go with it"
    fi
    switch_settings
    for name in "${!given_settings[@]}"; do
        settings[$name]=${given_settings[$name]}
    done
}

default_overlay() {
    if is_openshift; then
        echo openshift-kimi-k2-t4
    else
        echo kubernetes-kimi-k2-t4
    fi
}

tell_plan() {
    say "cluster: $("$OC" config view --minify -o 'jsonpath={.clusters[0].cluster.server}' 2>/dev/null || true)"
    say "overlay: $overlay, model: $model"
    [ ${#settings[@]} = 0 ] || say "set: $(settings_as_lines | xargs -d '\n')"
}

# Exit code 0: nothing differs, 1: something does.
difference() {
    local code=0
    "$OC" diff --server-side --force-conflicts "--field-manager=$field_manager" -f "$work/rendered.yaml" \
        >"$work/difference" 2>"$work/errors" || code=$?
    [ "$code" -le 1 ] ||
        fail failed "the cluster cannot tell what would change: $(tail -n 1 "$work/errors"); hint: run again"
    return "$code"
}

show_dry_run() {
    pin_images
    if [ -z "$namespace_phase" ]; then
        say "there is no namespace $namespace yet; all of this would be made, and Secrets, images and the first key:"
        cat "$work/rendered.yaml"
    elif difference; then
        say "nothing would change"
    else
        cat "$work/difference"
    fi
    say "this was a dry run: nothing was changed"
}

apply() { # file
    in_background "$OC" apply --server-side --force-conflicts "--field-manager=$field_manager" -f "$1" 1>&2
}

# The order matters: Secrets need the namespace, builds need their BuildConfigs, and a pod whose image is not there yet
# would look for it elsewhere.
bring_up_to_date() {
    local image building=""
    if [ -z "$namespace_phase" ]; then
        phase="it made the namespace"
        select_kinds in Namespace "$work/rendered.yaml" >"$work/namespace.yaml"
        apply "$work/namespace.yaml"
        changed=yes
    fi
    ensure_secrets
    if builds_here; then
        for image in "$gateway" "$server"; do
            ! needs_build "$image" || building=yes
        done
    fi
    if [ -n "$building" ]; then
        phase="it applied what the builds need"
        select_kinds in "ImageStream BuildConfig NetworkPolicy" "$work/rendered.yaml" >"$work/build.yaml"
        apply "$work/build.yaml"
        build_images
        changed=yes
    fi
    pin_images
    phase="it applied the manifests"
    if difference; then
        say "the cluster has all of it already"
    else
        tell_downtime
        apply "$work/rendered.yaml"
        changed=yes
    fi
}

deploy() {
    take_token_from_file
    recall
    render
    learn_model
    tell_plan
    check_everything
    if [ -n "$dry_run" ]; then
        show_dry_run
        return
    fi
    ask_for_token
    bring_up_to_date
    if [ -n "$no_wait" ]; then
        say "not waiting; the same command without --no-wait goes on, makes the first key and a call"
        return
    fi
    wait_for "$gateway" "starts"
    wait_for "$server" "loads its model"
    first_key
    if [ -n "$changed$waited$key_made" ]; then
        check_call
    else
        check_health
        say "nothing was changed"
    fi
    tell_how_to_call
}

status() {
    local name
    recall
    render
    learn_model
    tell_plan
    for name in "$gateway" "$server"; do
        case $(rollout_state "$name") in
            ready) say "$name: ready" ;;
            unknown) say "$name: not there" ;;
            *) show_progress "$name" ;;
        esac
    done
    find_endpoint
    say "endpoint: ${endpoint:+$endpoint/v1}"
}

main() {
    take_token_from_environment
    parse_arguments "$@"
    [ -z "$given_overlay" ] || require_overlay "$given_overlay"
    choose_cli
    start_work
    check_login
    learn_apis
    case $action in
        deploy) deploy ;;
        status) status ;;
        uninstall)
            recall
            uninstall
            ;;
    esac
}

main "$@"
