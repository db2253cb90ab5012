# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # the parts use each other's names; deploy.sh is checked with all of them
# The overlay, with what this run adds to it, as one file. Sourced by scripts/deploy.sh.
#
# What is added: parameters of --set, images of --registry, the name of --host, the ConfigMap that remembers all of it,
# and in the pod templates a hash of their configuration, so that a change restarts them and nothing else does.

overlay="" registry="" host=""
declare -A settings=() # parameters of ConfigMap kimi-k2-llamacpp-config

# What --set takes: parameters of the entrypoint and of the fetcher, without those that the manifests fix (paths, ports).
readonly parameters=" MODEL_REPO QUANT_TYPE MODEL_REVISION MODEL_ALIAS TEMPERATURE MIN_P CTX_SIZE PARALLEL_SLOTS \
N_GPU_LAYERS MoE_OFFLOAD THREADS BATCH_SIZE UBATCH_SIZE CACHE_RAM_MIB FLASH_ATTENTION WARMUP THREADS_HTTP \
SSE_PING_INTERVAL EXTRA_FLAGS HF_ENDPOINT HTTPS_PROXY HTTP_PROXY NO_PROXY CA_FILE FETCH_CONNECTIONS FETCH_OFFLINE \
FETCH_PRUNE KEEP_FREE_GIB "

list_overlays() {
    local folder
    for folder in "$root"/manifests/overlays/*/; do
        folder=${folder%/}
        printf '%s ' "${folder##*/}"
    done
}

require_overlay() { # name
    case $1 in
        */* | .*) ;;
        *) [ ! -f "$root/manifests/overlays/$1/kustomization.yaml" ] || return 0 ;;
    esac
    fail usage "there is no overlay $1; hint: one of $(list_overlays)"
}

# A quoted YAML scalar: in single quotes, only these themselves need care.
quoted() { # text
    printf "'%s'" "${1//\'/\'\'}"
}

settings_as_lines() {
    local name
    for name in "${!settings[@]}"; do
        printf '%s=%s\n' "$name" "${settings[$name]}"
    done | LC_ALL=C sort
}

remember_as_object() {
    printf '%s\n' 'apiVersion: v1' 'kind: ConfigMap' 'metadata:' "  name: $remembered" "  namespace: $namespace" \
        '  labels:' '    app.kubernetes.io/part-of: llama-gateway' 'data:'
    printf '  overlay: %s\n' "$(quoted "$overlay")"
    printf '  registry: %s\n' "$(quoted "$registry")"
    printf '  host: %s\n' "$(quoted "$host")"
    printf '  set: '
    if [ ${#settings[@]} = 0 ]; then
        printf "''\n"
    else
        printf '|\n'
        settings_as_lines | sed 's/^/    /'
    fi
}

settings_as_patch() {
    local name
    [ ${#settings[@]} -gt 0 ] || return 0
    printf '%s\n' "- target: {kind: ConfigMap, name: $server-config}" '  patch: |-'
    for name in "${!settings[@]}"; do
        printf '    - {op: add, path: /data/%s, value: %s}\n' "$name" "$(quoted "${settings[$name]}")"
    done
}

# A patch counts only where the overlay has what it is for.
host_as_patch() {
    [ -n "$host" ] || return 0
    printf '%s\n' '- target: {kind: Route}' '  patch: |-' "    - {op: add, path: /spec/host, value: $host}" \
        '- target: {kind: HTTPRoute}' '  patch: |-' "    - {op: replace, path: /spec/hostnames, value: [$host]}" \
        '- target: {kind: Ingress}' '  patch: |-' \
        "    - {op: replace, path: /spec/rules/0/host, value: $host}" \
        "    - {op: replace, path: /spec/tls/0/hosts, value: [$host]}"
}

hash_as_patch() { # deployment
    printf '%s\n' "- target: {kind: Deployment, name: $1}" '  patch: |-' '    apiVersion: apps/v1' \
        '    kind: Deployment' "    metadata: {name: $1}" '    spec:' '      template:' '        metadata:' \
        '          annotations:' "            llama-gateway/config-sha256: hash-of-$1-config"
}

# kustomize takes a folder from anywhere, but only by a relative path.
kustomization() {
    printf '%s\n' 'apiVersion: kustomize.config.k8s.io/v1beta1' 'kind: Kustomization' 'resources:' \
        "- $(realpath --relative-to="$work/render" "$root/manifests/overlays/$overlay")" '- remember.yaml' 'patches:'
    hash_as_patch "$server"
    hash_as_patch "$gateway"
    settings_as_patch
    host_as_patch
    [ -n "$registry" ] || return 0
    printf '%s\n' 'images:' "- {name: $server, newName: $(quoted "$registry/$server")}" \
        "- {name: $gateway, newName: $(quoted "$registry/$gateway")}"
}

render() {
    local name hash
    mkdir -p "$work/render"
    remember_as_object >"$work/render/remember.yaml"
    kustomization >"$work/render/kustomization.yaml"
    "$OC" kustomize "$work/render" >"$work/rendered.yaml" 2>"$work/errors" ||
        fail checks "the overlay $overlay cannot be rendered: $(tail -n 1 "$work/errors");" \
            "hint: $OC must be of 2023 or newer (kustomize 5), see \"$OC version --client\""
    for name in "$server" "$gateway"; do
        hash=$(document ConfigMap "$name-config" "$work/rendered.yaml" | configuration | sha256sum)
        sed -i "s/hash-of-$name-config/${hash%% *}/" "$work/rendered.yaml"
    done
    inventory "$work/rendered.yaml" >"$work/inventory"
}

# The data of a ConfigMap and nothing else of it: a label is no reason to restart anything.
configuration() {
    awk '/^[^ ]/ { inside = /^(data|binaryData):/ } inside'
}

# awk's programs below read what kustomize writes: documents between "---", keys in order, two blanks a level.
# shellcheck disable=SC2016 # the dollars are awk's
readonly split_documents='
    function end() { if (document != "") found(); document = apiVersion = kind = name = ""; inside = 0 }
    /^---$/ { end(); next }
    /^apiVersion: / { apiVersion = $2 }
    /^kind: / { kind = $2 }
    /^[^ ]/ { inside = /^metadata:/ }
    inside && /^  name: / { name = $2 }
    { document = document $0 "\n" }
    END { end() }
'

# Lines of "apiVersion kind name".
inventory() { # file
    awk "$split_documents"'function found() { print apiVersion, kind, name }' "$1"
}

document() { # kind, name, file
    awk -v k="$1" -v n="$2" "$split_documents"'function found() { if (kind == k && name == n) printf "%s", document }' "$3"
}

# Documents whose kind is one of a list, or none of it.
select_kinds() { # in|out, "kind kind...", file
    awk -v side="$1" -v kinds=" $2 " "$split_documents"'
        function found() { if ((index(kinds, " " kind " ") > 0) == (side == "in")) printf "%s---\n", document }' "$3"
}

has_kind() { # kind
    awk -v k="$1" '$2 == k { found = 1 } END { exit !found }' "$work/inventory"
}

# Fields of a rendered object, or of all of a kind. The CLI reads them itself, without a server: `annotate --local`
# prints what it is given.
rendered() { # kind, name, jsonpath
    document "$1" "$2" "$work/rendered.yaml" | "$OC" annotate --local -f - read-by=deploy.sh -o "jsonpath=$3"
}

rendered_kind() { # kind, jsonpath
    select_kinds in "$1" "$work/rendered.yaml" | "$OC" annotate --local -f - read-by=deploy.sh -o "jsonpath=$2"
}
