"""Prove a blueprint, on a tiny model in float64 with every parameter drawn at random.

Two claims are tested. (a) Permuting the indices of an axis leaves the outputs unchanged; for the
vocabulary it permutes the logits. (b) The model carved at several sizes equals the uncut model in
which all that was dropped is silenced where it is read (`regrow.surgery.silence`): neurons and
heads at the input of the module that reads them, layers by passing their input on, hidden channels
and OLMo 2's heads also inside the norms.

The carved model is made as a user's model is: bind, cut, carve to files, load with plain
transformers. The silenced model is made from modules and not from the labels of the tensors, so a
wrong label cannot make both sides wrong in the same way. Parameters are drawn at random because at
initialisation norms are 1 and biases 0, and a blueprint that forgets them would pass.
"""

import contextlib
import copy
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from regrow.architectures import Axis, Blueprint, Layout
from regrow.architectures.assembled import taken_apart
from regrow.architectures.linked import linked_axes
from regrow.architectures.schema import read_field
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.meta_check import check_on_meta
from regrow.checkpoint.reader import Checkpoint, open_checkpoint
from regrow.common.errors import UserError
from regrow.models.networks import config_class, model_class
from regrow.surgery.carve import carve
from regrow.surgery.choose_indices import choose
from regrow.surgery.cut import AxisCut, Cut
from regrow.surgery.result_files import plan_checked_carve
from regrow.surgery.silence import silenced

TOLERANCE = 1e-9
"""The largest difference of logits that counts as equal; logits are of the order of 1."""

_BATCH, _LENGTH = 2, 11
_OTHER_AXIS_CUT = 0.4
"""Probability that an axis is cut along with the tested axis, if their sizes are independent."""


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


def prove(blueprint: Blueprint, tiny: Mapping[str, Any], seed: int = 0) -> tuple[Finding, ...]:
    """Prove a blueprint on a model of the config `tiny`; returns all comparisons.

    Raises ProofError at the first claim that does not hold.
    """
    findings = []
    with tempfile.TemporaryDirectory() as name, _all_in_float64():
        original = _Original(blueprint, tiny, Path(name), seed)
        for claim, cut in original.cuts():
            finding = Finding(f"{claim}: {cut.words()}", original.difference(cut))
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


class _Original:
    """The uncut model, in memory and on disk, and the cuts to test on it."""

    def __init__(
        self, blueprint: Blueprint, tiny: Mapping[str, Any], directory: Path, seed: int
    ) -> None:
        self.blueprint = blueprint
        self.directory = directory
        self.random = np.random.default_rng(seed)
        source = directory / "uncut"
        _write_random_model(blueprint, tiny, source, self.random)
        self.checkpoint: Checkpoint = open_checkpoint(source)
        try:
            self.layout: Layout = bind_checkpoint(self.checkpoint, blueprint)
        except UserError as error:
            raise ProofError(f"bind: {error}") from None
        if problem := self.layout.size_problem({}):
            raise ProofError(f"bind: {problem}")
        self.choices = linked_sizes(self.layout)
        self.model = _load(blueprint, source)

    def cuts(self) -> Iterator[tuple[str, Cut]]:
        """For each axis but the layers a permutation, then for each axis a random cut."""
        for axis in self.blueprint.axes:
            if axis.kind != "layer":
                yield f"permute {axis.name}", self._permutation(axis)
        for axis in self.blueprint.axes:
            yield f"cut {axis.name}", self._random_cut(axis)

    def _permutation(self, axis: Axis) -> Cut:
        """A random order along one axis; query heads move with their key-value heads."""
        axes: dict[str, AxisCut] = {}
        layers = self.layout.sizes[axis.along] if axis.along else None

        def rows(draw: Callable[[], Any]) -> Any:
            return draw() if layers is None else np.stack([draw() for _ in range(layers)])

        size = self.layout.sizes[axis.name]
        grouped = next((a for a in self.blueprint.axes if a.groups == axis.name), None)
        if axis.groups:
            group = size // self.layout.sizes[axis.groups]
            order = rows(
                lambda: np.concatenate(
                    [self.random.permutation(group) + g * group for g in range(size // group)]
                )
            )
        else:
            order = rows(lambda: self.random.permutation(size))
        axes[axis.name] = AxisCut(size, order, axis.along)
        if grouped is not None:
            heads = self.layout.sizes[grouped.name]
            group = heads // size
            follow = (order[..., None] * group + np.arange(group)).reshape(*order.shape[:-1], heads)
            axes[grouped.name] = AxisCut(heads, follow, axis.along)
        return Cut(self.checkpoint.fingerprint, axes)

    def _random_cut(self, axis: Axis) -> Cut:
        """A random cut that the architecture accepts, with this axis smaller."""
        sizes: dict[str, int] = {}
        for choices in self.choices:
            if axis.name in choices[0]:
                smaller = [c for c in choices if c[axis.name] < self.layout.sizes[axis.name]]
                if not smaller:
                    raise ProofError(
                        f"cut {axis.name}: no smaller size is accepted; is a constraint wrong?"
                    )
                sizes |= smaller[self.random.integers(len(smaller))]
            elif self.random.random() < _OTHER_AXIS_CUT:
                sizes |= choices[self.random.integers(len(choices))]
        return choose(self.layout, self.checkpoint.fingerprint, sizes, self._scores())

    def _scores(self) -> dict[str, Any]:
        sizes = self.layout.sizes
        return {
            a.name: self.random.random((sizes[a.along], sizes[a.name]))
            if a.along
            else self.random.random(sizes[a.name])
            for a in self.blueprint.axes
        }

    def difference(self, cut: Cut) -> float:
        """The largest absolute difference between the logits of the carved and silenced model."""
        out = Path(tempfile.mkdtemp(dir=self.directory)) / "carved"
        try:
            plan = plan_checked_carve(self.checkpoint, self.layout, cut)
            check_on_meta(plan.config, self.blueprint, plan.shapes)
            carve(plan, out)
        except UserError as error:
            raise ProofError(f"{cut.words()}: {error}") from None
        carved = _load(self.blueprint, out)
        vocab = cut.axes.get("vocab")
        size = self.layout.sizes["vocab"]
        kept = torch.from_numpy(vocab.keep.copy() if vocab else np.arange(size))
        new_ids = torch.from_numpy(self.random.integers(0, len(kept), (_BATCH, _LENGTH)))
        with torch.no_grad(), silenced(self.model, self.layout, cut):
            expected = _logits(self.blueprint, self.model, kept[new_ids])[..., kept]
        with torch.no_grad():
            actual = _logits(self.blueprint, carved, new_ids)
        if actual.shape != expected.shape:
            raise ProofError(f"{cut.words()}: logits {actual.shape}, not {expected.shape}")
        return float((actual - expected).abs().max())


def _write_random_model(
    blueprint: Blueprint, tiny: Mapping[str, Any], out: Path, random: np.random.Generator
) -> None:
    """Write a random model of this config in float64, without a head that the config ties."""
    values = {k: v for k, v in copy.deepcopy(dict(tiny)).items() if k != "model_type"}
    config = config_class(tiny["model_type"]).from_dict(values)
    model = model_class(blueprint.architectures[0])(config)
    head = blueprint.head
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        scale = 0.3 if tensor.ndim > 1 else 0.5
        draw = random.normal(size=tuple(tensor.shape)) * scale + (0.0 if tensor.ndim > 1 else 0.8)
        state[name] = torch.from_numpy(np.asarray(draw, dtype=np.float64))
    for alias in head.aliases:
        state.pop(alias, None)
    if read_field(tiny, "tie_word_embeddings") is not False:
        state.pop(head.weight, None)
    state = {name: each.contiguous() for name, each in taken_apart(blueprint, state).items()}
    out.mkdir()
    save_file(state, str(out / "model.safetensors"), metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps({**tiny, "dtype": "float64"}), encoding="utf-8")


def _load(blueprint: Blueprint, directory: Path) -> Any:
    cls = model_class(blueprint.architectures[0])
    model, info = cls.from_pretrained(
        directory, dtype=torch.float64, attn_implementation="eager",
        experts_implementation="eager", output_loading_info=True,
    )  # fmt: skip
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            raise ProofError(f"{directory.name}: {kind}: {sorted(info[kind])[0]}")
    return model.eval()


def _logits(blueprint: Blueprint, model: Any, ids: Tensor) -> Tensor:
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    if blueprint.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids.flip(1)
        inputs["decoder_attention_mask"] = torch.ones_like(ids)
    logits: Tensor = model(**inputs).logits
    return logits


@contextlib.contextmanager
def _all_in_float64() -> Iterator[None]:
    """Context manager: run norms, softmax and scales in float64, and silence transformers' log.

    The library computes these in float32 in a model of any dtype.
    """
    dtype = torch.get_default_dtype()
    level = transformers.logging.get_verbosity()
    progress_bar = transformers.utils.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            mock.patch.object(torch, "float32", torch.float64),
            mock.patch.object(Tensor, "float", Tensor.double),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)
        transformers.logging.set_verbosity(level)
        if progress_bar:
            transformers.utils.logging.enable_progress_bar()
