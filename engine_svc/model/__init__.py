"""The language model: its configuration, its weights, one file a family.

It knows no sequence, no request and no batch; `runner` calls it with packed tokens and an
attention to use.
"""
