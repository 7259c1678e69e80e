"""`ssjf predictor …`: from prompts to a served model.

Owns the sub-app: which command lives in which module. Each command imports what it needs
when it runs, so that `ssjf --help` stays quick.
"""

from __future__ import annotations

import typer

from ssjf_cli.predictor_data import collect, convert
from ssjf_cli.predictor_evaluate import evaluate
from ssjf_cli.predictor_export import export
from ssjf_cli.predictor_train import recipes, train

app = typer.Typer(no_args_is_help=True)
for command in (collect, convert, recipes, train, evaluate, export):
    app.command()(command)


@app.callback()
def predictor() -> None:
    """The length predictor's model: data, training, evaluation, export."""
