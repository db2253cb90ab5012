#!/usr/bin/env bats
# The refusals of build-llama-server.sh, all before it compiles. scripts/images compiles with it.

bats_require_minimum_version 1.5.0

setup() {
    build=$BATS_TEST_DIRNAME/../build-llama-server.sh
    pin=$BATS_TEST_DIRNAME/../llama.cpp.pin
    output=$BATS_TEST_TMPDIR/output
}

# A PATH with these tools alone.
path_with() {
    local tool
    mkdir "$BATS_TEST_TMPDIR/bin"
    for tool in "$@"; do ln -s "$(command -v "$tool")" "$BATS_TEST_TMPDIR/bin/$tool"; done
    echo "$BATS_TEST_TMPDIR/bin"
}

# A llama.cpp with the right names and nothing right in them.
false_source() {
    local kind name
    while read -r kind name; do
        if [ "$kind" = tree ]; then
            mkdir -p "$1/$name"
            echo "not the release" >"$1/$name/file"
        else
            echo "not the release" >"$1/$name"
        fi
    done < <(awk '/^[0-9]/ { print $2, $4 }' "$pin")
}

refused() { # part of the message
    [ "$status" = 1 ]
    [[ $output_text == *"$1"* ]]
    [ ! -e "$output" ]
}

build() {
    status=0
    output_text=$(TMPDIR=$BATS_TEST_TMPDIR "$build" "$@" 2>&1) || status=$?
}

@test "a source that is not the pinned release is not compiled, and what differs is shown" {
    mkdir "$BATS_TEST_TMPDIR/source"
    false_source "$BATS_TEST_TMPDIR/source"
    build --cpu --source "$BATS_TEST_TMPDIR/source" --output "$output"
    refused "the source is not the pinned b"
    [[ $output_text == *"< 040000 tree"*"ggml"* ]]
    # Nothing is left in the folder for temporary files.
    run ! compgen -G "$BATS_TEST_TMPDIR/tmp.*"
}

@test "a folder that is no llama.cpp is refused by the first name that it lacks" {
    mkdir "$BATS_TEST_TMPDIR/source"
    build --cpu --source "$BATS_TEST_TMPDIR/source" --output "$output"
    refused "has no CMakeLists.txt: give the root of a llama.cpp"
}

@test "what is downloaded is compared with the pin as well" {
    mkdir "$BATS_TEST_TMPDIR/llama.cpp-release"
    false_source "$BATS_TEST_TMPDIR/llama.cpp-release"
    tar -C "$BATS_TEST_TMPDIR" -czf "$BATS_TEST_TMPDIR/archive" llama.cpp-release
    LLAMA_CPP_URL=file://$BATS_TEST_TMPDIR/archive build --cpu --output "$output"
    refused "the source is not the pinned b"
}

@test "what is no archive is refused" {
    echo "not the archive" >"$BATS_TEST_TMPDIR/archive"
    LLAMA_CPP_URL=file://$BATS_TEST_TMPDIR/archive build --cpu --output "$output"
    refused "is no archive: set LLAMA_CPP_URL to a mirror, or give --source DIR"
}

@test "an archive that cannot be downloaded says what else to do" {
    LLAMA_CPP_URL=file://$BATS_TEST_TMPDIR/nothing build --cpu --output "$output"
    refused "set LLAMA_CPP_URL to a mirror, or give --source DIR"
}

@test "a result that is there already is not overwritten" {
    mkdir "$output"
    build --cpu --output "$output"
    [ "$status" = 1 ]
    [[ $output_text == *"exists already: remove it or give another --output" ]]
}

@test "wrong arguments are told" {
    build --cpu
    refused "give --output DIR"
    build --cpu --output
    refused "--output needs a folder: --output DIR"
    build --gpu --output "$output"
    refused "unknown argument --gpu: --help lists those that exist"
}

@test "--cuda without nvcc says how to go on" {
    PATH=$(path_with bash c++ cmake dirname git ninja realpath) CUDA_HOME=/nowhere build --cuda --output "$output"
    refused "install the CUDA toolkit, or build for the CPU with --cpu"
}

@test "a missing tool is named" {
    PATH=$(path_with bash dirname realpath) build --cpu --output "$output"
    refused "c++ is missing: install it (Debian: apt-get install build-essential cmake git ninja-build)"
}

@test "the help tells every option" {
    build --help
    [ "$status" = 0 ]
    for option in --cuda --cpu --quick --source --output CUDA_ARCHITECTURES LLAMA_CPP_URL; do
        [[ $output_text == *"$option"* ]]
    done
}
