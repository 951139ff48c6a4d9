"""What a blueprint claims, on a tiny model in float64 with every parameter drawn at random.

Two claims are tested. (a) Permuting the indices of an axis leaves the outputs unchanged; for the
vocabulary it permutes the logits. (b) The model carved at several sizes equals the uncut model in
which all that was dropped is silenced where it is read (`regrow.cuts.silence`): neurons and heads
at the input of the module that reads them, layers by passing their input on, hidden channels and
OLMo 2's heads also inside the norms.

The silenced model is made from modules and not from the labels of the tensors, so a wrong label
cannot make both sides wrong in the same way. Parameters are drawn at random because at
initialisation norms are 1 and biases 0, and a blueprint that forgets them would pass.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
from torch import Tensor

from regrow.architectures import Axis, Blueprint, Layout
from regrow.architectures.linked import linked_axes
from regrow.common.errors import one_line
from regrow.cuts.choose_indices import choose
from regrow.cuts.cut import AxisCut, Cut
from regrow.cuts.silence import silenced

TOLERANCE = 1e-9
"""The largest difference of logits that counts as equal; logits are of the order of 1."""

_BATCH, _LENGTH = 2, 11
_OTHER_AXIS_CUT = 0.4
"""Probability that an axis is cut along with the tested axis, if their sizes are independent."""

MakeCarved = Callable[[Cut], Any]
"""From a cut to the carved model; raises ProofError if the architecture refuses the result."""


@dataclass(frozen=True)
class Finding:
    """One comparison: the claim, and the largest absolute difference of the logits."""

    claim: str
    difference: float

    @property
    def holds(self) -> bool:
        return self.difference <= TOLERANCE


class ProofError(Exception):
    """The blueprint is wrong; the message gives the reason in one line."""


def check_claims(
    model: Any,
    layout: Layout,
    fingerprint: str,
    carved: MakeCarved,
    random: np.random.Generator,
    *,
    alone: bool = False,
) -> tuple[Finding, ...]:
    """Compare the carved with the silenced model for all claims; returns all comparisons.

    `model`: of `layout`, tiny, with random parameters in float64. Call it inside `in_float64`.
    `alone`: in addition, each axis is cut alone, and each layer is dropped alone.

    Raises ProofError at the first claim that does not hold.
    """
    findings = []
    more = _claims_alone(layout, fingerprint, random) if alone else ()
    for claim, cut in itertools.chain(more, _claims(layout, fingerprint, random)):
        difference = _difference(model, carved(cut), layout, cut, random)
        finding = Finding(f"{claim}: {cut.words()}", difference)
        if not finding.holds:
            raise ProofError(f"{finding.claim}: logits differ by {finding.difference:.3g}")
        findings.append(finding)
    return tuple(findings)


def linked_sizes(layout: Layout) -> list[list[dict[str, int]]]:
    """For each set of axes whose sizes depend on each other, all sizes that are accepted.

    One choice from each list gives sizes that the architecture accepts together. The sizes of axes
    depend on each other by a shared config field, as query heads and key-value heads, or by a
    constraint. Use it only on tiny models, since all combinations are tried.
    """
    axes = layout.blueprint.axes
    accepted = []
    for names in linked_axes(layout):
        fields = {layout.axes_of_field(axis.name) for axis in axes if axis.name in names}
        shared = sorted(fields)  # each is a tuple of the axes that share a config field
        ranges = [range(1, layout.sizes[same[0]] + 1) for same in shared]
        choices = [
            {name: size for same, size in zip(shared, sizes, strict=True) for name in same}
            for sizes in itertools.product(*ranges)
        ]
        accepted.append([choice for choice in choices if layout.size_problem(choice) is None])
    return accepted


def random_values(shape: tuple[int, ...], random: np.random.Generator) -> Tensor:
    """Values for a parameter: matrices around 0, all else around 0.8."""
    scale, mean = (0.3, 0.0) if len(shape) > 1 else (0.5, 0.8)
    return torch.from_numpy(np.asarray(random.normal(size=shape) * scale + mean))


def _claims(
    layout: Layout, fingerprint: str, random: np.random.Generator
) -> Iterator[tuple[str, Cut]]:
    """For each axis but the layers a permutation, then for each axis a random cut."""
    for axis in layout.blueprint.axes:
        if axis.kind != "layer":
            yield f"permute {axis.name}", _permutation(axis, layout, fingerprint, random)
    choices = linked_sizes(layout)
    for axis in layout.blueprint.axes:
        yield f"cut {axis.name}", _random_cut(axis, choices, layout, fingerprint, random)


def _claims_alone(
    layout: Layout, fingerprint: str, random: np.random.Generator
) -> Iterator[tuple[str, Cut]]:
    """Each layer is dropped, and each other axis is cut, while all else stays."""
    choices = linked_sizes(layout)
    for axis in layout.blueprint.axes:
        size = layout.sizes[axis.name]
        if axis.kind == "layer":
            for index in range(size):
                keep = np.delete(np.arange(size), index)
                yield (
                    f"drop {axis.name} {index}",
                    Cut(fingerprint, {axis.name: AxisCut(size, keep)}),
                )
            continue
        linked = next(each for each in choices if axis.name in each[0])
        yield f"cut {axis.name}", _random_cut(axis, [linked], layout, fingerprint, random)


def _permutation(axis: Axis, layout: Layout, fingerprint: str, random: np.random.Generator) -> Cut:
    """A random order along one axis; query heads move with their key-value heads."""
    axes: dict[str, AxisCut] = {}
    layers = layout.sizes[axis.along] if axis.along else None

    def rows(draw: Callable[[], Any]) -> Any:
        return draw() if layers is None else np.stack([draw() for _ in range(layers)])

    size = layout.sizes[axis.name]
    grouped = next((a for a in layout.blueprint.axes if a.groups == axis.name), None)
    if axis.groups:
        group = size // layout.sizes[axis.groups]
        order = rows(
            lambda: np.concatenate(
                [random.permutation(group) + g * group for g in range(size // group)]
            )
        )
    else:
        order = rows(lambda: random.permutation(size))
    axes[axis.name] = AxisCut(size, order, axis.along)
    if grouped is not None:
        heads = layout.sizes[grouped.name]
        group = heads // size
        follow = (order[..., None] * group + np.arange(group)).reshape(*order.shape[:-1], heads)
        axes[grouped.name] = AxisCut(heads, follow, axis.along)
    return Cut(fingerprint, axes)


def _random_cut(
    axis: Axis,
    choices: list[list[dict[str, int]]],
    layout: Layout,
    fingerprint: str,
    random: np.random.Generator,
) -> Cut:
    """A random cut that the architecture accepts, with this axis smaller."""
    sizes: dict[str, int] = {}
    for linked in choices:
        if axis.name in linked[0]:
            smaller = [each for each in linked if each[axis.name] < layout.sizes[axis.name]]
            if not smaller:
                raise ProofError(
                    f"cut {axis.name}: no smaller size is accepted; is a constraint wrong?"
                )
            sizes |= smaller[random.integers(len(smaller))]
        elif random.random() < _OTHER_AXIS_CUT:
            sizes |= linked[random.integers(len(linked))]
    return choose(layout, fingerprint, sizes, _scores(layout, random))


def _scores(layout: Layout, random: np.random.Generator) -> dict[str, Any]:
    sizes = layout.sizes
    return {
        a.name: random.random((sizes[a.along], sizes[a.name]))
        if a.along
        else random.random(sizes[a.name])
        for a in layout.blueprint.axes
    }


def _difference(
    model: Any, carved: Any, layout: Layout, cut: Cut, random: np.random.Generator
) -> float:
    """The largest absolute difference between the logits of the carved and silenced model."""
    vocab = cut.axes.get("vocab")
    kept = torch.from_numpy(vocab.keep.copy() if vocab else np.arange(layout.sizes["vocab"]))
    new_ids = torch.from_numpy(random.integers(0, len(kept), (_BATCH, _LENGTH)))
    with torch.no_grad(), silenced(model, layout, cut):
        expected = _logits(layout.blueprint, model, kept[new_ids])[..., kept]
    with torch.no_grad():
        actual = _logits(layout.blueprint, carved, new_ids)
    if actual.shape != expected.shape:
        raise ProofError(f"{cut.words()}: logits {actual.shape}, not {expected.shape}")
    return float((actual - expected).abs().max())


def _logits(blueprint: Blueprint, model: Any, ids: Tensor) -> Tensor:
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    if blueprint.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids.flip(1)
        inputs["decoder_attention_mask"] = torch.ones_like(ids)
    try:
        logits: Tensor = model(**inputs).logits
    except Exception as error:
        raise ProofError(f"the network does not run: {one_line(str(error))}") from error
    return logits


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Context manager: run norms, softmax and scales in float64, and silence transformers' log.

    The library computes these in float32 in a model of any dtype.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            silent_transformers(),
            mock.patch.object(torch, "float32", torch.float64),
            mock.patch.object(Tensor, "float", Tensor.double),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextlib.contextmanager
def silent_transformers() -> Iterator[None]:
    """Context manager: transformers logs errors alone, and shows no progress.

    What it says of the sizes of a tiny model is of no use to anyone.
    """
    level = transformers.logging.get_verbosity()
    progress_bar = transformers.utils.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if progress_bar:
            transformers.utils.logging.enable_progress_bar()
