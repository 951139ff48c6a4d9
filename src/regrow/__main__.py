"""The process of the command line: `regrow`, `python -m regrow`, and so `torchrun -m regrow`."""

import signal


def main() -> None:
    """Run the command line.

    Before a command begins, and after it has ended, SIGINT ends the process at once. Python would
    print a traceback there. In between, `regrow.cli.commands` handles it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from regrow.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
