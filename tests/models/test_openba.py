"""The network of OpenBA against a plain one, and against itself in all the ways it is used."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForSeq2SeqLM,
    DynamicCache,
    EncoderDecoderCache,
    StaticCache,
)
from transformers.masking_utils import flash_attention_mask

from regrow.models.openba import OpenBAConfig, OpenBAForConditionalGeneration
from tests.models import reference_openba

VOCAB = 61
PUBLISHED: dict[str, Any] = {"tie_word_embeddings": False}
TIED: dict[str, Any] = {
    "tie_word_embeddings": True, "add_qkv_bias": False, "add_ffn_bias": True,
    "add_lm_head_bias": False,
}  # fmt: skip
SOURCE_LENGTHS, TARGET_LENGTHS = (9, 5, 7), (6, 4, 1)


def make(attention: str = "sdpa", seed: int = 0, **changes: Any) -> Any:
    """A model with all parameters drawn at random, norms and biases too."""
    config = OpenBAConfig(
        vocab_size=VOCAB, hidden_size=24, kv_channels=10, ffn_hidden_size=300, num_heads=4,
        num_layers=2, num_decoder_layers=3, **{**PUBLISHED, **changes},
    )  # fmt: skip
    config._attn_implementation = attention
    model = OpenBAForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.2, generator=generator)
            if "norm.weight" in name:
                parameter.add_(1)
    return model.eval()


def ids(length: int, seed: int) -> Tensor:
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(seed))


def pairs() -> list[tuple[Tensor, Tensor]]:
    return [
        (ids(source, i), torch.cat([torch.zeros(1, dtype=torch.long), ids(target - 1, 50 + i)]))
        for i, (source, target) in enumerate(zip(SOURCE_LENGTHS, TARGET_LENGTHS, strict=True))
    ]


def padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """Ids and mask, [batch, longest]."""
    longest = max(map(len, rows))
    batch = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(batch)
    for row, values in enumerate(rows):
        at = slice(0, len(values)) if side == "right" else slice(longest - len(values), None)
        batch[row, at], mask[row, at] = values, 1
    return batch, mask


def cache_of(output: Any) -> Any:
    return output["cache"] if "cache" in output else output["past_key_values"]


def close(found: Tensor, expected: Tensor, bound: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)


# --- against the plain network -----------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("changes", [PUBLISHED, TIED], ids=["published", "tied"])
@torch.no_grad()
def test_logits_are_those_of_the_plain_network(changes: dict[str, Any], attention: str) -> None:
    model = make(attention, **changes)
    weights = model.state_dict()
    source, mask = padded([pair[0] for pair in pairs()], "right")
    target, _ = padded([pair[1] for pair in pairs()], "right")
    found = model(input_ids=source, attention_mask=mask, decoder_input_ids=target).logits
    for row in range(len(source)):
        expected = reference_openba.logits(
            model.config, weights, source[row], mask[row], target[row]
        )
        assert expected.abs().max() > 0.2
        close(found[row], expected)


@torch.no_grad()
def test_positions_beyond_those_of_the_training() -> None:
    model = make(max_seq_length=1_024, decoder_max_seq_length=1_024)
    source, target = ids(1_100, 1), ids(1_060, 2)
    found = model(input_ids=source[None], decoder_input_ids=target[None]).logits[0]
    expected = reference_openba.logits(
        model.config, model.state_dict(), source, torch.ones_like(source), target
    )
    close(found, expected, 5e-5)
    moved = model(input_ids=source.roll(1)[None], decoder_input_ids=target[None]).logits[0]
    assert (moved - found).abs().max() > 1e-3


def test_each_flag_makes_its_biases_and_no_others() -> None:
    names = {name for name, _ in make(**TIED).named_parameters() if name.endswith(".bias")}
    assert {name.split(".")[-2] for name in names if "norm" not in name} == {"fc_in", "fc_out"}
    names = {name for name, _ in make().named_parameters() if name.endswith(".bias")}
    assert {name.split(".")[-2] for name in names if "norm" not in name} == {
        "qkv", "q", "kv", "o", "lm_head",
    }  # fmt: skip


@pytest.mark.parametrize(("field", "size"), [(16_384, 11_008), (10_240, 6_912), (384, 256)])
def test_effective_size_of_the_ffn(field: int, size: int) -> None:
    assert OpenBAConfig(ffn_hidden_size=field).ffn_size == size


# --- padding, caches, generation ---------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_padding_changes_nothing(side: str, attention: str) -> None:
    model = make(attention)
    source, mask = padded([pair[0] for pair in pairs()], side)
    target, target_mask = padded([pair[1] for pair in pairs()], side)
    found = model(
        input_ids=source, attention_mask=mask, decoder_input_ids=target,
        decoder_attention_mask=target_mask,
    ).logits  # fmt: skip
    assert torch.isfinite(found).all()
    for row, (alone, its_target) in enumerate(pairs()):
        expected = model(input_ids=alone[None], decoder_input_ids=its_target[None]).logits[0]
        close(found[row][target_mask[row].bool()], expected)
        unmasked = model(input_ids=source[row : row + 1], decoder_input_ids=its_target[None])
        assert (unmasked.logits[0] - expected).abs().max() > 1e-3 or mask[row].all()


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@torch.no_grad()
def test_one_token_at_a_time_equals_all_at_once(kind: str) -> None:
    model = make()
    source, mask = padded([pair[0] for pair in pairs()], "left")
    target = torch.stack([ids(8, 90 + i) for i in range(len(source))])
    whole = model(
        input_ids=source, attention_mask=mask, decoder_input_ids=target, use_cache=False
    )  # fmt: skip
    assert cache_of({"cache": None, **whole}) is None
    if kind == "dynamic":
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    else:
        cache = EncoderDecoderCache(
            StaticCache(config=model.config, max_cache_len=8),
            StaticCache(config=model.config, max_cache_len=source.shape[1]),
        )
    encoded = model.get_encoder()(input_ids=source, attention_mask=mask)
    first = 0
    for size in (3, 1, 1, 2, 1):
        output = model(
            encoder_outputs=encoded, attention_mask=mask, past_key_values=cache,
            decoder_input_ids=target[:, first : first + size], use_cache=True,
        )  # fmt: skip
        close(output.logits, whole.logits[:, first : first + size])
        assert cache_of(output) is cache
        first += size


@torch.no_grad()
def test_the_source_is_read_once() -> None:
    """Keys and values of the cross-attention come from the cache after the first step."""
    model = make()
    calls: list[int] = []
    for block in model.decoder.block:
        block.inter_attn.kv.register_forward_hook(lambda *_: calls.append(1))
    model.generate(input_ids=ids(5, 0)[None], min_new_tokens=6, max_new_tokens=6)
    assert len(calls) == len(model.decoder.block)


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "top_k": 20},
    "beams and samples": {"num_beams": 2, "do_sample": True, "num_return_sequences": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_generation_is_the_same_with_every_cache(way: str) -> None:
    model = make()
    source, mask = padded([pair[0] for pair in pairs()], "right")

    def run(rows: slice = slice(None), **options: Any) -> Tensor:
        torch.manual_seed(3)
        found: Tensor = model.generate(
            input_ids=source[rows], attention_mask=mask[rows], max_new_tokens=12, **WAYS[way],
            **options,
        )  # fmt: skip
        return found

    expected = run(use_cache=False)
    assert expected.shape[0] == len(source) * WAYS[way].get("num_return_sequences", 1)
    assert (expected[:, 0] == 0).all()
    assert len(set(expected.flatten().tolist())) > 4
    assert torch.equal(run(), expected)
    assert torch.equal(run(cache_implementation="static"), expected)
    if "do_sample" not in WAYS[way]:
        for row in range(len(source)):
            alone = run(slice(row, row + 1))[0]
            assert torch.equal(expected[row, : len(alone)], alone)
            assert (expected[row, len(alone) :] == 0).all()


@torch.no_grad()
def test_greedy_generation_is_that_of_the_plain_network() -> None:
    model = make()
    source = ids(9, 4)
    found = model.generate(input_ids=source[None], max_new_tokens=10, min_new_tokens=10)[0]
    tokens = [0]
    for _ in range(10):
        row = reference_openba.logits(
            model.config, model.state_dict(), source, torch.ones(9), torch.tensor(tokens)
        )[-1]
        row[model.config.eos_token_id] = -torch.inf
        tokens.append(int(row.argmax()))
    assert found.tolist() == tokens


@torch.no_grad()
def test_a_prompt_of_the_decoder_is_continued() -> None:
    model = make()
    target, target_mask = padded([pair[1] for pair in pairs()], "left")
    source, mask = padded([pair[0] for pair in pairs()], "right")
    found = model.generate(
        input_ids=source, attention_mask=mask, decoder_input_ids=target,
        decoder_attention_mask=target_mask, min_new_tokens=5, max_new_tokens=5,
    )  # fmt: skip
    assert torch.equal(found[:, : target.shape[1]], target)
    for row, (alone, its_target) in enumerate(pairs()):
        expected = model.generate(
            input_ids=alone[None], decoder_input_ids=its_target[None],
            min_new_tokens=5, max_new_tokens=5,
        )  # fmt: skip
        assert torch.equal(found[row, target.shape[1] :], expected[0, len(its_target) :])


def keys_masked(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *,
    scaling: float, dropout: float, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """What flash attention computes from what it is given: a mask of the keys, and a flag."""
    assert dropout == 0
    queries, keys = query.shape[2], key.shape[2]
    seen = torch.ones(queries, keys, dtype=torch.bool)
    if module.is_causal:
        seen = seen.tril(keys - queries)
    seen = seen.expand(len(query), 1, queries, keys)
    if mask is not None:
        assert mask.shape == (len(query), keys)
        seen = seen & mask[:, None, None].bool()
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~seen, -1e9)
    return (scores.softmax(-1) @ value).transpose(1, 2), None


@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_flash_attention_gets_what_it_needs(side: str) -> None:
    AttentionInterface.register("keys_masked", keys_masked)
    AttentionMaskInterface.register("keys_masked", flash_attention_mask)
    model, flash = make(), make("keys_masked")
    assert flash._supports_flash_attn
    source, mask = padded([pair[0] for pair in pairs()], side)
    target, target_mask = padded([pair[1] for pair in pairs()], side)
    inputs = {
        "input_ids": source, "attention_mask": mask, "decoder_input_ids": target,
        "decoder_attention_mask": target_mask,
    }  # fmt: skip
    real = target_mask.bool()
    close(flash(**inputs).logits[real], model(**inputs).logits[real])
    found, expected = (
        each.generate(input_ids=source, attention_mask=mask, max_new_tokens=8)
        for each in (flash, model)
    )
    assert torch.equal(found, expected)


# --- training ----------------------------------------------------------------------------------


@torch.no_grad()
def test_loss_is_the_mean_cross_entropy_of_the_labels() -> None:
    model = make()
    source, mask = padded([pair[0] for pair in pairs()], "right")
    labels = torch.stack([ids(6, 30 + i) for i in range(len(source))])
    labels[0, 4:], labels[2, 2] = -100, -100
    output = model(input_ids=source, attention_mask=mask, labels=labels)
    decoder_input = torch.zeros_like(labels)
    decoder_input[:, 1:] = labels[:, :-1].clamp(min=0)  # pad and start are both 0
    expected = []
    for row in range(len(source)):
        values = reference_openba.logits(
            model.config, model.state_dict(), source[row], mask[row], decoder_input[row]
        ).log_softmax(1)
        expected += [-values[i, t] for i, t in enumerate(labels[row].tolist()) if t != -100]
    close(output.loss, torch.stack(expected).mean())
    again = model(
        input_ids=source, attention_mask=mask, labels=labels, decoder_input_ids=decoder_input,
        num_items_in_batch=torch.tensor(7),
    )  # fmt: skip
    close(again.loss, torch.stack(expected).sum() / 7)


@pytest.mark.parametrize("changes", [PUBLISHED, TIED], ids=["published", "tied"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(
    changes: dict[str, Any], reentrant: bool
) -> None:
    source, mask = padded([pair[0] for pair in pairs()], "right")
    labels = torch.stack([ids(6, 30 + i) for i in range(len(source))])

    def gradients(checkpointing: bool) -> tuple[dict[str, Tensor], int]:
        model = make(**changes).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        calls: list[int] = []
        model.decoder.block[0].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
        model(input_ids=source, attention_mask=mask, labels=labels).loss.backward()
        return {name: p.grad for name, p in model.named_parameters()}, len(calls)

    expected, once = gradients(False)
    found, twice = gradients(True)
    assert (once, twice) == (1, 2)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        close(found[name], gradient, 1e-6)


def test_dropout_only_in_training() -> None:
    model = make(hidden_dropout=0.5, attention_dropout=0.5)
    inputs = {"input_ids": ids(5, 0)[None], "decoder_input_ids": ids(4, 1)[None]}
    assert torch.equal(model(**inputs).logits, make()(**inputs).logits)
    model.train()
    assert not torch.equal(model(**inputs).logits, model(**inputs).logits)


# --- weights -----------------------------------------------------------------------------------


def published_names(encoder: int, decoder: int) -> set[str]:
    """What a published checkpoint of so many layers holds."""
    names = {"shared_embedding.weight", "lm_head.weight", "lm_head.bias"}
    for stack, layers in (("encoder", encoder), ("decoder", decoder)):
        norms = ["input_layernorm", "post_attn_layernorm"]
        linears = ["self_attn.qkv", "self_attn.o"]
        if stack == "decoder":
            norms.append("post_inter_attn_layernorm")
            linears += ["inter_attn.q", "inter_attn.kv", "inter_attn.o"]
        names |= {f"{stack}.final_layernorm.{part}" for part in ("weight", "bias")}
        for i in range(layers):
            block = f"{stack}.block.{i}"
            for module in (*norms, *linears):
                names |= {f"{block}.{module}.{part}" for part in ("weight", "bias")}
            names |= {f"{block}.mlp.fc_in.weight", f"{block}.mlp.fc_out.weight"}
    return names


def logits_of(model: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(
            input_ids=ids(5, 0)[None], decoder_input_ids=ids(4, 1)[None]
        ).logits  # fmt: skip
    return logits


@pytest.mark.parametrize("changes", [PUBLISHED, TIED], ids=["published", "tied"])
def test_saved_and_loaded_with_the_published_names(changes: dict[str, Any], tmp_path: Path) -> None:
    model = make(**changes)
    model.save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    if changes is PUBLISHED:
        assert names == published_names(2, 3)
    else:
        assert "lm_head.weight" not in names
    loaded, report = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert isinstance(loaded, OpenBAForConditionalGeneration)
    assert (loaded.lm_head.weight is loaded.shared_embedding.weight) == (changes is TIED)
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_files_may_list_the_embedding_three_times(tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for stack in ("encoder", "decoder"):
        tensors[f"{stack}.embed_tokens.weight"] = tensors["shared_embedding.weight"].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    loaded, report = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_config_file_without_the_flag_is_of_a_tied_model() -> None:
    """The published code wrote the flag only where it was false."""
    assert OpenBAConfig.from_dict({}).tie_word_embeddings
    config = OpenBAConfig(num_layers=3, **PUBLISHED)
    again = OpenBAConfig.from_dict(config.to_diff_dict())
    assert (again.num_decoder_layers, again.tie_word_embeddings) == (3, False)


def test_state_dict_and_deepcopy() -> None:
    model, other = make(), make(seed=1)
    before = logits_of(model)
    twin = copy.deepcopy(model)
    assert not torch.equal(logits_of(other), before)
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits_of(other), before)
    with torch.no_grad():
        model.shared_embedding.weight.zero_()
    assert not torch.equal(logits_of(model), before)
    assert torch.equal(logits_of(twin), before)
    with torch.no_grad():
        twin.shared_embedding.weight.zero_()
    assert torch.equal(logits_of(twin), logits_of(model))


def test_built_on_the_meta_device() -> None:
    model = make()
    with torch.device("meta"):
        empty = OpenBAForConditionalGeneration(model.config)
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert not list(empty.buffers())
    empty.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(logits_of(empty.eval()), logits_of(model))


def test_a_module_put_in_place_of_the_embedding_is_read() -> None:
    """As adapters and quantisers do."""
    model = make()

    class Negative(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, tokens: Tensor) -> Tensor:
            states: Tensor = -self.inner(tokens)
            return states

    expected = make()
    with torch.no_grad():
        expected.shared_embedding.weight.neg_()
    model.shared_embedding = Negative(model.shared_embedding)
    assert torch.equal(logits_of(model), logits_of(expected))


@pytest.mark.parametrize("changes", [PUBLISHED, TIED], ids=["published", "tied"])
@pytest.mark.parametrize("size", [50, 70])
def test_resized_vocabulary(changes: dict[str, Any], size: int) -> None:
    model = make(**changes)
    kept = min(size, VOCAB)
    tokens = {"input_ids": torch.tensor([[3, 7, 9]]), "decoder_input_ids": torch.tensor([[0, 4]])}
    before = model(**tokens).logits
    model.resize_token_embeddings(size, mean_resizing=False)
    after = model(**tokens).logits
    assert after.shape[-1] == model.config.vocab_size == size
    close(after[..., :kept], before[..., :kept])
    assert (model.lm_head.weight is model.shared_embedding.weight) == (changes is TIED)
    if size > VOCAB:
        model(input_ids=torch.tensor([[size - 1]]), decoder_input_ids=torch.tensor([[size - 1]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = make()
    expected = logits_of(model)
    low = model.to(dtype)
    found = logits_of(low)
    assert found.dtype == dtype
    error = (found.float() - expected).abs().max() / expected.abs().max()
    assert 0 < error < {torch.float16: 0.01, torch.bfloat16: 0.08}[dtype]
    assert low.generate(input_ids=ids(5, 0)[None], max_new_tokens=4).shape[1] > 1


def test_outputs_by_name_and_as_a_tuple() -> None:
    model = make("eager")
    inputs = {"input_ids": ids(5, 0)[None], "decoder_input_ids": ids(4, 1)[None]}
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert [len(output.encoder_hidden_states), len(output.decoder_hidden_states)] == [3, 4]
    assert torch.equal(
        output.encoder_hidden_states[0][0], model.shared_embedding(inputs["input_ids"])[0]
    )
    assert [tuple(a.shape) for a in output.encoder_attentions] == [(1, 4, 5, 5)] * 2
    assert [tuple(a.shape) for a in output.decoder_attentions] == [(1, 4, 4, 4)] * 3
    assert [tuple(a.shape) for a in output.cross_attentions] == [(1, 4, 4, 5)] * 3
    assert torch.equal(model(**inputs, return_dict=False)[0], output.logits)
    assert model(**inputs, logits_to_keep=1).logits.shape == (1, 1, VOCAB)


def test_a_decoder_without_an_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="encoder_hidden_states"):
        make().decoder(input_ids=ids(4, 0)[None])
