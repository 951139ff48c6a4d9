import copy
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.evaluation.generation import (
    generate,
    generate_or_stop,
    generate_text,
    seconds_per_token,
)
from tests.tiny import add_tokenizer
from tests.training.small import EOS, FAMILIES, byte_tokenizer, small_model

TEMPLATE = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"


def by_hand(model: Any, prompt: str, count: int) -> str:
    """Greedy decoding without a cache."""
    tokenizer = byte_tokenizer()
    ids = tokenizer(prompt)["input_ids"]
    new: list[int] = []
    for _ in range(count):
        with torch.no_grad():
            token = int(model(torch.tensor([ids + new])).logits[0, -1].argmax())
        if token == EOS:
            break
        new.append(token)
    text: str = tokenizer.decode(new, skip_special_tokens=True)
    return text


@pytest.mark.parametrize("family", FAMILIES)
def test_it_writes_the_likeliest_tokens(family: str) -> None:
    model = small_model(family)
    # What these say of sampling is of no effect, and of no warning.
    model.generation_config.do_sample = True
    model.generation_config.temperature = 9.0
    model.generation_config.top_p = 0.5
    before = copy.deepcopy(model.generation_config)
    model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = generate(model, byte_tokenizer(), "the cat", 12)
    assert model.training
    assert model.generation_config.to_dict() == before.to_dict()
    assert text == by_hand(model.eval(), "the cat", 12)


def test_suppressed_tokens_stay_suppressed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("llama")
    written = _record(monkeypatch, model)
    generate(model, byte_tokenizer(), "the cat", 4)
    model.generation_config.suppress_tokens = written[0]
    generate(model, byte_tokenizer(), "the cat", 4)
    assert len(written[1]) == 4
    assert not set(written[0]) & set(written[1])


def test_a_prompt_is_a_turn_where_there_is_a_template() -> None:
    model = small_model("llama")
    chatty = copy.deepcopy(byte_tokenizer())
    chatty.chat_template = TEMPLATE
    in_turn = by_hand(model, "[user]hi[assistant]", 8)
    plain = by_hand(model, "hi", 8)
    assert in_turn != plain
    assert generate(model, chatty, "hi", 8) == in_turn
    assert generate(model, chatty, "hi", 8, chat=True) == in_turn
    assert generate(model, chatty, "hi", 8, chat=False) == plain
    assert generate(model, byte_tokenizer(), "hi", 8) == plain


def test_what_cannot_be_asked_is_refused() -> None:
    model = small_model("llama")
    with pytest.raises(UserError, match="no chat_template"):
        generate(model, byte_tokenizer(), "hi", 8, chat=True)
    with pytest.raises(UserError, match="no token"):
        generate(model, byte_tokenizer(), "", 8)


def test_the_speed_is_over_all_tokens_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("llama")
    # Many tokens would end the text, were they not kept from it.
    model.generation_config.eos_token_id = list(range(100))
    written = _record(monkeypatch, model)
    seconds = seconds_per_token(model, byte_tokenizer(), "hi", 9)
    assert [len(tokens) for tokens in written] == [9]
    assert 0 < seconds < math.inf


def test_a_text_that_stops_before_its_end_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("llama")
    written = _record(monkeypatch, model)
    text, stopped = generate_or_stop(model, byte_tokenizer(), "the cat", 4)
    assert stopped
    assert text == generate(model, byte_tokenizer(), "the cat", 4)
    # The same text, whose last token now is the end.
    model.generation_config.eos_token_id = [EOS, written[0][-1]]
    assert not generate_or_stop(model, byte_tokenizer(), "the cat", 4)[1]
    assert len(written[-1]) <= 4


def _record(monkeypatch: pytest.MonkeyPatch, model: Any) -> list[list[int]]:
    """The new tokens of each call of the model's own ``generate``."""
    written: list[list[int]] = []
    real = model.generate

    def recording(*args: Any, **options: Any) -> Any:
        output = real(*args, **options)
        written.append(output.sequences[0, options["input_ids"].shape[1] :].tolist())
        return output

    monkeypatch.setattr(model, "generate", recording)
    return written


def test_a_text_ends_where_positions_do(tmp_path: Path) -> None:
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 24}
    config = transformers.GPT2Config(vocab_size=340, bos_token_id=1, eos_token_id=None, **sizes)
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "m")
    add_tokenizer(tmp_path / "m")
    source = ModelDirectory(tmp_path / "m")
    prompt = source.tokenizer("the river")["input_ids"]
    left = 24 - len(prompt)
    assert generate_text(source, "the river", left)
    with pytest.raises(UserError, match=rf"max_new_tokens {left + 1}: .* give at most {left}$"):
        generate_text(source, "the river", left + 1)
    # The answers of a run stop there.
    text, stopped = generate_or_stop(model.eval(), source.tokenizer, "the river", 99)
    assert text
    assert stopped
    with pytest.raises(UserError, match=r"the prompt is \d+ tokens, and the model knows 24 posit"):
        generate_text(source, "the river " * 24, 1)
