"""The tables of a preview as text: a row of column titles, then rows, within 80 columns."""

import math
from collections.abc import Iterator, Mapping

from regrow.architectures.schema import AxisKind, axis_kind
from regrow.common.numbers import count, size
from regrow.corpus.put_aside import MOST, SHARE
from regrow.pipeline.preview import Preview, PreviewStage

Table = tuple[tuple[str, ...], ...]
_SIZES: Mapping[AxisKind, str] = {
    "layer": "layers", "hidden": "hidden", "ffn": "ffn", "expert": "experts", "head": "heads",
    "kv_head": "kv heads", "vocab": "vocabulary",
}  # fmt: skip


def size_rows(found: Preview) -> Table:
    """The sizes and parameters of each model.

    Layers of encoder and decoder are joined by `+`; other sizes by `/`, if they differ.
    """
    models = (found.original, *found.stages)
    has_stored = any(model.stored != model.parameters for model in models)
    kinds = [
        kind for kind in _SIZES
        if any(_size(model, kind) for model in models)
        and not (kind == "kv_head" and all(_size(m, kind) == _size(m, "head") for m in models))
    ]  # fmt: skip
    columns = ("stage", *(_SIZES[kind] for kind in kinds), "params", "left")
    rows = []
    for model in models:
        share = model.parameters / found.original.parameters
        row = (model.name, *(_size(model, kind) for kind in kinds))
        row += (count(model.parameters, 2), f"{share:.1%}")
        rows.append((*row, count(model.stored, 2)) if has_stored else row)
    return ((*columns, "stored") if has_stored else columns, *rows)


def cost_rows(found: Preview) -> Table:
    """The cost of each training, with the numbers of the OpenBA-V2 report if it has the same.

    Empty if nothing is trained.
    """
    trainings = [
        (model.name, model.training)
        for model in (found.original, *found.stages)
        if model.training is not None
    ]
    if not trainings:
        return ()
    unit = _unit(found)
    columns = ("training", "objective", "tokens", "text", "positions", f"FLOPs/{_power(unit)}")
    rows: list[tuple[str, ...]] = []
    for name, training in trainings:
        sample, row = training.sample, training.reported
        positions = "+".join(f"{n:,}" for n in (sample.encoder, sample.decoder) if n)
        flops = f"{training.flops / unit:,.2f}"
        report = ("", "")
        if row is not None:
            report = (f"{row.flops / unit:,.1f}", f"{training.flops / row.flops:.3f}")
        facts = (name, training.objective, _tokens(training.tokens), f"{sample.text:,}", positions)
        rows.append((*facts, flops, *report))
    if any(training.reported for _, training in trainings):
        return ((*columns, "report", "ratio"), *rows)
    return (columns, *(row[:-2] for row in rows))


def total_words(found: Preview) -> Iterator[str]:
    """Lines with the totals of all stages, and with notes on the columns of the tables."""
    if found.written:
        yield f"text: the original first writes {_tokens(found.written)} tokens of training text"
    if found.puts_aside:
        yield (
            f"held out: {SHARE:.0%} of the training text, at most some {MOST:,} characters, since "
            "the recipe names no held-out text"
        )
    trainings = [stage.training for stage in found.stages if stage.training]
    before = found.original.training
    if trainings:
        tokens = sum(training.tokens for training in trainings)
        words = f"recovery: {_tokens(tokens)} tokens, {_scientific(found.flops)} FLOPs"
        if before is not None:
            words += f", {found.flops / before.flops:.0%} of the original's training"
        if teacher_flops := sum(training.taught for training in trainings):
            words += f"; {teacher_flops / found.flops:.0%} of them go through teachers"
        yield words
    if found.time is not None:
        yield f"time: {found.time.words()}"
    if found.evaluation is not None:
        limit = found.evaluation.limit
        asked = "" if limit is None else f", at most {limit:,} questions of each"
        models = ", ".join(found.evaluation.models)
        yield f"evaluation: {', '.join(found.evaluation.tasks)}{asked}; of {models}"
    last = (found.stages or (found.original,))[-1]
    yield f"result: {last.parameters:,} parameters, {size(last.nbytes)}"
    if last.stored != last.parameters:
        yield (
            "params count embedding and head once; stored counts both, as the file holds them "
            f"({size(found.original.nbytes)} at first)"
        )
    if any(training.reported for training in trainings):
        yield (
            "objective, positions and report are those of the OpenBA-V2 report (arXiv 2405.05957, "
            "table 1); regrow pads less, so it computes fewer positions"
        )
    yield "texts and tasks were not read; a run checks them before it starts"


def _size(model: PreviewStage, kind: AxisKind) -> str:
    """The size of the axis of this kind in each stack; empty if the model has none.

    If a stack has several such axes, the first counts, which is that of self-attention.
    """
    by_stack: dict[str, int] = {}
    for name, number in model.sizes.items():
        if axis_kind(name) == kind:
            by_stack.setdefault(name.rpartition(".")[0], number)
    sizes = [f"{number:,}" for number in by_stack.values()]
    if kind == "layer":
        return "+".join(sizes)
    return "/".join(dict.fromkeys(sizes))


def _tokens(number: int) -> str:
    return count(number).replace(".0", "")


def _unit(found: Preview) -> float:
    """The power of ten just below the smallest cost of a training, in FLOPs."""
    costs = [stage.training.flops for stage in found.stages if stage.training]
    return 10.0 ** math.floor(math.log10(min(costs))) if costs else 1.0


def _power(unit: float) -> str:
    return f"1e{round(math.log10(unit))}"


def _scientific(value: float) -> str:
    mantissa, _, exponent = f"{value:.2e}".partition("e+")
    return f"{mantissa}e{int(exponent)}" if exponent else f"{value:g}"
