"""Runs the pods of an overlay on one Linux machine, without a cluster: see scripts/pods."""


class Failed(Exception):
    """A step failed; `log` is the file that may tell why."""

    def __init__(self, text, log=None):
        super().__init__(text)
        self.log = log
