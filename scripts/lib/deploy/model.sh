# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # the parts use each other's names; deploy.sh is checked with all of them
# Which model is served, and changing it. Sourced by scripts/deploy.sh.

switch_repo="" switch_quant="" prune=""

# Sizes on disk in GB, by "repo quant". Others are only known to the fetcher, which looks before it starts.
declare -rA model_sizes=(
    ["unsloth/Kimi-K2-Thinking-GGUF UD-TQ1_0"]=247
    ["unsloth/Kimi-K2-Thinking-GGUF UD-Q2_K_XL"]=381
    ["unsloth/Kimi-K2-Instruct-GGUF UD-TQ1_0"]=245
    ["unsloth/Kimi-K2-Instruct-GGUF UD-IQ1_S"]=281
    ["unsloth/Kimi-K2-Instruct-GGUF UD-IQ1_M"]=304
    ["unsloth/Kimi-K2-Instruct-GGUF UD-IQ2_XXS"]=343
    ["unsloth/Kimi-K2-Instruct-GGUF UD-Q2_K_XL"]=381
    ["unsloth/Kimi-K2-Instruct-GGUF UD-IQ3_XXS"]=417
    ["unsloth/Kimi-K2-Instruct-GGUF UD-Q3_K_XL"]=452
    ["unsloth/Kimi-K2-Instruct-GGUF UD-Q4_K_XL"]=588
    ["unsloth/Kimi-K2-Instruct-GGUF UD-Q5_K_XL"]=732
    ["unsloth/Qwen3-30B-A3B-Instruct-2507-GGUF UD-Q4_K_XL"]=18
    ["ggml-org/gpt-oss-20b-GGUF mxfp4"]=13
)

# What switch-model is, put into parameters: the next plain run knows it like any other.
switch_settings() {
    [ -n "$switch_repo" ] || return 0
    settings[MODEL_REPO]=$switch_repo
    settings[QUANT_TYPE]=$switch_quant
    settings[MODEL_REVISION]=main
    settings[MODEL_ALIAS]="" # made of the repo's name
    settings[FETCH_PRUNE]=${prune:-0}
}

live_model() { read_object configmap "$server-config" '{.data.MODEL_REPO} {.data.QUANT_TYPE}'; }

rendered_model() { rendered ConfigMap "$server-config" '{.data.MODEL_REPO} {.data.QUANT_TYPE}'; }

# As the entrypoint makes it where MODEL_ALIAS is empty.
served_model() {
    local alias repo
    IFS='|' read -r alias repo < <(rendered ConfigMap "$server-config" '{.data.MODEL_ALIAS}|{.data.MODEL_REPO}' && echo)
    repo=${repo##*/}
    repo=${repo,,}
    echo "${alias:-${repo%-gguf}}"
}

# The volume holds the new model, and the one before it unless that is pruned.
check_model() {
    local old new volume needed kept=""
    new=$(rendered_model)
    old=$(live_model)
    [ -n "$old" ] && [ "$old" != "$new" ] || old=""
    needed=${model_sizes[$new]:-}
    if [ -z "$needed" ]; then
        [ -z "$switch_repo" ] || say "the size of $new is not known here; the fetcher checks the space before it loads anything"
        return 0
    fi
    if [ -n "$old" ] && [ -z "$prune" ]; then
        needed=$((needed + ${model_sizes[$old]:-0}))
        kept=" beside $old, which stays"
    fi
    volume=$(read_object persistentvolumeclaim "$model_claim" '{.status.capacity.storage}')
    [ -n "$volume" ] || volume=$(rendered PersistentVolumeClaim "$model_claim" '{.spec.resources.requests.storage}')
    [ "$((needed * 1000000000 / 1048576))" -le "$(mebibytes "$volume")" ] ||
        problem "the volume $model_claim has $volume, and $new$kept needs $needed GB" \
            "$([ -z "$kept" ] || echo "switch-model --prune deletes the old model first, or ")set a greater size in the overlay"
}

# Before the change, so that nobody is surprised by an hour without a model.
tell_downtime() {
    local new size live_hash
    new=$(rendered_model)
    [ -n "$(live_model)" ] || return 0
    live_hash=$(read_object deployment "$server" '{.spec.template.metadata.annotations.llama-gateway/config-sha256}')
    if [ "$(live_model)" != "$new" ]; then
        size=${model_sizes[$new]:-}
        say "the model changes from $(live_model) to $new: it is loaded${size:+ ($size GB)} and started anew;" \
            "until then clients get 503 with Retry-After"
    elif [ -n "$live_hash" ] && [ "$live_hash" != "$(rendered Deployment "$server" '{.spec.template.metadata.annotations.llama-gateway/config-sha256}')" ]; then
        say "the parameters of llama-server change: it reads its model again; until then clients get 503 with Retry-After"
    fi
}
