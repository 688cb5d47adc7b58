"""Really run what a contract says would falsify it.

`command.py` decides what may be started at all, `supervisor.py` is the process that starts
it within limits and ends all of it, `landlock.py` keeps its writes in, `judge.py` makes a
verdict of how it ended, and `run.py` does this for a corpus and records the evidence.
"""
