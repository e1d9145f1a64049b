"""Commands within the test's process."""

from stratdiff.cli import main


def run(capsys, *args):
    """(exit code, standard output, standard error) of a command."""
    try:
        code = main([str(a) for a in args])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err
