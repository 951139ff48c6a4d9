"""The helpers say what differs where an assertion fails, as the tests do."""

import pytest

pytest.register_assert_rewrite("tests.pipeline.runs", "tests.pipeline.kills")
