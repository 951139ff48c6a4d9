"""How many tokens a refit reads at once."""

from hypothesis import given
from hypothesis import strategies as st

from regrow.scoring.observe import BATCH_TOKENS
from regrow.scoring.offload import BATCHES
from regrow.surgery.refitting.layer_training import STEP_TOKENS, UNSEEN
from regrow.surgery.refitting.memory import batch_tokens_of

TOKENS = st.integers(4_096, 10**8)


@given(TOKENS, st.integers(1, 8))
def test_a_step_is_as_long_with_much_text_as_with_little(tokens: int, passes: int) -> None:
    step = batch_tokens_of(tokens, passes)
    assert step <= STEP_TOKENS
    assert UNSEEN * step <= tokens
    assert step == STEP_TOKENS or tokens < UNSEEN * STEP_TOKENS


@given(TOKENS)
def test_without_a_training_there_are_few_batches(tokens: int) -> None:
    batch = batch_tokens_of(tokens, 0)
    assert batch >= BATCH_TOKENS
    assert tokens <= batch * BATCHES
