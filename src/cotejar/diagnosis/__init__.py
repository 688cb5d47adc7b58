"""Who is wrong, where and why: replay, arithmetic ladder, hypotheses, reproduction."""
