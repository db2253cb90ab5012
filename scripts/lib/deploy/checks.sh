# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # the parts use each other's names; deploy.sh is checked with all of them
# What must be right before anything is changed. Sourced by scripts/deploy.sh.
#
# Every check adds to one list, so that one run tells all. Errors end the run with code 3; warnings are told only.

problems=0
namespace_phase="" # empty: there is none

problem() { # what, how to fix it
    problems=$((problems + 1))
    say "error: $1; hint: $2"
}

warning() { say "warning: $1; hint: $2"; }

# The first question that the cluster is asked: nothing else can be told while it does not answer.
check_login() {
    local answer
    answer=$(cli auth can-i get pods 2>"$work/errors") || true
    case $answer in
        yes | no*) return ;;
    esac
    fail checks "no access to the cluster: $(tail -n 1 "$work/errors");" \
        "hint: log in ($OC login), or choose another cluster ($OC config use-context NAME)"
}

learn_apis() { "$OC" api-versions >"$work/api-versions"; }

is_openshift() { grep -q '^route.openshift.io/' "$work/api-versions"; }

check_rights() {
    local file missing=""
    for file in "$work"/rights/*; do
        [ "$(cat "$file")" = yes ] || missing+=", ${file##*/}"
    done
    missing=${missing//:/\/}
    [ -z "$missing" ] || problem "you may not ${missing#, } in $namespace" \
        "an administrator grants it: $OC adm policy add-role-to-user admin YOU -n $namespace, or an equal RoleBinding"
}

# Who may not make namespaces, such as a project's administrator, can use one that is there.
check_namespace() {
    namespace_phase=$(answer namespace)
    case $namespace_phase in
        Active) leave_namespace_to_others ;;
        Terminating) problem "the namespace $namespace is being deleted" "wait until it is gone, then run again" ;;
        *)
            [ "$(answer may-make-namespace)" = yes ] ||
                problem "there is no namespace $namespace, and you may not make it" \
                    "oc new-project $namespace, or ask an administrator to make it"
            ;;
    esac
}

leave_namespace_to_others() {
    [ "$(answer may-change-namespace)" != yes ] || return 0
    warning "you may not change the namespace $namespace, so its labels stay as they are" \
        "an administrator sets those in manifests/base/01-namespace.yaml"
    select_kinds out Namespace "$work/rendered.yaml" >"$work/without-namespace.yaml"
    mv "$work/without-namespace.yaml" "$work/rendered.yaml"
}

group_hint() { # API group
    case $1 in
        route.openshift.io/* | image.openshift.io/* | build.openshift.io/*)
            echo "this is not OpenShift: use --overlay kubernetes-${overlay#openshift-}"
            ;;
        monitoring.coreos.com/*)
            echo "install the Prometheus operator, or take the component monitoring out of the overlay"
            ;;
        gateway.networking.k8s.io/*)
            echo "install the Gateway API, or use the component ingress in the overlay"
            ;;
        *) echo "the cluster is too old for this, or a part of it is not installed" ;;
    esac
}

check_api_groups() {
    local version
    while read -r version; do
        grep -qxF "$version" "$work/api-versions" ||
            problem "the cluster does not know $version, which the overlay $overlay uses" "$(group_hint "$version")"
    done < <(awk '{ print $1 }' "$work/inventory" | sort -u)
}

check_storage() {
    local name class mode size live
    if ! answered storage-classes; then
        warning "you may not list storage classes, so the volumes could not be checked" "see that a default one is there"
        return
    fi
    while IFS='|' read -r name class mode size _; do
        live=$(answer claims | grep "^$name|" || true)
        check_claim "$name" "$class" "$mode" "$size" "$live"
    done < <(answer wanted-claims)
}

check_claim() { # name, class, mode, size; the line of the one that is there
    local class=$2 line
    if [ -n "$5" ]; then
        check_existing_claim "$1" "$2" "$4" "$5"
    elif [ -z "$class" ]; then
        grep -q '^[^|]*|true|' "$work/answers/storage-classes" ||
            problem "no storage class is the default, and the claim $1 names none" \
                "set storageClassName in the overlay, one of: $(cut -d '|' -f 1 "$work/answers/storage-classes" | xargs)"
    elif ! line=$(grep "^$class|" "$work/answers/storage-classes"); then
        problem "there is no storage class $class, which the claim $1 names" \
            "set another one in the overlay, one of: $(cut -d '|' -f 1 "$work/answers/storage-classes" | xargs)"
    elif [[ $line == *"|kubernetes.io/no-provisioner" ]]; then
        warning "the storage class $class makes no volumes" \
            "an administrator has to make a PersistentVolume of $4, $3, for the claim $1"
    fi
}

# What a claim asked for cannot be changed later, but for a size that grows. A greater one stays as it is: another
# profile can then be deployed in the place of a larger one.
check_existing_claim() { # name, class, size; the line of the one that is there
    local class size
    IFS='|' read -r _ class _ size _ <<<"$4"
    if [ "$(mebibytes "$size")" -gt "$(mebibytes "$3")" ]; then
        keep_claim_size "$1" "$size"
    elif [ "$(mebibytes "$size")" -lt "$(mebibytes "$3")" ] && ! grep -q "^$class|[^|]*|true|" "$work/answers/storage-classes"; then
        problem "the claim $1 has $size, the overlay asks for $3, and the storage class $class cannot let it grow" \
            "set its size to $size in the overlay, or delete the claim (and what is on it) first"
    fi
    [ -z "$2" ] || [ "$2" = "$class" ] ||
        problem "the claim $1 is of the storage class $class, and the overlay says $2: that cannot be changed" \
            "set storageClassName to $class in the overlay, or delete the claim (and what is on it) first"
}

keep_claim_size() { # claim, size
    awk -v claim="$1" -v size="$2" '
        /^---$/ { kind = name = "" }
        /^kind: / { kind = $2 }
        /^  name: / && name == "" { name = $2 }
        kind == "PersistentVolumeClaim" && name == claim { sub(/^      storage: .*/, "      storage: " size) }
        { print }' "$work/rendered.yaml" >"$work/resized.yaml"
    mv "$work/resized.yaml" "$work/rendered.yaml"
}

check_nodes() {
    local products gpus memory init_memory cpu init_cpu
    if ! answered nodes; then
        warning "you may not list nodes, so GPU and memory could not be checked" "ask an administrator"
        return
    fi
    IFS='|' read -r products gpus memory init_memory cpu init_cpu <<<"$(answer needs)"
    memory=$(needed mebibytes "$memory" "$init_memory")
    cpu=$(needed millicores "$cpu" "$init_cpu")
    if [ -n "$gpus" ]; then
        check_gpu "$products" "$gpus" "$memory" "$cpu"
    else
        check_size "" "$memory" "$cpu"
    fi
}

# A pod needs the sum of its containers, or the most of an init container if that is more.
needed() { # function, quantities of containers, quantities of init containers
    local sum most
    # shellcheck disable=SC2086 # one word a container
    sum=$(total "$1" $2) most=$(greatest "$1" $3)
    echo $((most > sum ? most : sum))
}

check_gpu() { # products, GPUs, memory in MiB, CPU in millicores
    local product usable=""
    for product in $1; do
        usable+=$(awk -F '|' -v p="$product" -v n="$2" \
            '$2 == p && $3 == "True" && $4 != "true" && $7 >= n { printf "%s ", $1 }' "$work/answers/nodes")
    done
    if [ -n "$usable" ]; then
        check_size "$usable" "$3" "$4"
    else
        explain_gpu "$1"
    fi
}

explain_gpu() { # products
    local name product ready unschedulable gpus seen=""
    while IFS='|' read -r name product ready unschedulable _ _ gpus; do
        case " $1 " in
            *" ${product%-SHARED} "*) ;;
            *) continue ;;
        esac
        if [ "$product" != "${product%-SHARED}" ]; then
            problem "node $name shares its GPU by time-slicing (nvidia.com/gpu.product=$product), and shared GPUs have no memory of their own" \
                "turn time-slicing off for this node, or add $product to the node affinity in the overlay"
        elif [ "$ready" != True ]; then
            problem "node $name, which has the GPU, is not ready" "$OC describe node $name"
        elif [ "$unschedulable" = true ]; then
            problem "node $name, which has the GPU, is cordoned" "$OC adm uncordon $name"
        else
            problem "node $name is labelled $product but offers ${gpus:-no} nvidia.com/gpu" \
                "see to the pods of the NVIDIA GPU operator on it"
        fi
        seen=yes
    done <"$work/answers/nodes"
    [ -n "$seen" ] || problem "no node has the label nvidia.com/gpu.product=${1// / or }; nodes have: $(labels_of_nodes)" \
        "install the NVIDIA GPU operator, or name your GPU in the node affinity of the overlay"
}

labels_of_nodes() {
    local labels
    labels=$(awk -F '|' '$2 != "" { print $2 }' "$work/answers/nodes" | sort -u | xargs)
    echo "${labels:-no GPU label at all}"
}

# Whether one of these nodes, or of all, is as big as the pod asks for. What other pods hold is the scheduler's to see.
check_size() { # names, memory in MiB, CPU in millicores
    local name memory cpu most_memory=0 most_cpu=0
    while IFS='|' read -r name _ _ _ memory cpu _; do
        [ -z "$1" ] || [[ " $1" == *" $name "* ]] || continue
        memory=$(mebibytes "$memory")
        cpu=$(millicores "$cpu")
        [ "$memory" -lt "$2" ] || [ "$cpu" -lt "$3" ] || return 0
        [ "$memory" -le "$most_memory" ] || most_memory=$memory
        [ "$cpu" -le "$most_cpu" ] || most_cpu=$cpu
    done < <(awk -F '|' '$3 == "True" && $4 != "true"' "$work/answers/nodes")
    problem "$server asks for $(($2 / 1024)) GiB and $(millicores_for_people "$3") CPUs, and the greatest node${1:+ with the GPU} has $((most_memory / 1024)) GiB and $(millicores_for_people "$most_cpu")" \
        "use a greater node or a smaller profile (--overlay ${overlay%%-*}-gpt-oss-20b-t4), or lower the requests in the overlay"
}

millicores_for_people() {
    local tenths=$(($1 / 100))
    [ $((tenths % 10)) = 0 ] && echo $((tenths / 10)) || echo "$((tenths / 10)).$((tenths % 10))"
}

# User workload monitoring is an administrator's to turn on; without it nothing scrapes our ServiceMonitors.
check_monitoring() {
    has_kind ServiceMonitor && is_openshift || return 0
    if ! answered monitoring; then
        warning "you may not see whether user workload monitoring is on" "ask an administrator"
    elif ! grep -qE '^ *enableUserWorkload: *true' "$work/answers/monitoring"; then
        warning "user workload monitoring is off, so there will be no metrics and alerts" \
            "an administrator sets enableUserWorkload: true in ConfigMap openshift-monitoring/cluster-monitoring-config"
    fi
}

# What an Ingress or an HTTPRoute leads through is not ours to make.
check_way_in() {
    local by with name
    IFS='|' read -r by with name <<<"$(answer way-in)"
    if has_kind Ingress; then
        [ -n "$(read_object ingressclass "$by" '{.metadata.name}')" ] ||
            problem "there is no ingress class $by" "install its controller, or set another ingressClassName in the overlay"
        [ -z "$with" ] || [ -n "$(read_object secret "$with" '{.metadata.name}')" ] ||
            warning "there is no Secret $with with a certificate for $name" \
                "$OC create secret tls $with -n $namespace --cert=FILE --key=FILE"
    elif has_kind HTTPRoute; then
        "$OC" -n "$with" get gateways.gateway.networking.k8s.io "$by" -o name >/dev/null 2>&1 ||
            problem "there is no Gateway $by in $with" "make one, or name yours in parentRefs in the overlay"
    fi
    [[ $name != *.example.com ]] || warning "the name $name is an example" "say under which name clients come: --host NAME"
}

# The gateway believes X-Forwarded-For from the pods' network only, and that can be another one than the usual one.
check_networks() {
    has_kind Route && answered network || return 0
    [ "$(answer trusted)" = "$(answer network)" ] ||
        warning "the pods' network is $(answer network), and the gateway trusts $(answer trusted): it would not see clients' addresses" \
            "set LLAMA_GATEWAY_SERVER_TRUSTED_PROXIES to $(answer network) in the overlay"
}

# By default the router keeps a request whose client has left, until the answer is there.
check_router() {
    has_kind Route && answered router || return 0
    [ "$(answer router)" = Abort ] ||
        warning "the router goes on with requests whose clients have left before the answer began" \
            "an administrator sets spec.closedClientConnectionPolicy: Abort in IngressController openshift-ingress-operator/default"
}

check_everything() {
    phase="it checked the cluster"
    ask_all_questions
    check_api_groups
    check_namespace
    check_rights
    check_storage
    check_nodes
    check_monitoring
    check_router
    check_networks
    check_way_in
    check_images
    check_model
    [ "$problems" = 0 ] ||
        fail checks "$problems of the checks failed, nothing was changed; hint: see to the above and run again"
}
