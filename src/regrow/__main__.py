"""`python -m regrow`, and so `torchrun -m regrow`: the command line."""

from regrow.cli import main

if __name__ == "__main__":
    main()
