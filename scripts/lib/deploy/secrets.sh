# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # the parts use each other's names; deploy.sh is checked with all of them
# The Secrets, and the gateway's first key. Sourced by scripts/deploy.sh.
#
# A secret goes from one command to the next by a pipe: never as an argument, in the environment of a child, in a file
# or on standard error. `local -; set +x` keeps it out of the trace of "bash -x" as well.

hf_token="" hf_token_file="" check_key_id="" terminal=""

# Children need not know it, so it leaves the environment first of all.
take_token_from_environment() {
    local -
    set +x
    hf_token=${HF_TOKEN:-}
    unset HF_TOKEN
}

take_token_from_file() {
    local -
    set +x
    [ -n "$hf_token_file" ] || return 0
    [ -r "$hf_token_file" ] && [ -f "$hf_token_file" ] ||
        fail usage "the file $hf_token_file cannot be read; hint: it holds the Hugging Face token and nothing else"
    hf_token=$(tr -d ' \t\r\n' <"$hf_token_file")
    [ -n "$hf_token" ] || fail usage "the file $hf_token_file is empty; hint: leave --hf-token-file out for no token"
}

restore_terminal() {
    [ -z "$terminal" ] || stty "$terminal"
    terminal=""
}

# Most models are public, so nobody has to have a token; who has one downloads faster.
ask_for_token() {
    local -
    set +x
    [ -z "$hf_token" ] && [ -z "$assume_yes" ] && [ -t 0 ] && [ -t 2 ] || return 0
    [ -z "$(read_object secret huggingface-token '{.metadata.name}')" ] || return 0
    terminal=$(stty -g)
    stty -echo # before the question, so that no answer is too fast
    printf 'Hugging Face token (not needed for public models; Enter for none): ' >&2
    IFS= read -r hf_token || true
    restore_terminal
    say ""
    hf_token=${hf_token//[[:space:]]/}
}

ensure_token() {
    local -
    set +x
    [ -n "$hf_token" ] || return 0
    printf '%s' "$hf_token" |
        cli create secret generic huggingface-token --from-file=HF_TOKEN=/dev/stdin --dry-run=client -o yaml |
        cli apply --server-side --force-conflicts "--field-manager=$field_manager" -f - >/dev/null
    hf_token=""
    say "secret huggingface-token: is as given"
}

random_key() { od -An -vtx1 -N32 /dev/urandom | tr -d ' \n'; }

ensure_random_secret() { # secret, key in it, lines of the Secrets that are there
    ! grep -qx "secret/$1" <<<"$3" || return 0
    random_key | cli create secret generic "$1" "--from-file=$2=/dev/stdin" >/dev/null
    say "secret $1: made"
}

ensure_secrets() {
    local names
    phase="it made the Secrets"
    ensure_token
    names=$(cli get secret kimi-k2-upstream-key kimi-k2-gateway-admin-key --ignore-not-found -o name)
    ensure_random_secret kimi-k2-upstream-key api-key "$names"
    ensure_random_secret kimi-k2-gateway-admin-key key "$names"
}

gateway_keys() { # arguments of `llama-gateway keys`
    cli exec "deployment/$gateway" -c gateway -- /usr/local/bin/llama-gateway keys "$@"
}

# Shown once, on standard output; a later run finds keys and makes none.
first_key() {
    local - key list
    set +x
    phase="it made the first key"
    list=$(gateway_keys list --json) ||
        fail failed "the gateway's keys cannot be listed; hint: $OC logs deployment/$gateway -n $namespace"
    if [[ $list == *'"id"'* ]]; then
        say "keys: there are some, none was made"
        return
    fi
    trap '' INT # a key that was made and not shown would be lost
    key=$(gateway_keys create --tenant first --label deploy.sh) ||
        fail failed "the first key could not be made; hint: $OC logs deployment/$gateway -n $namespace"
    say ""
    say "The first key, of tenant \"first\". It is shown this once, so keep it now:"
    printf '%s\n' "$key"
    trap 'interrupted Ctrl-C 130' INT
    key_made=yes
}

# The key of the check call is made before it and revoked after it; should that fail, it expires by itself.
make_check_key() {
    local -
    set +x
    check_key=$(gateway_keys create --tenant deploy-check --label deploy.sh --surfaces chat --expires 30m) || return 1
    check_key_id=${check_key#sk-lgw-}
    check_key_id=${check_key_id%%-*}
}

revoke_check_key() {
    [ -n "$check_key_id" ] || return 0
    gateway_keys revoke "$check_key_id" >/dev/null || say "warning: the key $check_key_id of the check is not revoked; hint: it expires within 30 minutes"
    check_key_id=""
}
