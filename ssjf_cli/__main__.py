"""`python -m ssjf_cli`: the same as the `ssjf` command."""

from ssjf_cli.main import main

# Processes that a benchmark starts import this module again.
if __name__ == "__main__":
    main()
