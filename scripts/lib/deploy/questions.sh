# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # the parts use each other's names; deploy.sh is checked with all of them
# What the checks ask the cluster. Sourced by scripts/deploy.sh.
#
# A cluster far away takes part of a second for each answer, so all questions are asked at the same time. The answers
# are files in $work/answers; there is none to a question that failed, mostly since one may not ask it.

inquire() { # answer's name, command...
    local answer=$work/answers/$1
    shift
    { "$@" >"$answer" 2>/dev/null || rm "$answer"; } &
}

answered() { [ -e "$work/answers/$1" ]; }

answer() { # name: nothing if there is none
    ! answered "$1" || cat "$work/answers/$1"
}

ask_all_questions() {
    mkdir -p "$work/answers" "$work/rights"
    inquire namespace "$OC" get namespace "$namespace" --ignore-not-found -o 'jsonpath={.status.phase}'
    inquire may-make-namespace "$OC" auth can-i create namespaces
    inquire may-change-namespace "$OC" auth can-i patch "namespaces/$namespace"
    ask_for_rights
    ask_about_volumes
    ask_about_nodes
    ask_about_openshift
    ask_about_the_way_in
    inquire live-model cli get configmap "$server-config" --ignore-not-found -o 'jsonpath={.data.MODEL_REPO} {.data.QUANT_TYPE}'
    wait
}

declare -rA resources=(
    [PersistentVolumeClaim]=persistentvolumeclaims [ConfigMap]=configmaps [Secret]=secrets [Service]=services
    [ServiceAccount]=serviceaccounts [Deployment]=deployments.apps [Job]=jobs.batch
    [NetworkPolicy]=networkpolicies.networking.k8s.io [Ingress]=ingresses.networking.k8s.io
    [PodDisruptionBudget]=poddisruptionbudgets.policy [Route]=routes.route.openshift.io
    [ImageStream]=imagestreams.image.openshift.io [BuildConfig]=buildconfigs.build.openshift.io
    [ServiceMonitor]=servicemonitors.monitoring.coreos.com [PrometheusRule]=prometheusrules.monitoring.coreos.com
    [HTTPRoute]=httproutes.gateway.networking.k8s.io
)

# Lines of "verb resource [subresource]": what this run is about to ask for. A server-side apply is a PATCH.
needed_rights() {
    local kind
    while read -r kind; do
        [ -z "${resources[$kind]:-}" ] || echo "patch ${resources[$kind]}"
    done < <(awk '$2 != "Namespace" { print $2 }' "$work/inventory" | sort -u)
    printf '%s\n' 'create secrets' 'create pods exec' 'get pods log' 'list events'
    ! has_kind BuildConfig || echo 'create buildconfigs.build.openshift.io instantiatebinary'
}

# The answer is "yes", or "no" and a reason, which is an exit code of 1.
ask_for_rights() {
    local verb resource subresource
    while read -r verb resource subresource; do
        cli auth can-i "$verb" "$resource" ${subresource:+"--subresource=$subresource"} \
            >"$work/rights/$verb $resource${subresource:+:$subresource}" 2>/dev/null &
    done < <(needed_rights)
}

# Lines of "claim|class|mode|size|capacity" of what is there and of what is wanted, and "class|default|grows|provisioner".
ask_about_volumes() {
    local claim='{.metadata.name}|{.spec.storageClassName}|{.spec.accessModes[0]}|{.spec.resources.requests.storage}|{.status.capacity.storage}{"\n"}'
    inquire claims cli get persistentvolumeclaims -o "jsonpath={range .items[*]}$claim{end}"
    inquire wanted-claims rendered_kind PersistentVolumeClaim "$claim"
    inquire storage-classes "$OC" get storageclasses -o 'jsonpath={range .items[*]}{.metadata.name}|{.metadata.annotations.storageclass\.kubernetes\.io/is-default-class}|{.allowVolumeExpansion}|{.provisioner}{"\n"}{end}'
}

# Lines of "node|product|ready|unschedulable|memory|cpu|gpus", and one of what llama-server's pod needs:
# "products|gpus|memory|memory of init containers|cpu|cpu of init containers", each for all containers.
ask_about_nodes() {
    local pod='.spec.template.spec'
    local terms="$pod.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[*]"
    inquire nodes "$OC" get nodes -o 'jsonpath={range .items[*]}{.metadata.name}|{.metadata.labels.nvidia\.com/gpu\.product}|{.status.conditions[?(@.type=="Ready")].status}|{.spec.unschedulable}|{.status.allocatable.memory}|{.status.allocatable.cpu}|{.status.allocatable.nvidia\.com/gpu}{"\n"}{end}'
    inquire needs rendered Deployment "$server" "{$terms.matchExpressions[?(@.key==\"nvidia.com/gpu.product\")].values[*]}|{$pod.containers[*].resources.limits.nvidia\.com/gpu}|{$pod.containers[*].resources.requests.memory}|{$pod.initContainers[*].resources.requests.memory}|{$pod.containers[*].resources.requests.cpu}|{$pod.initContainers[*].resources.requests.cpu}"
}

# What only an administrator of the cluster sets.
ask_about_openshift() {
    is_openshift || return 0
    inquire monitoring "$OC" -n openshift-monitoring get configmap cluster-monitoring-config --ignore-not-found \
        -o 'jsonpath={.data.config\.yaml}'
    inquire router "$OC" -n openshift-ingress-operator get ingresscontroller default \
        -o 'jsonpath={.spec.closedClientConnectionPolicy}'
    inquire network "$OC" get networks.config.openshift.io cluster -o 'jsonpath={.spec.clusterNetwork[0].cidr}'
    inquire trusted rendered Deployment "$gateway" \
        '{.spec.template.spec.containers[0].env[?(@.name=="LLAMA_GATEWAY_SERVER_TRUSTED_PROXIES")].value}'
    inquire registry "$OC" get configs.imageregistry.operator.openshift.io cluster -o 'jsonpath={.spec.managementState}'
    inquire images list_images
    inquire can-build "$OC" start-build --help
}

# Lines of "class|secret|host" of an Ingress, or "gateway|its namespace|host" of an HTTPRoute.
ask_about_the_way_in() {
    if has_kind Ingress; then
        inquire way-in rendered Ingress "$server" '{.spec.ingressClassName}|{.spec.tls[0].secretName}|{.spec.rules[0].host}'
    elif has_kind HTTPRoute; then
        inquire way-in rendered HTTPRoute "$server" \
            '{.spec.parentRefs[0].name}|{.spec.parentRefs[0].namespace}|{.spec.hostnames[0]}'
    fi
}
