"""Tokens per second of OpenBA on a CPU, compared with attention as in the published code.

The peer is a plain implementation with the same weights. It caches the keys and values of the
target, and computes those of the source again for each token. Its attention scores are in float32,
and its masks are dense and added. Both generate greedily from the same right-padded sources, and
must give the same tokens. They take turns; values are medians. Weights and products are float32.

Memory is the peak of the resident set while generating, minus the resident set before.
"""

import argparse
import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from common import Goal, Result, parser, say, show
from torch import Tensor, nn

from regrow.models.loading import load_model
from regrow.models.networks import config_class, model_class

PEER = "the published attention"
MASKED = -10_000.0
BATCHES = (1, 16)
CACHES = ("dynamic", "static")


@dataclass(frozen=True)
class Scale:
    """Sizes of the random model, and how much it generates."""

    hidden: int
    encoder_layers: int
    decoder_layers: int
    source: int
    tokens: int
    repeats: int


FULL = Scale(512, 4, 12, 256, 128, 5)
QUICK = Scale(256, 2, 6, 64, 24, 3)
HEAD_SIZE = 64
VOCABULARY = 12_160


def random_model(scale: Scale) -> Any:
    """OpenBA's shape, with weights drawn at random."""
    heads = scale.hidden // HEAD_SIZE
    config = config_class("openba")(
        vocab_size=VOCABULARY, hidden_size=scale.hidden, kv_channels=HEAD_SIZE, num_heads=heads,
        ffn_hidden_size=4 * scale.hidden, num_layers=scale.encoder_layers,
        num_decoder_layers=scale.decoder_layers, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = model_class("OpenBAForConditionalGeneration")(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.05)  # with less, all sources give the same tokens
    return model


# --- the peer ----------------------------------------------------------------------------------


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Apply rotary positions [length] to x [batch, length, heads, size]."""
    size = x.shape[-1]
    rates = 1.0 / 10_000 ** (torch.arange(0, size, 2).float() / size)
    angles = (positions.float()[:, None] * rates)[None, :, None]
    low, high = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention, [batch, queries, heads * size].

    `query`, `key`, `value`: [batch, length, heads, size]. `mask`: [batch, 1, queries, keys], 0 or
    `MASKED`.
    """
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key).float() / query.shape[-1] ** 0.5
    weights = torch.softmax(scores + mask, dim=-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(2)


def by_head(states: Tensor, parts: int, size: int) -> tuple[Tensor, ...]:
    """Split [batch, length, heads * parts * size] into `parts` tensors by head."""
    return states.view(*states.shape[:2], -1, parts, size).unbind(3)


@torch.inference_mode()
def published(model: Any, source: Tensor, mask: Tensor, tokens: int) -> Tensor:
    """Greedy tokens [batch, 1 + tokens] of the peer."""
    config = model.config
    size = config.kv_channels
    batch, length = source.shape
    dense = (1 - mask[:, None, None].float()) * MASKED
    x = model.shared_embedding(source)
    positions = torch.arange(length)
    for block in model.encoder.block:
        query, key, value = by_head(block.self_attn.qkv(block.input_layernorm(x)), 3, size)
        states = attend(
            rotate(query, positions), rotate(key, positions), value,
            dense.expand(batch, 1, length, length).clone(),
        )  # fmt: skip
        x = x + block.self_attn.o(states)
        x = x + block.mlp(block.post_attn_layernorm(x))
    encoded = model.encoder.final_layernorm(x)

    cache: list[tuple[Tensor, Tensor]] = []
    output = source.new_full((batch, 1), config.decoder_start_token_id)
    for step in range(tokens):
        x = model.shared_embedding(output[:, -1:])
        position = torch.tensor([step])
        for number, block in enumerate(model.decoder.block):
            query, key, value = by_head(block.self_attn.qkv(block.input_layernorm(x)), 3, size)
            query, key = rotate(query, position), rotate(key, position)
            if step:
                key = torch.cat((cache[number][0], key), dim=1)
                value = torch.cat((cache[number][1], value), dim=1)
                cache[number] = (key, value)
            else:
                cache.append((key, value))
            states = attend(query, key, value, torch.zeros(batch, 1, 1, step + 1))
            x = x + block.self_attn.o(states)
            (query,) = by_head(block.inter_attn.q(block.post_attn_layernorm(x)), 1, size)
            key, value = by_head(block.inter_attn.kv(encoded), 2, size)
            x = x + block.inter_attn.o(attend(query, key, value, dense))
            x = x + block.mlp(block.post_inter_attn_layernorm(x))
        x = model.decoder.final_layernorm(x[:, -1])
        if config.tie_word_embeddings:
            x = x * config.hidden_size**-0.5
        logits = model.lm_head(x)
        logits[:, config.eos_token_id] = -torch.inf
        output = torch.cat((output, logits.argmax(-1, keepdim=True)), dim=1)
    return output


# --- measuring ---------------------------------------------------------------------------------


def own(model: Any, source: Tensor, mask: Tensor, tokens: int, cache: str) -> Tensor:
    """Greedy tokens [batch, 1 + tokens], by `generate` of transformers."""
    found: Tensor = model.generate(
        input_ids=source, attention_mask=mask, min_new_tokens=tokens, max_new_tokens=tokens,
        do_sample=False, num_beams=1, cache_implementation=cache,
    )  # fmt: skip
    return found


def memory(field: str) -> int:
    """Memory of this process in bytes. `field`: VmRSS for now, VmHWM for the peak."""
    with Path("/proc/self/status").open() as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(field))


def measure(generate: Callable[[], Tensor]) -> tuple[Tensor, float, int]:
    """The output, seconds, and the peak of memory in bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    began = time.perf_counter()
    output = generate()
    seconds = time.perf_counter() - began
    return output, seconds, memory("VmHWM") - before


def sources(model: Any, batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Ids and mask [batch, length]. The first row is full, later rows are shorter, down to half."""
    generator = torch.Generator().manual_seed(batch)
    ids = torch.randint(3, model.config.vocab_size, (batch, length), generator=generator)
    lengths = length - torch.arange(batch) * length // (2 * batch)
    mask = (torch.arange(length) < lengths[:, None]).long()
    return ids * mask, mask


def results(model: Any, scale: Scale) -> Iterator[Result]:
    for batch in BATCHES:
        source, mask = sources(model, batch, scale.source)
        ways: dict[str, Callable[[], Tensor]] = {
            PEER: lambda s=source, m=mask: published(model, s, m, scale.tokens)  # type: ignore[misc]
        }
        for cache in CACHES:
            ways[cache] = lambda s=source, m=mask, c=cache: own(  # type: ignore[misc]
                model, s, m, scale.tokens, c
            )
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        peaks: dict[str, int] = dict.fromkeys(ways, 0)
        for repeat in range(-1, scale.repeats):  # repeat -1 warms up and is not counted
            outputs = {}
            for way, generate in ways.items():
                outputs[way], took, peak = measure(generate)
                if repeat >= 0:
                    seconds[way].append(took)
                    peaks[way] = max(peaks[way], peak)
            for cache in CACHES:
                if not torch.equal(outputs[cache], outputs[PEER]):
                    raise SystemExit(f"batch {batch}, {cache} cache: tokens differ from the peer's")
        rates = {way: batch * scale.tokens / statistics.median(s) for way, s in seconds.items()}
        say(f"batch {batch}: " + ", ".join(f"{way} {rate:,.1f}/s" for way, rate in rates.items()))
        for cache in CACHES:
            yield Result(
                f"batch {batch}, {cache} cache", rates[cache], "tokens/s", PEER, rates[PEER],
                Goal("ratio", ">=", 1.25) if (batch, cache) == (16, "dynamic") else None,
            )  # fmt: skip
            yield Result(
                f"batch {batch}, {cache} cache: memory", peaks[cache] / 1e6, "MB", PEER,
                peaks[PEER] / 1e6,
            )  # fmt: skip


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        "--model", type=Path, help="an OpenBA directory (default: a random model)"
    )
    arguments.add_argument("--hidden", type=int, help="hidden size of the random model")
    arguments.add_argument("--layers", type=int, nargs=2, metavar=("ENCODER", "DECODER"))
    arguments.add_argument("--threads", type=int, help="number of CPU threads")
    options: argparse.Namespace = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    scale = QUICK if options.quick else FULL
    encoder, decoder = options.layers or (scale.encoder_layers, scale.decoder_layers)
    scale = Scale(
        options.hidden or scale.hidden, encoder, decoder, scale.source, scale.tokens, scale.repeats
    )
    model = load_model(options.model) if options.model else random_model(scale)
    say(f"{sum(p.numel() for p in model.parameters()) / 1e6:,.1f}M parameters")
    show(list(results(model, scale)), as_json=options.json)


if __name__ == "__main__":
    main()
