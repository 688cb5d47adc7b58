"""Evidence: what was run, on what, and whether that is still what is there.

`project.py` finds the project and its settings, `fingerprint.py` hashes what a run depends
on, `record.py` is one run as data, `ledger.py` the file of runs, and `staleness.py` says
which records no longer speak of today's contract, test, code or model.
"""
