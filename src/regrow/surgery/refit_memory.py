"""How much memory a refit needs, and how many tokens of text it reads at once."""

from collections.abc import Collection, Mapping

from regrow.architectures import Layout
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.memory import available_memory
from regrow.scoring.calibration import ROW_LENGTH, Calibration
from regrow.scoring.observe import BATCH_TOKENS
from regrow.scoring.offload import BATCHES
from regrow.surgery.cut import Cut
from regrow.surgery.layer_fit import readers
from regrow.surgery.layer_training import STEP_TOKENS, UNSEEN
from regrow.surgery.least_squares import BYTES_PER_PAIR

FREE = 0.2
"""The part of available memory that is kept for states and sums; the rest is for weights."""
_STEPS = 64
"""About how many steps a pass of training has at most."""
_TRAINED_BYTES = 16
"""Beside each parameter of a layer that is trained: its value before, its gradient, two moments."""
_ACTIVATIONS = 12
"""How many times the hidden size of a token is kept inside a layer until its backward pass."""
_STATES = 8
"""How many times the hidden states of the text are in memory."""


def batch_tokens_of(tokens: int, passes: int) -> int:
    """The most tokens of a batch, which is also a step of a training.

    An offloaded model runs few batches best. The same batches in memory give equal bits.

    `tokens`: of the text. `passes`: in which each layer is trained.
    """
    step = min(STEP_TOKENS, tokens // UNSEEN)
    least, most = (step, _STEPS) if passes else (BATCH_TOKENS, BATCHES)
    if tokens <= least * most:
        return least
    return -(-tokens // (most * ROW_LENGTH)) * ROW_LENGTH  # whole rows, or a batch has one less


def check_memory(
    source: ModelDirectory, cut: Cut, calibration: Calibration, passes: int
) -> str | None:
    """Why the models of a refit are read one layer at a time; None if they fit in memory.

    `passes`: in which each layer is trained.

    Raises UserError if they do not fit and accelerate is missing.
    """
    layout = source.layout
    width, inner = _widths(layout)
    states = calibration.tokens * bytes_a_token(layout, cut.axes.keys())
    sums = BYTES_PER_PAIR * inner**2
    sizes = {n: size for n, size in cut.sizes.items() if layout.blueprint.axis(n).kind != "vocab"}
    needed = 4 * (layout.parameters() + layout.parameters(sizes)) + states + sums
    if passes:
        needed += _TRAINED_BYTES * _layer_parameters(layout, sizes)
        step = batch_tokens_of(calibration.tokens, passes)
        needed += 4 * step * (_ACTIVATIONS * width + 4 * inner)
    available = available_memory()
    if needed <= (1 - FREE) * available:
        return None
    from regrow.scoring.offload import check_offload

    problem = (
        f"{source.path}: the original and the cut model need {needed / 1e9:,.1f} GB in float32 "
        f"with all states, and {available / 1e9:,.1f} GB of memory are free"
    )
    try:
        check_offload(problem)
    except UserError as error:
        also = " and leave refit_passes out" if passes else ""
        raise UserError(f"{error}, or set refit to false{also}", key="refit") from None
    return problem


def bytes_a_token(layout: Layout, cut: Collection[str]) -> int:
    """Bytes of memory that a refit holds for each token of its text.

    `layout`: of the original. `cut`: the axes that are cut.
    """
    width, inner = _widths(layout)
    return 4 * (_STATES * width + inner + _read_outputs(layout, cut))


def _widths(layout: Layout) -> tuple[int, int]:
    """The largest sizes of hidden and of ffn."""
    axes = layout.blueprint.axes
    width, inner = (
        max(layout.sizes[axis.name] for axis in axes if axis.kind == kind)
        for kind in ("hidden", "ffn")
    )
    return width, inner


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
