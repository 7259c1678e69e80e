"""The `ssjf` command: starts the services, talks to them, shows what SSJF gains.

It knows the services by their command lines and their protos only.
"""
