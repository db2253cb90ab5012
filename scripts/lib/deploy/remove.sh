# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # the parts use each other's names; deploy.sh is checked with all of them
# Takes away what was deployed, and asks before anything is lost. Sourced by scripts/deploy.sh.

purge="" assume_yes=""

# Volumes, Secrets, images, and what was remembered stay: the next run goes on where this one ended.
uninstall() {
    phase="it removed what runs"
    if [ -z "$(read_object namespace "$namespace" '{.metadata.name}')" ]; then
        say "there is no namespace $namespace, so nothing to remove"
        return
    fi
    if [ -n "$purge" ]; then
        purge_namespace
        return
    fi
    render
    check_known_kinds
    in_background "$OC" delete --ignore-not-found -f "$work/removable.yaml" 1>&2
    say "removed; pods end when their requests are done, within eleven minutes"
    say "kept: the volumes $model_claim (the model) and $ledger_claim (keys, ledger), the Secrets, built images, and ConfigMap $remembered"
    say "scripts/deploy.sh brings it back; scripts/deploy.sh --uninstall --purge deletes them as well"
}

# A kind that the cluster does not know cannot be deleted, and need not be.
check_known_kinds() {
    local version kept="Namespace PersistentVolumeClaim ImageStream"
    while read -r version; do
        grep -qxF "${version% *}" "$work/api-versions" || kept+=" ${version##* }"
    done < <(awk '{ print $1, $2 }' "$work/inventory" | sort -u)
    select_kinds out "$kept" "$work/rendered.yaml" |
        awk "$split_documents"'function found() { if (name != "'"$remembered"'") printf "%s---\n", document }' >"$work/removable.yaml"
}

purge_namespace() {
    local typed="" kind=namespace
    if [ -z "$assume_yes" ]; then
        [ -t 0 ] || fail usage "--purge deletes the model, all keys and the ledger; hint: without a terminal, say --yes"
        printf 'This deletes the model, all keys and the ledger, for good.\nType %s to go on: ' "$namespace" >&2
        IFS= read -r typed || true
        [ "$typed" = "$namespace" ] || fail usage "that was not its name, nothing was changed"
    fi
    # A project's administrator may delete the project, but not the namespace behind it.
    ! is_openshift || kind=project
    phase="the namespace was deleted (the cluster goes on with it)"
    in_background "$OC" delete "$kind" "$namespace" 1>&2
    say "the namespace $namespace is deleted, with all that was in it"
}
