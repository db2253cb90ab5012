"""Rules about images, and about what builds them on OpenShift."""
import re

from .core import GATEWAY, SERVER, annotations_of, dig, fault, name_of, rule, strings

OURS = (SERVER, GATEWAY)
# Compute capabilities of the cards in docs/customisation.md.
CAPABILITIES = {"t4": "75", "a10": "86", "a10g": "86", "l4": "89", "l40s": "89", "a100": "80", "h100": "90"}


def split(image):
    """(repository without registry and path, tag or None, digest or None)."""
    rest, _, digest = str(image).partition("@")
    last = rest.rsplit("/", 1)[-1]
    name, _, tag = last.partition(":")
    return name, tag or None, digest or None


@rule("image-pin")
def image_pin(overlay, project):
    """What is not pinned is another program tomorrow."""
    for pod, container in overlay.containers():
        _, tag, digest = split(container.raw.get("image", ""))
        if digest is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            yield fault(pod.owner, container.path + ".image", "%r is no digest" % digest, "use sha256: and 64 digits")
        elif digest is None and tag in (None, "latest"):
            yield fault(pod.owner, container.path + ".image", "%r is not pinned" % container.raw.get("image"),
                        "give it a tag other than latest, or a digest, under images: in the overlay")


@rule("image-version")
def image_version(overlay, project):
    """Manifests and images of one version belong together."""
    for pod, container in overlay.containers():
        name, tag, digest = split(container.raw.get("image", ""))
        if name in OURS and not digest and tag not in (None, "latest", project.version):
            yield fault(pod.owner, container.path + ".image", "has the tag %s, the project is %s"
                        % (tag, project.version), "set newTag under images: to the version in Cargo.toml")


@rule("image-name")
def image_name(overlay, project):
    """Only the two images of this repository run here."""
    for pod, container in overlay.containers():
        name = split(container.raw.get("image", ""))[0]
        if name not in OURS:
            yield fault(pod.owner, container.path + ".image", "%r is none of %s" % (name, " and ".join(OURS)),
                        "use one of them, or add the image to OURS in scripts/lib/lint/images.py")


@rule("image-stream")
def image_stream(overlay, project):
    """Without a local lookup policy, OpenShift looks for a stream's name on docker.io."""
    for stream in overlay.of("ImageStream"):
        if dig(stream, "spec.lookupPolicy.local") is not True:
            yield fault(stream, "spec.lookupPolicy.local", "is not true", "set it to true")


@rule("build-output")
def build_output(overlay, project):
    """What a build puts elsewhere is not what the Deployments run."""
    for build in overlay.of("BuildConfig"):
        kind, target = dig(build, "spec.output.to.kind"), str(dig(build, "spec.output.to.name", ""))
        stream, _, tag = target.partition(":")
        if kind != "ImageStreamTag" or not overlay.get("ImageStream", stream) or tag != project.version:
            yield fault(build, "spec.output.to", "%s %r is no ImageStream of this set with the tag %s"
                        % (kind, target, project.version), "name a stream, with the version in Cargo.toml for the tag")


@rule("build-file")
def build_file(overlay, project):
    """The build finds its Containerfile only when it runs, minutes into a deployment."""
    for build in overlay.of("BuildConfig"):
        path = dig(build, "spec.strategy.dockerStrategy.dockerfilePath")
        place = project.root / str(dig(build, "spec.source.contextDir", ".")) / str(path)
        if not path or not place.is_file():
            yield fault(build, "spec.strategy.dockerStrategy.dockerfilePath", "there is no file %r" % path,
                        "name a Containerfile of this repository, from its root")
        if name_of(build) not in OURS:
            yield fault(build, "metadata.name", "builds none of %s" % " and ".join(OURS), "name it like its image")


@rule("build-card")
def build_card(overlay, project):
    """An image without kernels for the card ends at the first request, after the build and the load."""
    build, pod = overlay.get("BuildConfig", SERVER), overlay.pod(SERVER)
    if not build or not pod:
        return
    default = re.search(r"^ARG CUDA_ARCHITECTURES=(\S+)", project.read("server-image/Containerfile"), re.MULTILINE)
    found = {entry.get("name"): str(entry.get("value"))
             for entry in dig(build, "spec.strategy.dockerStrategy.buildArgs", [])}
    architectures = found.get("CUDA_ARCHITECTURES", default.group(1))
    # Labels are like Tesla-T4 and NVIDIA-A100-SXM4-80GB.
    labels = {text for _, text in strings(dig(pod.spec, "affinity.nodeAffinity", {}))}
    wanted = {CAPABILITIES[word] for text in labels for word in text.lower().split("-") if word in CAPABILITIES}
    missing = sorted(wanted - set(re.findall(r"\d+", architectures)))
    if missing:
        yield fault(build, "spec.strategy.dockerStrategy.buildArgs", "CUDA_ARCHITECTURES is %s, the card needs %s"
                    % (architectures, " and ".join(missing)), "set it to %s-real (docs/customisation.md)" % missing[0])


@rule("image-trigger")
def image_trigger(overlay, project):
    """A trigger restarts llama-server, which then loads its model for minutes, and the next apply undoes its change."""
    for pod in overlay.pods:
        if "image.openshift.io/triggers" in annotations_of(pod.owner):
            yield fault(pod.owner, "metadata.annotations[image.openshift.io/triggers]", "changes the image by itself",
                        "remove it: images are pinned by images: in the overlay")
