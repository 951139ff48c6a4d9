"""Proof of a blueprint, on a tiny model in float64 with every parameter drawn at random.

(a) Permuting the indices of an axis leaves the outputs unchanged; for the vocabulary it permutes
the logits. (b) The model carved at several sizes equals the uncut model in which what was dropped
is silenced where it is read: neurons and heads at the input of the layer that reads them, layers
by passing their input on, hidden channels and OLMo 2's heads inside the norms too.

The carved model goes the whole way that a user's model goes: bind, cut, carve to files, load with
plain transformers. The silenced model is made from modules, not from the labels of the tensors, so
a wrong label cannot make both sides wrong alike. At initialisation norms are 1 and biases 0, and a
blueprint that forgets them would pass; hence the random draw.
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
from torch import Tensor, nn

from regrow.architectures import Axis, Blueprint, Layout
from regrow.architectures.schema import Divides, Quotient, read_field
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.meta_check import check_on_meta
from regrow.checkpoint.reader import Checkpoint, open_checkpoint
from regrow.common.errors import UserError
from regrow.models.networks import config_class, model_class
from regrow.surgery.carve import carve
from regrow.surgery.choose import choose
from regrow.surgery.cut import AxisCut, Cut
from regrow.surgery.prune import carve_plan

TOLERANCE = 1e-9
"""Largest difference of logits that still counts as equal; they are of the order of 1."""

_BATCH, _LENGTH = 2, 11
_ALSO_CUT = 0.4
"""How often axes are cut that have nothing to do with the one in question."""


@dataclass(frozen=True)
class Finding:
    """One comparison: what was claimed, and the largest absolute difference of the logits."""

    claim: str
    difference: float

    @property
    def holds(self) -> bool:
        return self.difference <= TOLERANCE


class ProofError(Exception):
    """The blueprint is wrong: the reason, in one line."""


def prove(blueprint: Blueprint, tiny: Mapping[str, Any], seed: int = 0) -> tuple[Finding, ...]:
    """Prove a blueprint on a model of the config `tiny`.

    Raises ProofError at the first claim that does not hold.
    """
    findings = []
    with tempfile.TemporaryDirectory() as name, _exactly():
        scene = _Scene(blueprint, tiny, Path(name), seed)
        for claim, cut in scene.cuts():
            finding = Finding(f"{claim}: {cut.words()}", scene.difference(cut))
            if not finding.holds:
                raise ProofError(f"{finding.claim}: logits differ by {finding.difference:.3g}")
            findings.append(finding)
    return tuple(findings)


def linked_sizes(layout: Layout) -> list[list[dict[str, int]]]:
    """For each set of axes whose sizes hang together, all sizes that are accepted.

    Any one of each list makes sizes that the architecture accepts. Axes hang together by a field
    of the config, as query heads and key-value heads, or by a constraint. For tiny models: all
    combinations are tried.
    """
    axes = layout.blueprint.axes
    accepted = []
    for names in _linked(layout):
        fields = {layout.axes_of_field(axis.name) for axis in axes if axis.name in names}
        shared = sorted(fields)
        ranges = [range(1, layout.sizes[same[0]] + 1) for same in shared]
        choices = [
            {name: size for same, size in zip(shared, sizes, strict=True) for name in same}
            for sizes in itertools.product(*ranges)
        ]
        accepted.append([choice for choice in choices if layout.size_problem(choice) is None])
    return accepted


def _linked(layout: Layout) -> list[set[str]]:
    """The axes, in sets of those whose sizes hang together."""
    blueprint = layout.blueprint
    links = [set(layout.axes_of_field(axis.name)) for axis in blueprint.axes]
    links += [{axis.name, axis.groups} for axis in blueprint.axes if axis.groups]
    for rule in blueprint.constraints:
        links.append(
            {rule.part, rule.whole} if isinstance(rule, Divides) else {rule.dividend, rule.divisor}
        )
    for field in blueprint.fixed.values():
        if field.path is None and isinstance(field.default, Quotient):
            links.append({field.default.dividend, field.default.divisor})
    linked: list[set[str]] = []
    for link in links:
        touching = [names for names in linked if names & link]
        linked = [names for names in linked if not names & link] + [link.union(*touching)]
    return linked


class _Scene:
    """The uncut model in memory and on disk."""

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
        for axis in self.blueprint.axes:
            if axis.kind != "layer":
                yield f"permute {axis.name}", self._permutation(axis)
        for axis in self.blueprint.axes:
            yield f"cut {axis.name}", self._random_cut(axis)

    def _permutation(self, axis: Axis) -> Cut:
        """A new order along one axis; query heads move with their key-value heads."""
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
        """Sizes that the architecture accepts, with this axis made smaller and others at random."""
        sizes: dict[str, int] = {}
        for choices in self.choices:
            if axis.name in choices[0]:
                smaller = [c for c in choices if c[axis.name] < self.layout.sizes[axis.name]]
                if not smaller:
                    raise ProofError(
                        f"cut {axis.name}: no smaller size is accepted; is a constraint wrong?"
                    )
                sizes |= smaller[self.random.integers(len(smaller))]
            elif self.random.random() < _ALSO_CUT:
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
        """Largest difference between carved and silenced logits."""
        out = Path(tempfile.mkdtemp(dir=self.directory)) / "carved"
        try:
            plan = carve_plan(self.checkpoint, self.layout, cut)
            check_on_meta(plan.config, self.blueprint, plan.shapes)
            carve(plan, out)
        except UserError as error:
            raise ProofError(f"{cut.words()}: {error}") from None
        carved = _load(self.blueprint, out)
        vocab = cut.axes.get("vocab")
        size = self.layout.sizes["vocab"]
        kept = torch.from_numpy(vocab.keep.copy() if vocab else np.arange(size))
        new_ids = torch.from_numpy(self.random.integers(0, len(kept), (_BATCH, _LENGTH)))
        with torch.no_grad(), _silenced(self.model, self.layout, cut):
            expected = _logits(self.blueprint, self.model, kept[new_ids])[..., kept]
        with torch.no_grad():
            actual = _logits(self.blueprint, carved, new_ids)
        if actual.shape != expected.shape:
            raise ProofError(f"{cut.words()}: logits {actual.shape}, not {expected.shape}")
        return float((actual - expected).abs().max())


def _write_random_model(
    blueprint: Blueprint, tiny: Mapping[str, Any], out: Path, random: np.random.Generator
) -> None:
    """A model of this config, in float64; a head that the config ties is left out."""
    values = {k: v for k, v in copy.deepcopy(dict(tiny)).items() if k != "model_type"}
    config = config_class(tiny["model_type"]).from_dict(values)
    model = model_class(blueprint.architectures[0])(config)
    head = blueprint.head
    state = {}
    for name, tensor in model.state_dict().items():
        scale = 0.3 if tensor.ndim > 1 else 0.5
        draw = random.normal(size=tuple(tensor.shape)) * scale + (0.0 if tensor.ndim > 1 else 0.8)
        state[name] = torch.from_numpy(np.asarray(draw, dtype=np.float64))
    for alias in head.aliases:
        state.pop(alias, None)
    if read_field(tiny, "tie_word_embeddings") is not False:
        state.pop(head.weight, None)
    out.mkdir()
    save_file(state, str(out / "model.safetensors"), metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps({**tiny, "dtype": "float64"}), encoding="utf-8")


def _load(blueprint: Blueprint, directory: Path) -> Any:
    cls = model_class(blueprint.architectures[0])
    model, info = cls.from_pretrained(
        directory, dtype=torch.float64, attn_implementation="eager", output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            raise ProofError(f"{directory.name}: {kind}: {sorted(info[kind])[0]}")
    return model.eval()


def _logits(blueprint: Blueprint, model: Any, ids: Tensor) -> Tensor:
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    if blueprint.is_encoder_decoder:
        given["decoder_input_ids"] = ids.flip(1)
        given["decoder_attention_mask"] = torch.ones_like(ids)
    logits: Tensor = model(**given).logits
    return logits


@contextlib.contextmanager
def _exactly() -> Iterator[None]:
    """Norms, softmax and scales of the library are float32 whatever the model is in; not here."""
    dtype = torch.get_default_dtype()
    level = transformers.logging.get_verbosity()
    bar = transformers.utils.logging.is_progress_bar_enabled()
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
        if bar:
            transformers.utils.logging.enable_progress_bar()


@contextlib.contextmanager
def _silenced(model: nn.Module, layout: Layout, cut: Cut) -> Iterator[None]:
    """The uncut model with everything that the cut drops silenced where it is read."""
    with contextlib.ExitStack() as stack:
        for axis in layout.blueprint.axes:
            if axis.name not in cut.axes:
                continue
            if axis.kind == "layer":
                kept = set(cut.axes[axis.name].keep.tolist())
                for index in range(layout.sizes[axis.name]):
                    if index not in kept:
                        for site in axis.sites:
                            name = site.replace("{" + axis.name + "}", str(index))
                            stack.enter_context(_passing(model.get_submodule(name)))
            elif axis.kind == "hidden":
                for name, _ in _modules(axis.sites, layout, cut):
                    norm = model.get_submodule(name)
                    stack.enter_context(_norm_of(norm, cut.axes[axis.name].keep))
                for name in layout.blueprint.embeddings:
                    if _embeds(layout, name, axis.name):
                        module = model.get_submodule(name)
                        stack.enter_context(_masked_output(module, cut.axes[axis.name].keep))
            elif axis.kind != "vocab":
                for name, row in _modules(axis.sites, layout, cut):
                    module = model.get_submodule(name)
                    stack.enter_context(_masked_input(module, cut.axes[axis.name], row))
                for name, row in _modules(axis.inside_norms, layout, cut):
                    norm = model.get_submodule(name)
                    stack.enter_context(_norm_of(norm, _spread(cut.axes[axis.name], row, norm)))
        yield


def _embeds(layout: Layout, module: str, axis: str) -> bool:
    """Whether the output of an embedding lies along this hidden axis (T5Gemma has two)."""
    stack = axis.rpartition(".")[0]
    return not stack or f".{stack}." in f".{module}."


def _modules(patterns: tuple[str, ...], layout: Layout, cut: Cut) -> Iterator[tuple[str, int]]:
    """Names of the modules of all kept layers, with the number of the layer after the cut."""
    layers = [a.name for a in layout.blueprint.axes if a.kind == "layer"]
    for pattern in patterns:
        along = next((name for name in layers if "{" + name + "}" in pattern), None)
        if along is None:
            yield pattern, 0
            continue
        for row, index in enumerate(cut.layers(along, layout.sizes[along]).tolist()):
            yield pattern.replace("{" + along + "}", str(index)), row


def _spread(axis: AxisCut, row: int, norm: Any) -> Any:
    """Kept indices of an axis as positions in a dimension where each index has several."""
    per = norm.weight.shape[0] // axis.size
    return (axis.row(row)[:, None] * per + np.arange(per)).reshape(-1)


@contextlib.contextmanager
def _passing(layer: nn.Module) -> Iterator[None]:
    forward = layer.forward

    def passing(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        output = forward(*args, **kwargs)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    with mock.patch.object(layer, "forward", passing):
        yield


@contextlib.contextmanager
def _masked_input(module: nn.Module, axis: AxisCut, row: int) -> Iterator[None]:
    def mask(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        width = args[0].shape[-1] // axis.size
        keep = torch.zeros(axis.size, width, dtype=args[0].dtype)
        keep[axis.row(row).copy()] = 1
        return (args[0] * keep.reshape(-1), *args[1:])

    handle = module.register_forward_pre_hook(mask)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _masked_output(module: nn.Module, keep: Any) -> Iterator[None]:
    def mask(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        kept = torch.zeros(output.shape[-1], dtype=output.dtype)
        kept[keep.copy()] = 1
        return output * kept

    handle = module.register_forward_hook(mask)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _norm_of(norm: nn.Module, keep: Any) -> Iterator[None]:
    """The norm over kept channels only; the others come out as 0."""
    kept = torch.from_numpy(np.array(keep))
    part = copy.deepcopy(norm)
    for name, parameter in list(part.named_parameters()):
        setattr(part, name, nn.Parameter(parameter[kept]))
    if isinstance(part, nn.LayerNorm):
        part.normalized_shape = (len(kept),)

    def forward(hidden: Tensor) -> Tensor:
        output = torch.zeros_like(hidden)
        output[..., kept] = part(hidden[..., kept])
        return output

    with mock.patch.object(norm, "forward", forward):
        yield
