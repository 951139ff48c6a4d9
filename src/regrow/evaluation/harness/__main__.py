"""lm-eval's command line with regrow's models.

`python -m regrow.evaluation.harness run --model regrow --model_args pretrained=DIR --tasks piqa`.
lm-eval has no entry points for models, so a module must be imported that registers them.
"""

import sys

from lm_eval.__main__ import cli_evaluate

import regrow.evaluation.harness.language_model  # noqa: F401 - registers the model
from regrow.common.errors import UserError


def main() -> None:
    """Run the command line. A mistake of the user becomes one line and exit code 2."""
    try:
        cli_evaluate()
    except UserError as error:
        print(f"regrow: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
