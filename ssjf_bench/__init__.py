"""Workloads and their replay against a gateway, load on a predictor, and what came of it.

A client like any other: it knows the services' contracts and no service.
"""
