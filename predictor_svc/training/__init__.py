"""Makes the predictor's model: collect lengths, train, evaluate, pack and export.

Needs torch and (for evaluation) scipy; nothing here is imported by the running
service.
"""
