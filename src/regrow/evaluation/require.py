"""Whether lm-eval is installed."""

import importlib.util

from regrow.common.errors import UserError


def require_lm_eval() -> None:
    """Raise UserError if lm-eval is not installed. It is not imported."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("lm-eval is not installed; pip install 'regrow[eval]'")
