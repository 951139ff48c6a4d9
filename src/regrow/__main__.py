"""`python -m regrow`, and so `torchrun -m regrow`: the command line."""

from regrow.cli.app import main

if __name__ == "__main__":
    main()
