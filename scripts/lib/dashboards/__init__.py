"""The dashboards: what they show is said once in Python, and written for Grafana, OpenShift and plain Prometheus."""
