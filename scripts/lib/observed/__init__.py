"""A real Prometheus in front of real gateways: the project's rules, alerts and panels, evaluated and provoked.

Takes the manifests and the binaries; gives scripts/tests/test_observed.py what it checks.
"""
