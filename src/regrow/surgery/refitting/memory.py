"""How much memory a refit needs, and how many tokens of text it reads at once."""

from collections.abc import Collection, Mapping
from pathlib import Path

from regrow.architectures import Layout
from regrow.architectures.schema import ACTIVE_EXPERTS, EXPERT_WIDTH
from regrow.common.errors import UserError
from regrow.common.memory import available_memory
from regrow.scoring.calibration import ROW_LENGTH
from regrow.scoring.observe import BATCH_TOKENS
from regrow.scoring.offload import BATCHES
from regrow.surgery.refitting.layer_fit import readers, writers
from regrow.surgery.refitting.layer_training import STEP_TOKENS, UNSEEN
from regrow.surgery.refitting.least_squares import BYTES_PER_PAIR

FREE = 0.2
"""The part of available memory that is kept for states and sums; the rest is for weights."""
_STEPS, _STEPS_OF_PASS = 256, 64
"""About how many steps all passes of a training have at most, or each pass if that is more. Fewer
and longer ones learned less from the same tokens (docs/benchmarks.md, Layers trained alone)."""
_TRAINED_BYTES = 24
"""Beside each parameter of a layer that is trained: its value before the training, two moments, and
its value and its gradient, both as they are and along directions of the inputs."""
_READ_BY_LAYER = 6
"""How many inputs of the hidden size the matrices of a layer read at most: of the ffn, and of
attention and cross-attention (query; key and value; what the output projection reads)."""
_ACTIVATIONS = 12
"""How many times the hidden size of a token is kept inside a layer until its backward pass."""
_STATES = 8
"""How many times the hidden states of the text are in memory."""
_BIASES = 4
"""Position biases of T5: of attention and of cross-attention, in the original and the cut model."""


def batch_tokens_of(tokens: int, passes: int) -> int:
    """The most tokens of a batch, which is also a step of a training.

    An offloaded model runs few batches best. The same batches in memory give equal bits.

    `tokens`: of the text. `passes`: in which each layer is trained.
    """
    if passes:
        least, most = min(STEP_TOKENS, tokens // UNSEEN), max(_STEPS // passes, _STEPS_OF_PASS)
    else:
        least, most = BATCH_TOKENS, BATCHES
    if tokens <= least * most:
        return least
    return -(-tokens // (most * ROW_LENGTH)) * ROW_LENGTH  # whole rows, or a batch has one less


def check_memory(
    path: Path,
    layout: Layout,
    sizes: Mapping[str, int],
    tokens: int,
    passes: int = 0,
    *,
    otherwise: str = "set refit to false",
) -> str | None:
    """Why the models of a refit are read one layer at a time; None if they fit in memory.

    `path`, `layout`: of the original. `sizes`: of the axes that are cut, after the cut. `tokens`:
    of the text. `passes`: in which each layer is trained. `otherwise`: what a user can do who does
    not want to give fewer tokens.

    Raises UserError if the states of the text do not fit, or if the models do not and accelerate is
    missing.
    """
    available = available_memory()
    needed = _bytes_beside_states(layout, sizes, tokens, passes)
    each = bytes_a_token(layout, sizes, batch_tokens_of(tokens, passes))
    if needed + tokens * each > available:
        most = max(available - needed, 0) // each // ROW_LENGTH * ROW_LENGTH
        advice = f"give at most {most:,} tokens, or {otherwise}" if most else otherwise
        raise UserError(
            f"to refit {path} on {tokens:,} tokens, {(needed + tokens * each) / 1e9:,.1f} GB of "
            f"states must be in memory, and {available / 1e9:,.1f} GB are free; "
            f"{advice}{_also(passes)}",
            key="calibration_tokens",
        )
    needed += tokens * each + 4 * (layout.parameters() + layout.parameters(_layers(layout, sizes)))
    if needed <= (1 - FREE) * available:
        return None
    from regrow.scoring.offload import check_offload

    problem = (
        f"{path}: the original and the cut model need {needed / 1e9:,.1f} GB in float32 "
        f"with all states, and {available / 1e9:,.1f} GB of memory are free"
    )
    try:
        check_offload(problem)
    except UserError as error:
        raise UserError(f"{error}, or {otherwise}{_also(passes)}", key="refit") from None
    return problem


def _also(passes: int) -> str:
    return " and leave refit_passes out" if passes else ""


def _layers(layout: Layout, sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes without the vocabulary, which a refit does not cut."""
    return {n: size for n, size in sizes.items() if layout.blueprint.axis(n).kind != "vocab"}


def _bytes_beside_states(layout: Layout, sizes: Mapping[str, int], tokens: int, passes: int) -> int:
    """Bytes of the sums of one matrix, and of the training of one layer."""
    width, inner = _widths(layout, sizes)
    needed = BYTES_PER_PAIR * inner**2
    if passes:
        needed += _TRAINED_BYTES * _layer_parameters(layout, _layers(layout, sizes))
        step = batch_tokens_of(tokens, passes)
        needed += 4 * step * (_ACTIVATIONS * width + 4 * inner + _read_by_experts(layout))
        inputs = [*[width] * _READ_BY_LAYER, inner]
        needed += sum(4 * each**2 for each in inputs if each <= step)  # their directions
    return needed


def _read_by_experts(layout: Layout) -> int:
    """How many numbers a token its experts keep until their backward pass."""
    active, width = (layout.sizes.get(name, 0) for name in (ACTIVE_EXPERTS, EXPERT_WIDTH))
    hidden = max(layout.sizes[name] for name in layout.streams)
    return active * (2 * hidden + 4 * width)


def bytes_a_token(
    layout: Layout, sizes: Mapping[str, int], batch_tokens: int = BATCH_TOKENS
) -> int:
    """Bytes of memory that a refit holds for each token of its text.

    `layout`: of the original. `sizes`: of the axes that are cut, after the cut. `batch_tokens`: of
    a batch, whose rows share their position biases.
    """
    width, inner = _widths(layout, sizes)
    rows = max(batch_tokens // ROW_LENGTH, 1)
    biases = _BIASES * ROW_LENGTH * _biased_heads(layout) // rows
    return 4 * (_STATES * width + inner + _read_outputs(layout, sizes.keys()) + biases)


def _biased_heads(layout: Layout) -> int:
    """Heads whose bias for each pair of positions goes from layer to layer (T5)."""
    biases = [
        label.shape[1]
        for name, label in layout.tensors.items()
        if name.endswith("relative_attention_bias.weight") and label.layer is None
    ]
    return max(biases, default=0)


def _widths(layout: Layout, sizes: Mapping[str, int]) -> tuple[int, int]:
    """The original's hidden size, and the most inputs of a matrix of the cut model."""
    axes, after = layout.blueprint.axes, {**layout.sizes, **sizes}
    width = max(layout.sizes[name] for name in layout.streams)
    labels = {label.parameter: label for label in layout.tensors.values()}
    writing = (
        labels[f"{module}.weight"].dims.dimensions[1].size(after)
        for axis in axes
        if axis.kind == "layer"
        for module in writers(layout, axis.name, 0)
    )
    return width, max(width, *writing)


def _layer_parameters(layout: Layout, sizes: Mapping[str, int]) -> int:
    """Parameters of the largest layer at these sizes."""
    after = {**layout.sizes, **sizes}
    return max(
        layout.parameters(after) - layout.parameters({**after, axis.name: after[axis.name] - 1})
        for axis in layout.blueprint.axes
        if axis.kind == "layer"
    )


def _read_outputs(layout: Layout, cut: Collection[str]) -> int:
    """How many numbers a token the matrices of a layer give that read a stream which is cut."""
    return max(
        sum(
            label.shape[0]
            for label in readers(layout, axis.name, 0).values()
            if not label.dims.dimensions[1].names.isdisjoint(cut)
        )
        for axis in layout.blueprint.axes
        if axis.kind == "layer"
    )
