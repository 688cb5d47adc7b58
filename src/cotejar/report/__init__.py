"""One result, as text for people and as JSON for programs.

A module a result: what it holds (`inspection`, `tensor_list`, `conversion`) and its text
(`..._text`). `tables` folds text to a terminal, `json_output` keeps JSON strict, `progress`
says what is going on.
"""
