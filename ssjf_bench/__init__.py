"""Workloads, their replay against a running gateway, and what came of it.

A client like any other: it knows the gateway's public contract and no service.
"""
