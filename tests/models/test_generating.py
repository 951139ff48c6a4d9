"""A prompt is continued the same way alone and among longer ones."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from regrow.architectures.bart import BART
from regrow.architectures.llama import LLAMA
from regrow.architectures.openba import OPENBA
from regrow.architectures.schema import Blueprint
from regrow.architectures.t5 import T5
from regrow.models.generating import (
    cached_bytes,
    continued,
    continued_with_cache,
    plain_config,
)
from regrow.models.loading import load_model
from tests.tiny import write_tiny

PROMPTS = [[5, 9, 12], [7, 3, 22, 14, 6, 31, 8, 10], [11]]


@pytest.mark.parametrize("blueprint", [LLAMA, T5, BART, OPENBA], ids=lambda b: b.model_type)
def test_a_batch_changes_nothing(tmp_path: Path, blueprint: Blueprint) -> None:
    """BART and Llama count positions from the beginning, where padding must not stand."""
    model = load_model(write_tiny(blueprint, tmp_path / "m"))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, each in model.named_parameters():
            if each.ndim > 1:
                each.normal_()
            else:  # random biases of norms would hide the prompt
                each.fill_(float(name.endswith("weight")))
    config = plain_config(model, 6)
    config.min_new_tokens, config.pad_token_id, config.eos_token_id = 6, 0, 1
    config.forced_eos_token_id = config.forced_bos_token_id = None
    is_seq2seq = model.config.is_encoder_decoder
    begin = (model.config.decoder_start_token_id, 4) if is_seq2seq else ()
    together = continued(model, PROMPTS, 0, begin, generation_config=config)
    assert together.shape == (3, 6)
    alone = [continued(model, [each], 0, begin, generation_config=config) for each in PROMPTS]
    assert torch.equal(together, torch.cat(alone))
    assert len({tuple(row.tolist()) for row in together}) > 1  # the prompts are read


FOREIGN: dict[str, Any] = {
    # They leave tokens out when tokens are drawn.
    "min_p": 0.9, "typical_p": 0.1, "top_h": 0.4, "epsilon_cutoff": 0.05, "eta_cutoff": 0.5,
    # They are another method, or an error.
    "num_return_sequences": 2, "penalty_alpha": 0.6, "dola_layers": "high", "stop_strings": ["x"],
    "token_healing": True, "guidance_scale": 3.0, "constraints": [1], "force_words_ids": [[5]],
    "assistant_early_exit": 1, "use_mtp": True, "cache_implementation": "offloaded",
    "watermarking_config": {"greenlist_ratio": 0.25, "bias": 9.0},
    # They end a text.
    "forced_eos_token_id": 2, "max_time": 1e-9, "exponential_decay_length_penalty": (1, 90.0),
}  # fmt: skip
"""Settings of a generation_config.json that would change a text."""


@pytest.mark.parametrize("setting", FOREIGN)
@pytest.mark.parametrize("temperature", [None, 1.0], ids=["greedy", "drawn"])
def test_settings_that_change_the_method_are_of_no_effect(
    tmp_path: Path, setting: str, temperature: float | None
) -> None:
    model = load_model(write_tiny(LLAMA, tmp_path / "m"))
    torch.manual_seed(0)
    with torch.no_grad():
        for each in model.parameters():
            each.normal_()
    own = model.generation_config = transformers.GenerationConfig(pad_token_id=0, eos_token_id=2)

    def text() -> list[int]:
        config = plain_config(model, 6)
        if temperature is not None:
            config.do_sample, config.temperature = True, temperature
            config.top_p, config.top_k = 1.0, 0
        torch.manual_seed(0)
        new: list[int] = continued(model, PROMPTS[1:2], 0, generation_config=config)[0].tolist()
        return new

    expected = text()
    setattr(own, setting, FOREIGN[setting])
    assert text() == expected
    assert model.generation_config is own
    assert getattr(own, setting) == FOREIGN[setting]


def test_a_plain_config_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    model = load_model(write_tiny(LLAMA, tmp_path / "m"))
    model.generation_config.do_sample, model.generation_config.top_p = True, 0.5
    config = plain_config(model, 7)
    assert (config.do_sample, config.top_p, config.max_new_tokens) == (False, None, 7)
    assert (model.generation_config.do_sample, model.generation_config.top_p) == (True, 0.5)


def test_the_keys_and_values_of_an_encoder_decoder_are_counted(tmp_path: Path) -> None:
    """Those of the prompt, and those of what the decoder has read: all but the last token."""
    model = load_model(write_tiny(T5, tmp_path / "m"))
    config = plain_config(model, 6)
    config.min_new_tokens, config.pad_token_id, config.eos_token_id = 6, 0, 1
    new, cache = continued_with_cache(model, PROMPTS[1:2], 0, (0,), generation_config=config)
    sizes = model.config
    read = len(PROMPTS[1]) + 1 + new.shape[1] - 1
    states = 2 * sizes.num_decoder_layers * sizes.num_heads * sizes.d_kv
    assert cached_bytes(cache) == 4 * states * read


def test_the_states_of_a_state_space_are_counted() -> None:
    config = transformers.MambaConfig(
        vocab_size=32, hidden_size=8, state_size=4, num_hidden_layers=3, conv_kernel=4, expand=2
    )
    model = transformers.MambaForCausalLM(config).eval()
    options = plain_config(model, 4)
    options.min_new_tokens, options.pad_token_id, options.eos_token_id = 4, 0, 1
    _, cache = continued_with_cache(model, PROMPTS[:1], 0, generation_config=options)
    inner = config.hidden_size * config.expand
    assert cached_bytes(cache) == 4 * 3 * inner * (config.conv_kernel + config.state_size)


def test_generation_by_a_config_gives_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(write_tiny(LLAMA, tmp_path / "m"))
    config = plain_config(model, 2)
    config.pad_token_id = 0
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    transformers.utils.logging.warning_once.cache_clear()  # it may have been said before
    with caplog.at_level("WARNING"):
        continued(model, PROMPTS[:1], 0, generation_config=config)
    assert [each.message for each in caplog.records] == []


def test_what_holds_no_layers_is_not_counted() -> None:
    assert cached_bytes(None) is None
    assert cached_bytes(((torch.zeros(2),),)) is None
