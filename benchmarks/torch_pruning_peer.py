"""Cuts by Torch-Pruning, a peer of regrow (pip install torch-pruning; 1.6.1 was measured).

Torch-Pruning follows the graph of a network and cuts what depends on each other together. Here it
cuts hidden and ffn of all layers. It drops no layers, cuts no vocabulary, and solves for no weights
after a cut. Heads stay as they are: its search for what depends on the heads of a Llama (of
transformers 5.24) did not end. The rotary embedding splits and joins the indices of a head in a new
order, and the search follows each new order. Its importance is the magnitude of the weights, or the
first-order Taylor expansion of the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.scoring.calibration import draw_calibration

Importance = Literal["magnitude", "Taylor"]
_BATCH_TOKENS = 1_024


@dataclass(frozen=True)
class Widths:
    """The sizes of a cut of a Llama, the same in all layers."""

    hidden: int
    ffn: int


def cut_by_torch_pruning(
    source: ModelDirectory,
    out: Path,
    widths: Widths,
    importance: Importance,
    documents: Sequence[str],
    tokens: int,
) -> None:
    """Cut a Llama with Torch-Pruning, and write it as a model directory.

    `documents`, `tokens`: the text of which so many tokens give the gradients for Taylor.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32)
    if importance == "Taylor":
        _add_gradients(model, source.tokenizer, documents, tokens)
    _prune(model, widths, importance)
    model.zero_grad(set_to_none=True)
    model.config.hidden_size, model.config.intermediate_size = widths.hidden, widths.ffn
    model.tie_weights()  # cutting made two tensors of one
    model.save_pretrained(out)
    source.tokenizer.save_pretrained(out)


def _add_gradients(model: Any, tokenizer: Any, documents: Sequence[str], tokens: int) -> None:
    """Accumulate the gradients of the summed loss."""
    calibration = draw_calibration(documents, tokenizer, tokens=tokens)
    for ids, is_text in calibration.batches(_BATCH_TOKENS):
        inputs = torch.from_numpy(ids)
        labels = inputs.masked_fill(~torch.from_numpy(is_text), -100)
        # Padding is on the right, so no token of the text attends to it.
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(inputs, labels=labels, use_cache=False).loss
        (loss * int((labels[:, 1:] >= 0).sum())).backward()


def _prune(model: Any, widths: Widths, importance: Importance) -> None:
    """Cut in place; the config stays as it was."""
    import torch_pruning

    scores = {
        "magnitude": torch_pruning.importance.GroupMagnitudeImportance,
        "Taylor": torch_pruning.importance.GroupTaylorImportance,
    }
    config = model.config
    ffn = {}
    attention = []
    for layer in model.model.layers:
        ffn[layer.mlp.gate_proj] = _ratio(widths.ffn, config.intermediate_size)
        attention += [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        torch.arange(8)[None],
        scores[importance](),
        pruning_ratio=_ratio(widths.hidden, config.hidden_size),
        pruning_ratio_dict=ffn,
        ignored_layers=[model.lm_head, *attention],
        output_transform=lambda output: output.logits,
    )
    pruner.step()


def _ratio(size: int, whole: int) -> float:
    """The ratio that Torch-Pruning rounds to this size."""
    return 0.0 if size == whole else 1 - (size + 0.5) / whole
