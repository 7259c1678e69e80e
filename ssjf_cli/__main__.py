"""`python -m ssjf_cli`: the same as the `ssjf` command."""

from ssjf_cli.main import main

main()
