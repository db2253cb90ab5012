"""The lint of the manifests: what the schemas of Kubernetes cannot see. `command` is where it starts."""
