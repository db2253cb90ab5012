#!/usr/bin/env bats
# The parameters of the container become flags of llama-server, or are refused. Most tests use a stand-in for
# llama-server that writes its arguments down; the last ones the real one.

# shellcheck disable=SC2016,SC2034 # nothing shall expand; the helper reads AS

load helper

setup() { prepare; }
teardown() { clean_up; }

# Refused with this code, by one line, without a word of the key; llama-server is not started.
refused() { # CODE LINE [NAME=VALUE...]
    local code=$1 line=$2
    shift 2
    run --separate-stderr entrypoint "$@"
    echo "status $status, stdout: $output, stderr: $stderr"
    [ "$status" = "$code" ]
    [ "$stderr" = "entrypoint: $line" ]
    lacks "$output$stderr" geheim
    [ ! -e llama-server.arguments ]
}

# The argument behind a flag of the newest start, or "there" for a flag without one.
argument() { # FLAG
    awk -v flag="$1" 'found { print; exit } $0 == flag { found = 1 }' llama-server.arguments
}

# --- what becomes of the parameters

@test "without further parameters these flags are given" {
    run entrypoint THREADS=3
    [ "$status" = 0 ]
    diff - llama-server.arguments <<END
--model
$DIRECTORY/tiny.gguf
--alias
tiny
--ctx-size
16384
--parallel
1
--threads-http
64
--batch-size
512
--ubatch-size
512
--cache-ram
0
--no-cache-idle-slots
--n-gpu-layers
99
--threads
3
--flash-attn
auto
--no-warmup
--host
0.0.0.0
--port
8001
--sse-ping-interval
10
--metrics
--slots
--no-ui
--offline
--api-key-file
$PWD/key
END
}

@test "each parameter becomes its flag" {
    local name value flag expected
    while read -r name value flag expected; do
        entrypoint "$name=$value"
        contains "$(argument "$flag")" "${expected:-$value}"
        grep -qxe "$flag" llama-server.arguments
    done <<'END'
MODEL_ALIAS kimi-k2 --alias
TEMPERATURE 0.6 --temp
TEMPERATURE 2.0 --temp
MIN_P 0.01 --min-p
MIN_P 1 --min-p
CTX_SIZE 98304 --ctx-size
N_GPU_LAYERS auto --n-gpu-layers
N_GPU_LAYERS all --n-gpu-layers
N_GPU_LAYERS 0 --n-gpu-layers
MoE_OFFLOAD all --cpu-moe --
MoE_OFFLOAD 12 --n-cpu-moe
MoE_OFFLOAD .ffn_.*_exps.=CPU --override-tensor
MoE_OFFLOAD blk\.1\..*=CUDA0,.ffn_(up|down)_exps.=CPU --override-tensor
THREADS 7 --threads
PARALLEL_SLOTS 4 --parallel
BATCH_SIZE 2048 --batch-size
UBATCH_SIZE 256 --ubatch-size
CACHE_RAM_MIB 4096 --cache-ram
THREADS_HTTP 128 --threads-http
SSE_PING_INTERVAL 5 --sse-ping-interval
FLASH_ATTENTION on --flash-attn
WARMUP on --warmup --
HOST :: --host
PORT 9001 --port
END
}

@test "an empty parameter is its default, and MoE_OFFLOAD none is no flag" {
    entrypoint CTX_SIZE= TEMPERATURE= MIN_P= MoE_OFFLOAD= MODEL_ALIAS= WARMUP= HOST= EXTRA_FLAGS= N_GPU_LAYERS=
    cp llama-server.arguments empty
    entrypoint MoE_OFFLOAD=none
    diff empty llama-server.arguments
}

@test "a cache in RAM keeps the idle slots in it" {
    entrypoint CACHE_RAM_MIB=512
    run ! grep -e --no-cache-idle-slots llama-server.arguments
}

@test "the alias is the repository's name in lower case" {
    mkdir -p models/unsloth--Kimi-K2-Thinking-GGUF
    mv "$DIRECTORY" models/unsloth--Kimi-K2-Thinking-GGUF/UD-TQ1_0
    entrypoint MODEL_REPO=unsloth/Kimi-K2-Thinking-GGUF QUANT_TYPE=UD-TQ1_0
    [ "$(argument --alias)" = kimi-k2-thinking ]
}

@test "further flags are words, not shell code, and may be on several lines" {
    entrypoint EXTRA_FLAGS=$'--seed 7\n  --chat-template-kwargs {"enable_thinking":false} --rope-scale *  $(touch pwned) -1 '
    run grep -A 8 -e --seed llama-server.arguments
    diff - <(echo "$output") <<'END'
--seed
7
--chat-template-kwargs
{"enable_thinking":false}
--rope-scale
*
$(touch
pwned)
-1
END
    [ ! -e pwned ]
}

# --- threads

@test "THREADS=-1 is the CPU limit of the container" {
    local cpus
    cpus=$(nproc)
    # cgroup v2
    echo "100000 100000" >cgroup/cpu.max
    entrypoint THREADS=-1 && [ "$(argument --threads)" = 1 ]
    echo "$(((cpus + 4) * 100000)) 100000" >cgroup/cpu.max # more than there are
    entrypoint && [ "$(argument --threads)" = "$cpus" ]
    echo "50000 100000" >cgroup/cpu.max # half a CPU
    entrypoint && [ "$(argument --threads)" = 1 ]
    printf '199999 100000' >cgroup/cpu.max # one, and no line end
    entrypoint && [ "$(argument --threads)" = 1 ]
    echo "max 100000" >cgroup/cpu.max
    entrypoint OMP_NUM_THREADS=1 && [ "$(argument --threads)" = "$cpus" ]
    # cgroup v1
    rm cgroup/cpu.max && mkdir cgroup/cpu
    echo 150000 >cgroup/cpu/cpu.cfs_quota_us && echo 100000 >cgroup/cpu/cpu.cfs_period_us
    entrypoint && [ "$(argument --threads)" = 1 ]
    echo -1 >cgroup/cpu/cpu.cfs_quota_us
    entrypoint && [ "$(argument --threads)" = "$cpus" ]
}

@test "of a larger machine the limit is taken, not the CPUs" {
    mkdir bin
    printf '#!/bin/sh\necho 64\n' >bin/nproc && chmod +x bin/nproc
    echo "1250000 100000" >cgroup/cpu.max
    entrypoint PATH="$PWD/bin:$PATH"
    [ "$(argument --threads)" = 12 ]
}

# --- refusals of parameters

@test "wrong parameters are refused, each with one line that says what to do" {
    local setting line
    while IFS='|' read -r setting line; do
        refused 64 "$line" "$setting"
    done <<'END'
CTX_SIZE=16k|CTX_SIZE is "16k", which is no whole number; hint: 16384
CTX_SIZE=0|CTX_SIZE is 0, which is not between 256 and 4194304; hint: a whole number from 256 to 4194304
CTX_SIZE=16384.0|CTX_SIZE is "16384.0", which is no whole number; hint: a whole number from 256 to 4194304
PARALLEL_SLOTS=0|PARALLEL_SLOTS is 0, which is not between 1 and 256; hint: a whole number from 1 to 256
PARALLEL_SLOTS=-1|PARALLEL_SLOTS is -1, which is not between 1 and 256; hint: a whole number from 1 to 256
THREADS_HTTP=4|THREADS_HTTP is 4, which is not between 5 and 1024; hint: a whole number from 5 to 1024
PARALLEL_SLOTS=61|THREADS_HTTP 64 is too few for 61 slots and the probes; hint: 65 or more
UBATCH_SIZE=1024|UBATCH_SIZE 1024 is more than BATCH_SIZE 512; hint: raise BATCH_SIZE with it
BATCH_SIZE=0|BATCH_SIZE is 0, which is not between 32 and 65536; hint: a whole number from 32 to 65536
CACHE_RAM_MIB=-1|CACHE_RAM_MIB is -1, which is not between 0 and 16777216; hint: 0 (off) or MiB of the pod's memory
TEMPERATURE=0,6|TEMPERATURE is "0,6", which is no decimal number; hint: 0.6
TEMPERATURE=2.01|TEMPERATURE is 2.01, which is more than 2; hint: a number from 0 to 2, such as 0.6
MIN_P=1.0001|MIN_P is 1.0001, which is more than 1; hint: a number from 0 to 1, such as 0.6
MIN_P=-0.1|MIN_P is "-0.1", which is no decimal number; hint: a number from 0 to 1, such as 0.6
N_GPU_LAYERS=-1|N_GPU_LAYERS is "-1", which is no number of layers; hint: auto, all, or a number such as 99; 0 for none
N_GPU_LAYERS=All|N_GPU_LAYERS is "All", which is no number of layers; hint: auto, all, or a number such as 99; 0 for none
MoE_OFFLOAD=cpu|MoE_OFFLOAD is "cpu", which is no place of the experts; hint: none, all, a number, or .ffn_.*_exps.=CPU
MoE_OFFLOAD=-ot .ffn_.*_exps.=CPU|MoE_OFFLOAD is "-ot .ffn_.*_exps.=CPU", which is no override of tensors; hint: .ffn_.*_exps.=CPU, without -ot and quotes
MoE_OFFLOAD=".ffn_.*_exps.=CPU"|MoE_OFFLOAD is "".ffn_.*_exps.=CPU"", which is no override of tensors; hint: .ffn_.*_exps.=CPU, without -ot and quotes
MOE_OFFLOAD=all|MOE_OFFLOAD is no parameter; hint: it is written MoE_OFFLOAD
THREADS=0|THREADS is 0, which is not between 1 and 1024; hint: -1 for the container's CPU limit, or a number of threads
FLASH_ATTENTION=ON|FLASH_ATTENTION is "ON", which is none of: auto on off; hint: write one of them, in lower case
WARMUP=true|WARMUP is "true", which is none of: on off; hint: write one of them, in lower case
WARMUP=on off|WARMUP is "on off", which is none of: on off; hint: write one of them, in lower case
SSE_PING_INTERVAL=-1|SSE_PING_INTERVAL is -1, which is not between 1 and 300; hint: seconds, such as 10: signs of life while a long prompt is read
PORT=80|PORT is 80, which is not between 1024 and 65535; hint: a whole number from 1024 to 65535
PORT=tcp://10.0.0.1:8001|PORT is "tcp://10.0.0.1:8001", which is no whole number; hint: a whole number from 1024 to 65535
HOST=a,b|HOST is "a,b", which is no IP address to listen on; hint: 0.0.0.0
MODEL_REPO=|MODEL_REPO is "", which is no repository OWNER/NAME of Hugging Face; hint: unsloth/Kimi-K2-Thinking-GGUF
MODEL_REPO=https://huggingface.co/acme/Tiny|MODEL_REPO is "https://huggingface.co/acme/Tiny", which is no repository OWNER/NAME of Hugging Face; hint: unsloth/Kimi-K2-Thinking-GGUF
MODEL_REPO=acme/Tiny:Q8_0|MODEL_REPO is "acme/Tiny:Q8_0", which is no repository OWNER/NAME of Hugging Face; hint: unsloth/Kimi-K2-Thinking-GGUF
MODEL_REPO=../Tiny|MODEL_REPO is "../Tiny", which is no repository OWNER/NAME of Hugging Face; hint: unsloth/Kimi-K2-Thinking-GGUF
MODEL_REPO=acme--inc/Tiny|MODEL_REPO is "acme--inc/Tiny", which has -- within; hint: copy it from the page of the model
QUANT_TYPE=|QUANT_TYPE is "", which is no name of a quantisation; hint: UD-TQ1_0, without the repository and without .gguf
QUANT_TYPE=..|QUANT_TYPE is "..", which is no name of a quantisation; hint: UD-TQ1_0, without the repository and without .gguf
QUANT_TYPE=a/b|QUANT_TYPE is "a/b", which is no name of a quantisation; hint: UD-TQ1_0, without the repository and without .gguf
MODEL_ALIAS=a,b|MODEL_ALIAS is "a,b", which is no name for a model; hint: kimi-k2-thinking
MODELS_DIR=models|MODELS_DIR is "models", which is no absolute path; hint: /models
LLAMA_ARG_TOOLS=all|LLAMA_ARG_TOOLS is set, but only the parameters and EXTRA_FLAGS become flags; hint: unset it; docs/llama-server.md has the parameters
LLAMA_API_KEY=geheim|LLAMA_API_KEY is set: who may see the pod could read the key; hint: unset it, and put the key into a file (API_KEY_FILE)
EXTRA_FLAGS='--seed' 1|EXTRA_FLAGS has a quoted word; hint: it is split at blanks; leave the quotes out
EXTRA_FLAGS=--ctx_size 4|EXTRA_FLAGS has --ctx-size, but CTX_SIZE sets it; hint: leave it out of EXTRA_FLAGS
EXTRA_FLAGS=--api-key=geheim|EXTRA_FLAGS has --api-key, but API_KEY_FILE sets it; hint: leave it out of EXTRA_FLAGS
EXTRA_FLAGS=--hf-token hf_geheim|EXTRA_FLAGS has --hf-token, but the model is MODEL_REPO, from the volume; hint: leave it out of EXTRA_FLAGS
EXTRA_FLAGS=-hff x|EXTRA_FLAGS has -hff, but the model is MODEL_REPO, from the volume; hint: leave it out of EXTRA_FLAGS
EXTRA_FLAGS=--gpt-oss-20b-default|EXTRA_FLAGS has --gpt-oss-20b-default, but the model is MODEL_REPO, from the volume; hint: leave it out of EXTRA_FLAGS
EXTRA_FLAGS=--no-slots|EXTRA_FLAGS has --no-slots, but the gateway needs what is set; hint: leave it out of EXTRA_FLAGS
EXTRA_FLAGS=--tools all|EXTRA_FLAGS has --tools, but clients would reach files, programs or what belongs to others; hint: leave it out of EXTRA_FLAGS
EXTRA_FLAGS=-v|EXTRA_FLAGS has -v, but prompts would be written down; hint: leave it out of EXTRA_FLAGS
EXTRA_FLAGS=--sleep-idle-seconds 60|EXTRA_FLAGS has --sleep-idle-seconds, but the next request would load the model again; hint: leave it out of EXTRA_FLAGS
EXTRA_FLAGS=-kvu|EXTRA_FLAGS has -kvu, but all requests would break when their sum exceeds CTX_SIZE; hint: leave it out of EXTRA_FLAGS
END
}

@test "two parameters that do not fit each other are refused" {
    refused 64 "CTX_SIZE 1000 leaves less than 256 tokens for each of 4 slots; hint: CTX_SIZE is the sum of all slots; raise it or lower PARALLEL_SLOTS" \
        CTX_SIZE=1000 PARALLEL_SLOTS=4
}

@test "all problems are told at once" {
    run --separate-stderr entrypoint CTX_SIZE=x TEMPERATURE=hot THREADS=many API_KEY_FILE=/nowhere EXTRA_FLAGS='-c 1'
    [ "$status" = 64 ]
    [ "${#stderr_lines[@]}" = 5 ]
}

@test "no nonsense passes, and none of it is run" {
    local name value nonsense=(" " "1 2" "1e3" "0x10" "+5" "--port" "16384 --tools all" $'1\n2' $'8\r' "é" "NaN"
        '$(touch pwned)' '`touch pwned`' 'a[$(touch pwned)]' "18446744073709551872" "-99999999999" '"16"' "*" "{}" "1;2")
    for value in "${nonsense[@]}"; do
        local settings=()
        for name in CTX_SIZE PARALLEL_SLOTS BATCH_SIZE UBATCH_SIZE CACHE_RAM_MIB THREADS THREADS_HTTP N_GPU_LAYERS \
            MoE_OFFLOAD SSE_PING_INTERVAL PORT TEMPERATURE MIN_P FLASH_ATTENTION WARMUP MODEL_REPO; do
            settings+=("$name=$value")
        done
        run --separate-stderr entrypoint "${settings[@]}"
        echo "$value: $stderr"
        [ "$status" = 64 ]
        [ "${#stderr_lines[@]}" = "${#settings[@]}" ] # one line each
    done
    [ ! -e pwned ] && [ ! -e llama-server.arguments ]
}

@test "every name of a flag that is set is refused in EXTRA_FLAGS" {
    local flag names name count=0
    entrypoint TEMPERATURE=1 MIN_P=0 MoE_OFFLOAD=all
    cp llama-server.arguments flags
    entrypoint MoE_OFFLOAD=3 WARMUP=on && cat llama-server.arguments >>flags
    entrypoint MoE_OFFLOAD=a=CPU && cat llama-server.arguments >>flags
    rm llama-server.arguments
    # A line of --help has all names of a flag, each before a comma, then its value or two blanks.
    "$REAL_SERVER" --help 2>/dev/null | sed -nE 's/^(-[^ ,]+(, +-[^ ,]+)*).*/\1/p' | tr -d , >names
    while read -r flag; do
        names=$(grep -Ee "(^| )$flag( |\$)" names)
        for name in $names; do
            run entrypoint EXTRA_FLAGS="$name 1"
            echo "$name: $output"
            [ "$status" = 64 ]
            count=$((count + 1))
        done
    done < <(grep -e '^--' flags | sort -u)
    [ "$count" -gt 40 ]
}

# --- the environment

@test "settings of llama-server from elsewhere do not reach it" {
    run entrypoint AIP_MODE=PREDICTION LLAMA_SERVER_SLOTS_DEBUG=1 HF_TOKEN=hf_geheim LLAMA_TRACE=1 GGML_CUDA_NO_PINNED=1
    [ "$status" = 0 ]
    contains "$output" "entrypoint: LLAMA_SERVER_SLOTS_DEBUG is kept from llama-server"
    lacks "$output" geheim
    run ! grep -E '^(AIP_|LLAMA_SERVER_|HF_TOKEN|LLAMA_TRACE)' llama-server.environment
    grep -q '^GGML_CUDA_NO_PINNED=1' llama-server.environment
    run ! grep '^LC_ALL' llama-server.environment
}

# --- key, program, model

@test "a key that clients could not send is refused, and never shown" {
    local wrong="a blank, CR or other character that no client can send; hint: write the key with printf %s, without a line end of Windows"
    printf 'geheim-key \n' >key
    refused 66 "API_KEY_FILE $PWD/key, line 1: $wrong"
    printf '# made by hand\ngeheim-key\r\n' >key
    refused 66 "API_KEY_FILE $PWD/key, line 2: $wrong"
    printf 'geheim-k\xc3\xa9y' >key
    refused 66 "API_KEY_FILE $PWD/key, line 1: $wrong"
    : >key
    refused 66 "API_KEY_FILE $PWD/key has no key; hint: one key, not beginning with #"
    printf '#geheim\n\n' >key
    refused 66 "API_KEY_FILE $PWD/key has no key; hint: one key, not beginning with #"
    refused 66 "API_KEY_FILE is no absolute path; hint: the path of a file with the key, or none" API_KEY_FILE=geheim-key
}

@test "a key without a line end, several keys and comments are taken" {
    printf '# old\ngeheim-old\n\n# new\ngeheim-new' >key
    run entrypoint
    [ "$status" = 0 ]
    lacks "$output" geheim
}

@test "without a key file llama-server starts only when that is wanted" {
    local hint="mount the Secret there (mode 0440, and fsGroup), or API_KEY_FILE=none to serve without a key"
    refused 66 "API_KEY_FILE $PWD/no is no file that user $(id -u) can read; hint: $hint" API_KEY_FILE="$PWD/no"
    refused 66 "API_KEY_FILE $PWD is no file that user $(id -u) can read; hint: $hint" API_KEY_FILE="$PWD"
    # Empty means the usual place.
    [ ! -e /run/secrets/upstream/api-key ]
    refused 66 "API_KEY_FILE /run/secrets/upstream/api-key is no file that user $(id -u) can read; hint: $hint" API_KEY_FILE=
    run entrypoint API_KEY_FILE=none
    [ "$status" = 0 ]
    contains "$output" "entrypoint: API_KEY_FILE=none: llama-server serves whoever reaches its port"
    run ! grep -e --api-key-file llama-server.arguments
}

@test "a missing llama-server is told" {
    refused 66 "LLAMA_SERVER /nowhere is no program; hint: it is in the image; LLAMA_SERVER names another one" \
        LLAMA_SERVER=/nowhere
}

@test "layers for a GPU that is not there are told" {
    run entrypoint NVIDIA_DEVICE=/nowhere
    contains "$output" "entrypoint: no NVIDIA device is here: everything will run on the CPU, though N_GPU_LAYERS is 99"
    run entrypoint NVIDIA_DEVICE=/nowhere N_GPU_LAYERS=0
    lacks "$output" NVIDIA
}

@test "a missing model is told, with where to look" {
    local hint="the init container fetch-model loads it; its log tells why it did not"
    refused 66 "MODELS_DIR /nowhere is no directory; hint: mount the volume with the models there" MODELS_DIR=/nowhere
    refused 66 "the model is not there: no directory $PWD/models/acme--Tiny-GGUF/Q4_0 that user $(id -u) can read; hint: $hint" \
        QUANT_TYPE=Q4_0
    rm "$DIRECTORY"/*
    refused 66 "$DIRECTORY has no first shard (*-00001-of-*.gguf) and no single *.gguf; hint: $hint"
    printf GGUF >"$DIRECTORY/mmproj-F16.gguf" # goes with a model, and is none
    refused 66 "$DIRECTORY has no first shard (*-00001-of-*.gguf) and no single *.gguf; hint: $hint"
    printf GGUF >"$DIRECTORY/tiny.gguf.partial"
    refused 66 "$DIRECTORY has no first shard, but *.partial: the model is still loading, or that was cut; hint: $hint"
}

@test "several models in one directory are refused" {
    printf GGUF >"$DIRECTORY/other.gguf"
    refused 66 "$DIRECTORY has 2 models: other.gguf, tiny.gguf; hint: leave the one to serve"
}

@test "a file that is no model is refused" {
    printf '<html>blocked by the proxy</html>' >"$DIRECTORY/tiny.gguf"
    refused 66 "$DIRECTORY/tiny.gguf is no GGUF file; hint: delete it; the init container fetch-model loads it again"
    : >"$DIRECTORY/tiny.gguf"
    refused 66 "$DIRECTORY/tiny.gguf is no GGUF file; hint: delete it; the init container fetch-model loads it again"
}

@test "of a model in shards the first one is given, when all are there" {
    local hint="the init container fetch-model loads it; its log tells why it did not" number
    for number in 1 2 3 6; do
        printf GGUF >"$DIRECTORY/Kimi-K2-UD-TQ1_0-0000$number-of-00006.gguf"
    done
    refused 66 "$DIRECTORY lacks 2 of 6 shards, such as Kimi-K2-UD-TQ1_0-00004-of-00006.gguf; hint: $hint"
    printf GGUF >"$DIRECTORY/Kimi-K2-UD-TQ1_0-00005-of-00006.gguf.0123456789abcdef.partial"
    refused 66 "$DIRECTORY lacks 2 of 6 shards, such as Kimi-K2-UD-TQ1_0-00005-of-00006.gguf, which is still loading; hint: $hint"
    printf GGUF >"$DIRECTORY/Kimi-K2-UD-TQ1_0-00004-of-00006.gguf"
    printf GGUF >"$DIRECTORY/Kimi-K2-UD-TQ1_0-00005-of-00006.gguf"
    entrypoint
    [ "$(argument --model)" = "$DIRECTORY/Kimi-K2-UD-TQ1_0-00001-of-00006.gguf" ]
    rm llama-server.arguments "$DIRECTORY/tiny.gguf" "$DIRECTORY/Kimi-K2-UD-TQ1_0-00001-of-00006.gguf"
    rm "$DIRECTORY"/*.partial
    refused 66 "$DIRECTORY has no first shard (*-00001-of-*.gguf) and no single *.gguf; hint: $hint"
}

# --- how it is called

@test "--check prints the command and starts nothing" {
    run entrypoint MoE_OFFLOAD='.ffn_.*_exps.=CPU' -- --check
    [ "$status" = 0 ]
    contains "$output" "entrypoint: runs $PWD/llama-server --model $DIRECTORY/tiny.gguf --alias tiny "
    contains "$output" " --override-tensor .ffn_.\\*_exps.=CPU "
    lacks "$output" geheim
    [ ! -e llama-server.arguments ]
    # What it prints is what it runs.
    entrypoint MoE_OFFLOAD='.ffn_.*_exps.=CPU'
    mv llama-server.arguments expected
    eval "${output#*runs }"
    diff expected llama-server.arguments
}

@test "--check-parameters needs neither model, key nor llama-server" {
    run env -i PATH="$PATH" MODEL_REPO=a/b QUANT_TYPE=Q8_0 "$IMAGE/entrypoint.sh" --check-parameters
    [ "$status" = 0 ]
    [ "$output" = "entrypoint: the parameters are right" ]
    run env -i PATH="$PATH" MODEL_REPO=a/b QUANT_TYPE=Q8_0 CTX_SIZE=x "$IMAGE/entrypoint.sh" --check-parameters
    [ "$status" = 64 ]
}

@test "arguments are refused" {
    run --separate-stderr entrypoint -- --ctx-size 5
    [ "$status" = 64 ]
    [ "$stderr" = "entrypoint: unknown argument; hint: flags for llama-server belong into EXTRA_FLAGS" ]
}

# --- with the real llama-server

@test "all eight parameters take effect in llama-server" {
    real_model "$SMALL_MODEL"
    start TEMPERATURE=0.6 MIN_P=0.02 CTX_SIZE=1024 PARALLEL_SLOTS=2 MoE_OFFLOAD='.ffn_.*_exps.=CPU' THREADS=1
    run ask props
    contains "$output" '"temperature":0.6'
    contains "$output" '"min_p":0.0'
    python3 - "$output" "$DIRECTORY/tiny.gguf" <<'END'
import json, sys
props = json.loads(sys.argv[1])
assert round(props["default_generation_settings"]["params"]["temperature"], 4) == 0.6, props
assert round(props["default_generation_settings"]["params"]["min_p"], 4) == 0.02, props
assert props["default_generation_settings"]["n_ctx"] == 512, props
assert props["total_slots"] == 2, props
assert props["model_path"] == sys.argv[2], props
assert props["model_alias"] == "tiny", props
END
    grep -q 'n_threads = 1$' log
    ask slots >/dev/null
    ask v1/chat/completions -d '{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}'
    # The key is asked for, and nobody reads it from the log, the arguments or the environment.
    run curl --silent "http://127.0.0.1:$PORT/props"
    contains "$output" "Invalid API Key"
    lacks "$(cat log)" geheim
    lacks "$(tr '\0' ' ' <"/proc/$SERVER/cmdline")$(tr '\0' ' ' <"/proc/$SERVER/environ")" geheim
}

@test "N_GPU_LAYERS and MoE_OFFLOAD reach llama-server" {
    # It refuses itself what we cannot know.
    real_model "$RANDOM_MODEL"
    run start MoE_OFFLOAD=.ffn_.*_exps.=NOWHERE
    [ "$status" = 1 ]
    contains "$output" "unknown buffer type"
    start N_GPU_LAYERS=all MoE_OFFLOAD=all
    tr '\0' ' ' <"/proc/$SERVER/cmdline" | grep -q -e '--n-gpu-layers all --cpu-moe'
}

@test "a real model in two shards is served" {
    rm "$DIRECTORY/tiny.gguf"
    python3 "$BATS_TEST_DIRNAME/split_gguf.py" "$RANDOM_MODEL" "$DIRECTORY/tiny" 2
    start
    run ask v1/chat/completions -d '{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}'
    contains "$output" '"completion_tokens":3'
    # Without our check llama-server would end with a line about a "split".
    rm "$DIRECTORY/tiny-00002-of-00002.gguf"
    refused 66 "$DIRECTORY lacks 1 of 2 shards, such as tiny-00002-of-00002.gguf; hint: the init container fetch-model loads it; its log tells why it did not"
}

@test "SIGTERM reaches llama-server, which is the same process" {
    real_model "$RANDOM_MODEL"
    start
    [ "$(readlink "/proc/$SERVER/exe")" = "$(realpath "$REAL_SERVER")" ]
    kill -TERM "$SERVER"
    wait "$SERVER"
    grep -q "cleaning up before exit" log
}

@test "it runs as any user, without a home, and writes nothing beside" {
    real_model "$RANDOM_MODEL"
    chmod 640 key
    if [ "$(id -u)" = 0 ]; then
        # As OpenShift does: a UID without an entry in /etc/passwd, group 0, no capabilities.
        AS=(setpriv --reuid=1006700000 --regid=0 --clear-groups --no-new-privs --bounding-set=-all)
    fi
    find . ! -name log >before
    start
    ask props >/dev/null
    find . ! -name log ! -name before | diff <(grep -vx ./before before) -
    [ "$(stat -c %u "/proc/$SERVER")" != 0 ]
    chmod 200 key
    refused 66 "API_KEY_FILE $PWD/key is no file that user $(stat -c %u "/proc/$SERVER") can read; hint: mount the Secret there (mode 0440, and fsGroup), or API_KEY_FILE=none to serve without a key"
}
