#!/usr/bin/env bash
# Compiles llama-server, and nothing else, from the release of llama.cpp that llama.cpp.pin names.
#
#   build-llama-server.sh [--cuda|--cpu] [--quick] [--source DIR] --output DIR
#
#   --cuda, --cpu   what it will run on; without either: CUDA if nvcc is found, else the CPU
#   --quick         for checks: little optimised, and one CPU variant instead of one for each generation of CPUs
#   --source DIR    a llama.cpp that is here already; without it the pinned archive is downloaded
#   --output DIR    gets bin/, licenses/ and sbom.cdx.json; must not exist yet
#
# From the environment: CUDA_ARCHITECTURES (default 75-real, a T4; several are separated by ;) and
# LLAMA_CPP_URL (a mirror of the pinned archive). Needs a C++17 compiler, CMake, Ninja and git; curl for the download.
# Wherever the source is from, it is compared with the pin before it is compiled.
set -euo pipefail

pin=$(dirname "$(realpath "${BASH_SOURCE[0]}")")/llama.cpp.pin

fail() { # message, which ends with a hint
    echo "build-llama-server.sh: $*" >&2
    exit 1
}

pinned() { # release|url
    awk -v key="$1" '$1 == key { print $2 }' "$pin"
}

read_arguments() {
    backend="" quick="" source="" output=""
    while [ $# -gt 0 ]; do
        case $1 in
            --cuda | --cpu) backend=${1#--} ;;
            --quick) quick=yes ;;
            --source | --output)
                [ $# -gt 1 ] || fail "$1 needs a folder: $1 DIR"
                printf -v "${1#--}" %s "$(realpath --canonicalize-missing "$2")"
                shift
                ;;
            --help)
                sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}"
                exit
                ;;
            *) fail "unknown argument $1: --help lists those that exist" ;;
        esac
        shift
    done
    [ -n "$output" ] || fail "nowhere to put the result: give --output DIR"
    [ ! -e "$output" ] || fail "$output exists already: remove it or give another --output"
}

check_tools() {
    local tool hint="Debian: apt-get install build-essential cmake git ninja-build"
    # Not on everybody's PATH, though the CUDA images have it.
    command -v nvcc >/dev/null || PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
    if [ -z "$backend" ]; then
        backend=cpu
        if command -v nvcc >/dev/null; then backend=cuda; fi
    fi
    for tool in c++ cmake git ninja; do
        command -v "$tool" >/dev/null || fail "$tool is missing: install it ($hint)"
    done
    if [ "$backend" = cuda ] && ! command -v nvcc >/dev/null; then
        fail "nvcc is missing: install the CUDA toolkit, or build for the CPU with --cpu"
    fi
}

download() {
    local url=${LLAMA_CPP_URL:-$(pinned url)}
    echo "downloading $url"
    curl --fail --silent --show-error --location --retry 3 --output "$work/archive.tar.gz" "$url" ||
        fail "the source cannot be downloaded from $url: set LLAMA_CPP_URL to a mirror, or give --source DIR"
    mkdir "$work/archive"
    # Links that lead out of it stay harmless: only what the pin lists is copied, and compared before it is used.
    tar --extract --gzip --file "$work/archive.tar.gz" --directory "$work/archive" --strip-components 1 ||
        fail "what $url sent is no archive: set LLAMA_CPP_URL to a mirror, or give --source DIR"
    source=$work/archive
}

# Copies what the pin lists, so that nothing else can be compiled, and compares the copy with the pin.
take_source() {
    local -a names
    local name
    mapfile -t names < <(awk '/^[0-9]/ { print $4 }' "$pin")
    [ -n "$source" ] || download
    for name in "${names[@]}"; do
        [ -e "$source/$name" ] || fail "$source has no $name: give the root of a llama.cpp $(pinned release)"
    done
    mkdir "$work/source"
    (cd "$source" && cp -R -- "${names[@]}" "$work/source")
    # Neither the user's settings (line ends, ignored files) nor a repository around it may change what git sees.
    export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_CEILING_DIRECTORIES=$work
    git init --quiet --bare --object-format=sha256 "$work/git"
    local -a git=(git --git-dir "$work/git" --work-tree "$work/source" -c core.bare=false)
    (cd "$work/source" && "${git[@]}" add --force .)
    "${git[@]}" ls-tree "$("${git[@]}" write-tree)" >"$work/found"
    diff <(grep '^[0-9]' "$pin") "$work/found" >&2 ||
        fail "the source is not the pinned $(pinned release) (< pinned, > found): take it from where $pin says"
}

compile() {
    local -a options=(
        -DCMAKE_BUILD_TYPE=Release
        # The libraries lie beside the program, wherever that is.
        -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON "-DCMAKE_INSTALL_RPATH=\$ORIGIN"
        # For any machine, not for this one. Backends are loaded when the server starts: the same image runs without
        # a GPU, and takes the variant of the CPU code that is best for the node.
        -DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CCACHE=OFF
        # No web page (the prebuilt one would be downloaded), no TLS (there is no download of models), and no
        # subprocesses (tools, and the router that starts further servers).
        -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_SUBPROCESS=OFF
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF
        # Else asked from git, which would tell of a repository around this folder.
        "-DLLAMA_BUILD_NUMBER=${release#b}" -DLLAMA_BUILD_COMMIT=unknown
    )
    if [ -n "$quick" ]; then
        options+=(-DCMAKE_C_FLAGS_RELEASE=-O1 -DCMAKE_CXX_FLAGS_RELEASE=-O1)
    else
        options+=(-DGGML_CPU_ALL_VARIANTS=ON)
    fi
    if [ "$backend" = cuda ]; then
        # NCCL is for several GPUs.
        options+=(-DGGML_CUDA=ON -DGGML_CUDA_NCCL=OFF "-DCMAKE_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES:-75-real}")
    fi
    cmake -G Ninja -S "$work/source" -B "$work/build" "${options[@]}"
    cmake --build "$work/build" --target llama-server
}

# The result appears whole or not at all.
install_result() {
    local result=$work/result library name
    mkdir -p "$result/bin" "$result/licenses"
    cp -P "$work/build/bin/llama-server" "$work/build/bin"/lib*.so* "$result/bin"
    cp "$work/source/LICENSE" "$result/licenses/llama.cpp"
    cp "$work/source/licenses"/* "$result/licenses"
    for library in "$work/source/vendor"/*/LICENSE* "$work/source/vendor/hash"/*/LICENSE*; do
        name=$(basename "$(dirname "$library")")
        cp "$library" "$result/licenses/$name"
    done
    bill_of_materials >"$result/sbom.cdx.json"
    mkdir -p "$(dirname "$output")"
    mv -T "$result" "$output"
}

# CycloneDX 1.5: what was compiled into llama-server. What the base image brings is not in it.
bill_of_materials() {
    local vendor=$work/source/vendor sync=$work/source/scripts/sync_vendor.py
    printf '{\n  "bomFormat": "CycloneDX",\n  "specVersion": "1.5",\n  "version": 1,\n  "metadata": {\n'
    printf '    "component": {"type": "application", "name": "llama-server", "version": "%s"}\n  },\n' "$release"
    printf '  "components": [\n'
    component application llama.cpp "$release" MIT ggml-org/llama.cpp "$(identity)"
    vendored cpp-httplib MIT yhirose/cpp-httplib "$vendor/cpp-httplib/httplib.h" \
        's/^#define CPPHTTPLIB_VERSION "\(.*\)"/v\1/p'
    vendored nlohmann-json MIT nlohmann/json "$vendor/nlohmann/json.hpp" 's/^\/\/.*|  version \([0-9.]*\)$/v\1/p'
    vendored miniaudio 'Unlicense OR MIT-0' mackron/miniaudio "$sync" \
        's|^.*//github.com/mackron/miniaudio/raw/\([0-9a-f]*\)/.*|\1|p'
    vendored stb_image 'Unlicense OR MIT' nothings/stb "$vendor/stb/stb_image.h" \
        's/^.*stb_image - \(v[0-9.]*\) .*/\1/p'
    vendored xxHash BSD-2-Clause Cyan4973/xxHash "$sync" 's/^XXHASH_COMMIT *= "\(.*\)"/\1/p'
    vendored sha1 LicenseRef-public-domain clibs/sha1 "$sync" 's/^SHA1_COMMIT *= "\(.*\)"/\1/p'
    vendored sha256.c LicenseRef-public-domain jb55/sha256.c "$sync" 's/^SHA256_COMMIT *= "\(.*\)"/\1/p'
    vendored rotate-bits.h MIT jb55/rotate-bits.h "$sync" 's/^ROTATE_BITS_COMMIT *= "\(.*\)"/\1/p'
    printf '\n  ]\n}\n'
}

vendored() { # name licence repository file sed-script-that-prints-the-version
    local version
    version=$(sed -n "$5" "$4" | head -n 1)
    [ -n "$version" ] || fail "the version of $1 is not in $4: correct bill_of_materials in this script"
    printf ',\n'
    component library "$1" "$version" "$2" "$3"
}

# Where it is from, and what git calls the compiled folders.
identity() {
    printf ',\n     "externalReferences": [{"type": "distribution", "url": "%s"}],\n     "properties": [' "$(pinned url)"
    awk '/^[0-9]/ { printf "%s\n       {\"name\": \"git-sha256:%s\", \"value\": \"%s\"}", comma, $4, $3; comma = "," }' "$pin"
    printf ']'
}

component() { # type name version licence repository [further-JSON]
    printf '    {"type": "%s", "name": "%s", "version": "%s",\n' "$1" "$2" "$3"
    printf '     "purl": "pkg:github/%s@%s", "licenses": [{"expression": "%s"}]%s}' "$5" "$3" "$4" "${6-}"
}

main() {
    read_arguments "$@"
    check_tools
    release=$(pinned release)
    work=$(mktemp --directory)
    trap 'rm -rf "$work"' EXIT
    take_source
    echo "compiling llama-server $release for ${backend^^}"
    compile
    install_result
    echo "built $output/bin/llama-server"
}

main "$@"
