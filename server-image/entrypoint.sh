#!/usr/bin/env bash
# Starts llama-server from the container's parameters, which docs/llama-server.md lists.
#
#   entrypoint.sh                      checks everything, then becomes llama-server
#   entrypoint.sh --check              checks everything and prints the command
#   entrypoint.sh --check-parameters   checks what needs neither model, key nor llama-server
#
# Every problem is one line on stderr. Exit code 64: a parameter is wrong; 66: the model, the key or llama-server is.
set -euo pipefail

# Character classes mean ASCII. It is not exported: llama-server keeps its own locale.
LC_ALL=C
problems=0
flags=()

say() { printf 'entrypoint: %s\n' "$1"; }

refuse() { # what is wrong, what to do
    printf 'entrypoint: %s; hint: %s\n' "$1" "$2" >&2
    problems=$((problems + 1))
}

shown() { # a value for a message: on one line, and not too long
    local value=${1//[[:cntrl:]]/?}
    ((${#value} <= 80)) || value="${value:0:80}..."
    printf '"%s"' "$value"
}

# ---- kinds of values: each refuses by itself and returns 0

whole() { # NAME MIN MAX [HINT]
    local value=${!1} hint=${4:-"a whole number from $2 to $3"}
    if ! [[ $value =~ ^-?(0|[1-9][0-9]{0,8})$ ]]; then
        [[ $value =~ ^([1-9][0-9]{0,4})[kK]$ ]] && hint=$((BASH_REMATCH[1] * 1024))
        refuse "$1 is $(shown "$value"), which is no whole number" "$hint"
    elif ((value < $2 || value > $3)); then
        refuse "$1 is $value, which is not between $2 and $3" "$hint"
    fi
}

decimal() { # NAME MAX: from 0 to MAX
    local value=${!1} hint="a number from 0 to $2, such as 0.6"
    if ! [[ $value =~ ^([0-9]{1,3})(\.([0-9]{1,6}))?$ ]]; then
        [[ $value =~ ^[0-9]+,[0-9]+$ ]] && hint=${value/,/.}
        refuse "$1 is $(shown "$value"), which is no decimal number" "$hint"
    elif ((10#${BASH_REMATCH[1]} > $2 || (10#${BASH_REMATCH[1]} == $2 && 10#0${BASH_REMATCH[3]} > 0))); then
        refuse "$1 is $value, which is more than $2" "$hint"
    fi
}

choice() { # NAME VALUE...
    local name=$1
    shift
    if [[ ${!name} == *[!a-z]* || " $* " != *" ${!name} "* ]]; then
        refuse "$name is $(shown "${!name}"), which is none of: $*" "write one of them, in lower case"
    fi
}

text() { # NAME REGEX WHAT HINT
    if ! [[ ${!1} =~ ^($2)$ ]]; then
        refuse "$1 is $(shown "${!1}"), which is no $3" "$4"
    fi
}

# ---- the environment

defaults() {
    : "${MODEL_REPO:=}" "${QUANT_TYPE:=}" "${MODEL_ALIAS:=}" "${MODELS_DIR:=/models}"
    : "${TEMPERATURE:=}" "${MIN_P:=}" "${CTX_SIZE:=16384}" "${N_GPU_LAYERS:=99}" "${MoE_OFFLOAD:=none}"
    : "${THREADS:=-1}" "${PARALLEL_SLOTS:=1}" "${BATCH_SIZE:=512}" "${UBATCH_SIZE:=512}" "${CACHE_RAM_MIB:=0}"
    : "${THREADS_HTTP:=64}" "${SSE_PING_INTERVAL:=10}" "${FLASH_ATTENTION:=auto}" "${WARMUP:=off}"
    : "${HOST:=0.0.0.0}" "${PORT:=8001}" "${API_KEY_FILE:=/run/secrets/upstream/api-key}" "${EXTRA_FLAGS:=}"
    # Where things are; tests and other images say otherwise.
    : "${LLAMA_SERVER:=/opt/llama.cpp/bin/llama-server}" "${CGROUP_ROOT:=/sys/fs/cgroup}"
    : "${NVIDIA_DEVICE:=/dev/nvidiactl}"
}

# llama-server reads settings from its environment too. What is not on the printed command line must not work.
check_environment() {
    local name
    for name in $(compgen -e); do
        case $name in
            LLAMA_ARG_*)
                refuse "$name is set, but only the parameters and EXTRA_FLAGS become flags" \
                    "unset it; docs/llama-server.md has the parameters"
                ;;
            LLAMA_API_KEY)
                refuse "LLAMA_API_KEY is set: who may see the pod could read the key" \
                    "unset it, and put the key into a file (API_KEY_FILE)"
                ;;
            MOE_OFFLOAD)
                refuse "MOE_OFFLOAD is no parameter" "it is written MoE_OFFLOAD"
                ;;
            # AIP_MODE opens a route that runs any handler by its name, SLOTS_DEBUG shows prompts in /slots,
            # LLAMA_TRACE logs tokens; the tokens of Hugging Face are for the fetcher alone.
            AIP_* | LLAMA_SERVER_* | LLAMA_TRACE | HF_TOKEN | HUGGING_FACE_HUB_TOKEN)
                unset "$name"
                say "$name is kept from llama-server"
                ;;
        esac
    done
}

# ---- parameters, each with the flags that it becomes

model_parameters() {
    local part='[A-Za-z0-9_+][A-Za-z0-9._+-]*'
    if [[ $MODEL_REPO == *--* ]]; then
        # The directory's name is OWNER--NAME.
        refuse "MODEL_REPO is $(shown "$MODEL_REPO"), which has -- within" "copy it from the page of the model"
    else
        text MODEL_REPO "$part/$part" "repository OWNER/NAME of Hugging Face" "unsloth/Kimi-K2-Thinking-GGUF"
    fi
    text QUANT_TYPE "$part" "name of a quantisation" "UD-TQ1_0, without the repository and without .gguf"
    text MODELS_DIR '/.*' "absolute path" "/models"
    if [ -z "$MODEL_ALIAS" ]; then
        MODEL_ALIAS=${MODEL_REPO##*/}
        MODEL_ALIAS=${MODEL_ALIAS,,}
        MODEL_ALIAS=${MODEL_ALIAS%-gguf}
    else
        # A comma would make two names of it.
        text MODEL_ALIAS '[A-Za-z0-9][A-Za-z0-9._:/@-]*' "name for a model" "kimi-k2-thinking"
    fi
    flags+=(--alias "$MODEL_ALIAS")
}

sampling_parameters() {
    # Empty leaves the model's own default, or llama-server's.
    if [ -n "$TEMPERATURE" ]; then
        decimal TEMPERATURE 2
        flags+=(--temp "$TEMPERATURE")
    fi
    if [ -n "$MIN_P" ]; then
        decimal MIN_P 1
        flags+=(--min-p "$MIN_P")
    fi
}

size_parameters() {
    local before=$problems
    whole CTX_SIZE 256 4194304
    whole PARALLEL_SLOTS 1 256
    whole THREADS_HTTP 5 1024
    # The slots share the context in equal parts.
    if ((problems == before && CTX_SIZE / PARALLEL_SLOTS < 256)); then
        refuse "CTX_SIZE $CTX_SIZE leaves less than 256 tokens for each of $PARALLEL_SLOTS slots" \
            "CTX_SIZE is the sum of all slots; raise it or lower PARALLEL_SLOTS"
    fi
    # An open request keeps its thread, and probes need some beside them.
    if ((problems == before && THREADS_HTTP < PARALLEL_SLOTS + 4)); then
        refuse "THREADS_HTTP $THREADS_HTTP is too few for $PARALLEL_SLOTS slots and the probes" \
            "$((PARALLEL_SLOTS + 4)) or more"
    fi
    before=$problems
    whole BATCH_SIZE 32 65536
    whole UBATCH_SIZE 32 65536
    if ((problems == before && UBATCH_SIZE > BATCH_SIZE)); then
        refuse "UBATCH_SIZE $UBATCH_SIZE is more than BATCH_SIZE $BATCH_SIZE" "raise BATCH_SIZE with it"
    fi
    whole CACHE_RAM_MIB 0 16777216 "0 (off) or MiB of the pod's memory"
    flags+=(--ctx-size "$CTX_SIZE" --parallel "$PARALLEL_SLOTS" --threads-http "$THREADS_HTTP")
    flags+=(--batch-size "$BATCH_SIZE" --ubatch-size "$UBATCH_SIZE" --cache-ram "$CACHE_RAM_MIB")
    if [ "$CACHE_RAM_MIB" = 0 ]; then
        flags+=(--no-cache-idle-slots)
    fi
}

placement_parameters() {
    text N_GPU_LAYERS 'auto|all|0|[1-9][0-9]{0,3}' "number of layers" "auto, all, or a number such as 99; 0 for none"
    flags+=(--n-gpu-layers "$N_GPU_LAYERS")
    case $MoE_OFFLOAD in
        none) ;;
        all) flags+=(--cpu-moe) ;;
        *=*)
            local override='[^=, ]+=[A-Za-z0-9_]+'
            text MoE_OFFLOAD "$override(,$override)*" "override of tensors" ".ffn_.*_exps.=CPU, without -ot and quotes"
            flags+=(--override-tensor "$MoE_OFFLOAD")
            ;;
        *)
            text MoE_OFFLOAD '0|[1-9][0-9]{0,3}' "place of the experts" "none, all, a number, or .ffn_.*_exps.=CPU"
            flags+=(--n-cpu-moe "$MoE_OFFLOAD")
            ;;
    esac
    if [ "$THREADS" = -1 ]; then
        THREADS=$(usable_cpus)
    else
        whole THREADS 1 1024 "-1 for the container's CPU limit, or a number of threads"
    fi
    flags+=(--threads "$THREADS")
    choice FLASH_ATTENTION auto on off
    flags+=(--flash-attn "$FLASH_ATTENTION")
    choice WARMUP on off
    [ "$WARMUP" = on ] && flags+=(--warmup) || flags+=(--no-warmup)
}

# The container's CPU limit, else the CPUs that it may use. llama-server itself counts those of the node; the threads
# beyond the limit are throttled, and each step waits for the slowest.
usable_cpus() {
    local quota=max period=0 cpus
    # nproc would believe OMP_NUM_THREADS.
    cpus=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
    if [ -r "$CGROUP_ROOT/cpu.max" ]; then
        read -r quota period <"$CGROUP_ROOT/cpu.max" || true
    elif [ -r "$CGROUP_ROOT/cpu/cpu.cfs_quota_us" ]; then
        read -r quota <"$CGROUP_ROOT/cpu/cpu.cfs_quota_us" || true
        read -r period <"$CGROUP_ROOT/cpu/cpu.cfs_period_us" || true
    fi
    # "max" and -1 mean no limit.
    if [[ $quota =~ ^[1-9][0-9]*$ && $period =~ ^[1-9][0-9]*$ ]] && ((quota / period < cpus)); then
        cpus=$((quota < period ? 1 : quota / period))
    fi
    echo "$cpus"
}

service_parameters() {
    text HOST 'localhost|[0-9a-fA-F.:]+' "IP address to listen on" "0.0.0.0"
    whole PORT 1024 65535
    whole SSE_PING_INTERVAL 1 300 "seconds, such as 10: signs of life while a long prompt is read"
    flags+=(--host "$HOST" --port "$PORT" --sse-ping-interval "$SSE_PING_INTERVAL")
    # The gateway and drain.sh read /metrics, the gateway /slots; the model comes from the volume, never from a hub.
    flags+=(--metrics --slots --no-ui --offline)
}

readonly SET_BY="MODEL_REPO: -m --model; MODEL_ALIAS: -a --alias; TEMPERATURE: --temp --temperature; MIN_P: --min-p;
    CTX_SIZE: -c --ctx-size; PARALLEL_SLOTS: -np --parallel; BATCH_SIZE: -b --batch-size;
    UBATCH_SIZE: -ub --ubatch-size; N_GPU_LAYERS: -ngl --gpu-layers --n-gpu-layers;
    FLASH_ATTENTION: -fa --flash-attn; WARMUP: --warmup --no-warmup;
    MoE_OFFLOAD: -ot --override-tensor -cmoe --cpu-moe -ncmoe --n-cpu-moe; THREADS: -t --threads;
    CACHE_RAM_MIB: -cram --cache-ram --cache-idle-slots --no-cache-idle-slots; THREADS_HTTP: --threads-http;
    SSE_PING_INTERVAL: --sse-ping-interval; HOST: --host; PORT: --port; API_KEY_FILE: --api-key --api-key-file;"

objection_to() { # why EXTRA_FLAGS may not have a flag; nothing for all others
    if [[ $SET_BY =~ ([A-Za-z_]+):[a-z\ -]*\ "$1"[\ \;] ]]; then
        echo "${BASH_REMATCH[1]} sets it"
        return 0
    fi
    case $1 in
        --spec-default) ;; # brings no model, unlike those of the next line
        -hf* | --hf-* | --spec-draft-hf* | -mu | -mmu | --*-url | -dr | --docker-repo | --offline | --*-default | \
            --fim-* | --models-* | --no-models-*) echo "the model is MODEL_REPO, from the volume" ;;
        --metrics | --slots | --no-slots | --*ui | --api-prefix | --ssl-* | --embedding | --embeddings | --rerank | \
            --reranking) echo "the gateway needs what is set" ;;
        --tools | --tools-* | -ag | --agent | --mcp-* | --*ui-mcp-proxy | --path | --media-path | --props | \
            --slot-save-path) echo "clients would reach files, programs or what belongs to others" ;;
        -v | --*verbose | -lv | --*verbosity | --log-file | --log-prompts-dir) echo "prompts would be written down" ;;
        --sleep-idle-seconds) echo "the next request would load the model again" ;;
        -kvu | --kv-unified) echo "all requests would break when their sum exceeds CTX_SIZE" ;;
    esac
}

extra_flags() {
    local words=() word flag objection
    # Words, not shell code: nothing is expanded. The lines of a ConfigMap may be broken.
    read -r -d '' -a words <<<"$EXTRA_FLAGS" || true
    for word in "${words[@]}"; do
        if [[ $word == [\"\']* ]]; then
            refuse "EXTRA_FLAGS has a quoted word" "it is split at blanks; leave the quotes out"
        fi
        [[ $word == -[A-Za-z-]* ]] || continue
        # llama-server takes --ctx_size for --ctx-size. What stands behind = is not repeated: it may be a secret.
        flag=${word%%=*}
        [[ $flag != --* ]] || flag=${flag//_/-}
        objection=$(objection_to "$flag")
        [ -z "$objection" ] || refuse "EXTRA_FLAGS has $flag, but $objection" "leave it out of EXTRA_FLAGS"
    done
    flags+=("${words[@]}")
}

# ---- what must be there: key, llama-server, model

check_key_file() {
    local file=$API_KEY_FILE line number=0 keys=0
    if [ "$file" = none ]; then
        say "API_KEY_FILE=none: llama-server serves whoever reaches its port"
        return 0
    fi
    # What is no path may be the key itself, so it is not repeated.
    if [[ $file != /* ]]; then
        refuse "API_KEY_FILE is no absolute path" "the path of a file with the key, or none"
        return 0
    elif [ ! -f "$file" ] || [ ! -r "$file" ]; then
        refuse "API_KEY_FILE $file is no file that user $(id -u) can read" \
            "mount the Secret there (mode 0440, and fsGroup), or API_KEY_FILE=none to serve without a key"
        return 0
    fi
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        # llama-server takes these lines for comments, and all others as they are.
        [[ -n $line && $line != '#'* ]] || continue
        keys=$((keys + 1))
        if [[ $line == *[!\!-~]* ]]; then
            refuse "API_KEY_FILE $file, line $number: a blank, CR or other character that no client can send" \
                "write the key with printf %s, without a line end of Windows"
        fi
    done <"$file"
    ((keys > 0)) || refuse "API_KEY_FILE $file has no key" "one key, not beginning with #"
    flags+=(--api-key-file "$file")
}

check_server() {
    if [ ! -f "$LLAMA_SERVER" ] || [ ! -x "$LLAMA_SERVER" ]; then
        refuse "LLAMA_SERVER $LLAMA_SERVER is no program" "it is in the image; LLAMA_SERVER names another one"
    fi
    if [ "$N_GPU_LAYERS" != 0 ] && [ ! -e "$NVIDIA_DEVICE" ]; then
        say "no NVIDIA device is here: everything will run on the CPU, though N_GPU_LAYERS is $N_GPU_LAYERS"
    fi
}

readonly FETCH="the init container fetch-model loads it; its log tells why it did not"

find_model() {
    local directory="$MODELS_DIR/${MODEL_REPO/\//--}/$QUANT_TYPE" first=() single=() file
    for file in "$directory"/*.gguf; do
        case ${file##*/} in
            '*.gguf' | *mmproj*) ;;
            *-00001-of-*.gguf) first+=("$file") ;;
            *-of-[0-9][0-9][0-9][0-9][0-9].gguf) ;; # another shard
            *) single+=("$file") ;;
        esac
    done
    ((${#first[@]} > 0)) || first=("${single[@]}")
    if ((${#first[@]} > 1)); then
        refuse "$directory has ${#first[@]} models: ${first[0]##*/}, ${first[1]##*/}" "leave the one to serve"
    elif ((${#first[@]} == 1)); then
        check_shards "${first[0]}"
        flags=(--model "${first[0]}" "${flags[@]}")
    elif [ ! -d "$MODELS_DIR" ]; then
        refuse "MODELS_DIR $MODELS_DIR is no directory" "mount the volume with the models there"
    elif [ ! -d "$directory" ] || [ ! -r "$directory" ]; then
        refuse "the model is not there: no directory $directory that user $(id -u) can read" "$FETCH"
    elif compgen -G "$directory/*.partial" >/dev/null; then
        refuse "$directory has no first shard, but *.partial: the model is still loading, or that was cut" "$FETCH"
    else
        refuse "$directory has no first shard (*-00001-of-*.gguf) and no single *.gguf" "$FETCH"
    fi
}

check_shards() { # the first shard, or the only file
    local files=("$1") missing=0 example="" file number
    if [[ $1 =~ ^(.*)-00001-of-([0-9]{5})\.gguf$ ]]; then
        for ((number = 2; number <= 10#${BASH_REMATCH[2]}; number++)); do
            printf -v file '%s-%05d-of-%s.gguf' "${BASH_REMATCH[1]}" "$number" "${BASH_REMATCH[2]}"
            files+=("$file")
        done
    fi
    for file in "${files[@]}"; do
        if [ ! -e "$file" ]; then
            missing=$((missing + 1))
            : "${example:="${file##*/}"}"
            # The fetcher puts a part of the hash between.
            compgen -G "$file.*partial" >/dev/null && example="${file##*/}, which is still loading"
        elif [ ! -r "$file" ]; then
            refuse "$file cannot be read by user $(id -u)" "fsGroup of the pod, or the modes on the volume"
        # What a proxy or git-lfs left instead of the model begins with something else.
        elif [ "$(head -c 4 "$file" | tr -d '\0')" != GGUF ]; then
            refuse "$file is no GGUF file" "delete it; the init container fetch-model loads it again"
        fi
    done
    ((missing == 0)) || refuse "${1%/*} lacks $missing of ${#files[@]} shards, such as $example" "$FETCH"
}

# ---- all of it

main() {
    local mode=${1:-start}
    case $mode in
        start | --check | --check-parameters) ;;
        *) refuse "unknown argument" "flags for llama-server belong into EXTRA_FLAGS" && exit 64 ;;
    esac
    defaults
    check_environment
    model_parameters
    sampling_parameters
    size_parameters
    placement_parameters
    service_parameters
    extra_flags
    local of_parameters=$problems
    if [ "$mode" != --check-parameters ]; then
        check_key_file
        check_server
        ((of_parameters > 0)) || find_model
    fi
    if ((problems > 0)); then
        exit $((of_parameters > 0 ? 64 : 66))
    elif [ "$mode" = --check-parameters ]; then
        say "the parameters are right"
        exit 0
    fi
    # Some cgroup limits and defaults are known only here, so the whole command is told.
    say "runs$(printf ' %q' "$LLAMA_SERVER" "${flags[@]}")"
    [ "$mode" = start ] || exit 0
    # exec: llama-server is process 1 then, and gets the signals of the container.
    exec "$LLAMA_SERVER" "${flags[@]}"
}

main "$@"
