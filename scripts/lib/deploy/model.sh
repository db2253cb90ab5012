# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # the parts use each other's names; deploy.sh is checked with all of them
# Which model is served, and changing it. Sourced by scripts/deploy.sh.

switch_repo="" switch_quant="" prune=""
model="" live_model="" model_alias="" # models as "repo quant"

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
    # shellcheck disable=SC2153 # a name in the ConfigMap
    settings[MODEL_ALIAS]="" # made of the repo's name
    settings[FETCH_PRUNE]=${prune:-0}
}

# What the rendered set serves.
learn_model() {
    local repo quant alias
    IFS='|' read -r repo quant alias < <(
        rendered ConfigMap "$server-config" '{.data.MODEL_REPO}|{.data.QUANT_TYPE}|{.data.MODEL_ALIAS}'
        echo
    )
    model="$repo $quant"
    repo=${repo##*/} # the entrypoint makes the same of it
    repo=${repo,,}
    model_alias=${alias:-${repo%-gguf}}
}

# The volume holds the new model, and the one before it unless that is pruned.
check_model() {
    local volume kept="" needed=${model_sizes[$model]:-}
    live_model=$(answer live-model)
    if [ -z "$needed" ]; then
        [ -z "$switch_repo" ] || say "the size of $model is not known here; the fetcher checks the space before it loads anything"
        return 0
    fi
    if [ -n "$live_model" ] && [ "$live_model" != "$model" ] && [ -z "$prune" ]; then
        needed=$((needed + ${model_sizes[$live_model]:-0}))
        kept=" beside $live_model, which stays,"
    fi
    volume=$(answer claims | awk -F '|' -v c="$model_claim" '$1 == c { print $5 }')
    [ -n "$volume" ] || volume=$(answer wanted-claims | awk -F '|' -v c="$model_claim" '$1 == c { print $4 }')
    [ "$((needed * 1000000000 / 1048576))" -le "$(mebibytes "$volume")" ] ||
        problem "the volume $model_claim has $volume, and $model$kept needs $needed GB" \
            "$([ -z "$kept" ] || echo "switch-model --prune deletes the old model when there is no room, or ")set a greater size in the overlay"
}

# Before the change, so that nobody is surprised by an hour without a model.
tell_downtime() {
    local live_hash hash='{.spec.template.metadata.annotations.llama-gateway/config-sha256}'
    [ -n "$live_model" ] || return 0
    if [ "$live_model" != "$model" ]; then
        say "the model changes from $live_model to $model: it is downloaded${model_sizes[$model]:+ (${model_sizes[$model]} GB)} and loaded;" \
            "until then clients get 503 with Retry-After"
        return
    fi
    live_hash=$(read_object deployment "$server" "$hash")
    if [ -n "$live_hash" ] && [ "$live_hash" != "$(rendered Deployment "$server" "$hash")" ]; then
        say "the parameters of llama-server change: it loads its model again; until then clients get 503 with Retry-After"
    fi
}
