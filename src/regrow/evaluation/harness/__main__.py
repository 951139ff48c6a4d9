"""lm-eval's command line with regrow's models.

`python -m regrow.evaluation.harness run --model regrow --model_args pretrained=DIR --tasks piqa`.
lm-eval has no entry points for models, so a module must be imported that registers them.
"""

from lm_eval.__main__ import cli_evaluate

import regrow.evaluation.harness.language_model  # noqa: F401 - registers the model

if __name__ == "__main__":
    cli_evaluate()
