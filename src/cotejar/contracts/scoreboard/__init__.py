"""Which obligations are met, by evidence and proofs alone.

`states.py` judges each obligation, `claims.py` holds what contracts say of themselves
against that, and `render.py` writes both.
"""
