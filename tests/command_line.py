"""Run commands of aiq in this process."""

from typer.testing import CliRunner

from aiq.cli import app

runner = CliRunner()


def run(*arguments):
    """Run a command that works, and return its output."""
    result = runner.invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result
