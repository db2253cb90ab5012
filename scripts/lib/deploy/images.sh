# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # the parts use each other's names; deploy.sh is checked with all of them
# The two images: built in the cluster by OpenShift, taken from a registry elsewhere. Sourced by scripts/deploy.sh.

build=missing # missing, always, never
declare -A digests=()

builds_here() { has_kind BuildConfig && [ -z "$registry" ]; }

# The tag that the overlay asks for.
image_tag() { # image
    awk -v i="$1:" '$1 == "image:" && index($2, i) == 1 { print substr($2, length(i) + 1); exit }' "$work/rendered.yaml"
}

# Lines of "image:tag full name with the digest", from the ImageStreams' tags.
list_images() {
    cli get imagestreamtags -o 'jsonpath={range .items[*]}{.metadata.name} {.image.dockerImageReference}{"\n"}{end}'
}

read_digests() { # lines of list_images
    local image
    for image in "$gateway" "$server"; do
        digests[$image]=$(awk -v i="$image:$(image_tag "$image")" '$1 == i { print $2 }' <<<"$1")
    done
}

# Pods ask for what was built and not for a tag, so that a new build restarts them and an old one can be gone back to.
pin_images() {
    local image
    builds_here || return 0
    for image in "${!digests[@]}"; do
        [ -z "${digests[$image]}" ] ||
            sed -i "s|^\( *\(- \)\?image: \)$image:.*|\1${digests[$image]}|" "$work/rendered.yaml"
    done
}

needs_build() { # image
    [ "$build" = always ] || { [ "$build" = missing ] && [ -z "${digests[$1]}" ]; }
}

check_images() {
    local image state
    if ! builds_here; then
        [ -n "$registry" ] ||
            warning "without --registry, every node must have the images $gateway and $server already" \
                "push them to a registry and name it: --registry registry.example.com/you"
        return 0
    fi
    # Not to be seen is not the same as not to be there: a build takes an hour.
    answered images || problem "you may not see the images in $namespace" "an administrator grants it: list imagestreamtags"
    read_digests "$(answer images)"
    state=$(answer registry)
    [ "${state:-Managed}" = Managed ] ||
        problem "the cluster's own registry is off ($state), so nothing can be built into it" \
            "an administrator sets spec.managementState: Managed in configs.imageregistry.operator.openshift.io/cluster, or use --registry"
    for image in "$gateway" "$server"; do
        if [ "$build" = never ] && [ -z "${digests[$image]}" ]; then
            problem "the image $image:$(image_tag "$image") has not been built" "leave out --no-build"
        elif needs_build "$image" && ! answered can-build; then
            problem "$OC cannot build the image $image" "use oc, OpenShift's CLI, or name with --registry where the images are"
        fi
    done
}

build_images() {
    local image
    builds_here || return 0
    for image in "$gateway" "$server"; do
        ! needs_build "$image" || build_image "$image"
    done
    read_digests "$(list_images)"
}

# A build that an interrupted run has left goes on in the cluster, and is followed instead of started again.
build_image() { # image
    local name state
    phase="the image $1 was built (the build goes on in the cluster)"
    name=$(running_build "$1")
    if [ -n "$name" ]; then
        say "image $1: following $name, which is running"
    else
        pack_sources
        say "image $1: building"
        "$OC" -n "$namespace" start-build "$1" "--from-archive=$work/sources.tar.gz" -o name >"$work/build" 2>"$work/errors" &
        wait $! ||
            fail failed "the build of $1 did not start: $(tail -n 1 "$work/errors"); hint: $OC describe buildconfig $1 -n $namespace"
        name=$(sed -n 's|^build[^/]*/||p' "$work/build")
    fi
    while state=$(read_object build "$name" '{.status.phase}') && [[ $state =~ ^(New|Pending|Running|)$ ]]; do
        "$OC" -n "$namespace" logs --follow "build/$name" 1>&2 2>/dev/null &
        wait $! || true
        a_moment
    done
    [ "$state" = Complete ] ||
        fail failed "the build $name ended as $state; hint: $OC logs build/$name -n $namespace"
}

running_build() { # image
    cli get builds -l "buildconfig=$1" -o 'jsonpath={range .items[*]}{.metadata.name} {.status.phase}{"\n"}{end}' 2>/dev/null |
        awk '$2 == "New" || $2 == "Pending" || $2 == "Running" { name = $1 } END { if (name != "") print name }'
}

# What git knows or would take, so neither build results nor keys and models that lie around.
pack_sources() {
    [ ! -f "$work/sources.tar.gz" ] || return 0
    if git -C "$root" rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git -C "$root" ls-files -z --cached --others --exclude-standard |
            tar -C "$root" -czf "$work/sources.tar.gz" --ignore-failed-read --null --files-from=- 2>/dev/null
    else
        tar -C "$root" -czf "$work/sources.tar.gz" --exclude-from="$root/.gitignore" --exclude=.git .
    fi
}
