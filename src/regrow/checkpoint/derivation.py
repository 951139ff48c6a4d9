"""Derive a blueprint from a model class, and prove it on a tiny model.

The class is built on the meta device at small sizes, and then with one size larger at a time. The
dimensions that grow with a size lie along its axis. How they lie along it (as query, key and value
one after the other, or head by head) does not show in shapes, so each order is tried: with random
parameters, all claims of `regrow.cuts.claims` must hold. An axis for which no order holds is not
cut.
"""

import copy
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regrow.architectures import Layout, bind
from regrow.architectures.cut_config import cut_config, set_field
from regrow.architectures.derived import (
    FIELDS,
    Derived,
    NotDerivedError,
    candidates,
    orders_of,
    patterns_of,
)
from regrow.architectures.dims import parse_dims
from regrow.checkpoint.meta_check import ClassTensors, build_config, class_tensors
from regrow.common.errors import UserError, one_line
from regrow.cuts.claims import (
    ProofError,
    check_claims,
    in_float64,
    random_values,
    silent_transformers,
)
from regrow.cuts.cut import Cut
from regrow.cuts.kept import Shared, kept_indices, position_after, scalings_of
from regrow.models.networks import model_class

_SIZES = {"vocab": 61, "hidden": 48, "ffn": 20, "head": 8, "kv_head": 4}
_SMALL = "a small config"
SEEDS = 3
"""Each draws other weights and other cuts."""
_LAYERS = 6
"""As many as the longest usual period after which kinds of layers repeat."""
_POSITIONS = 64
_SHORT = {"sliding_window": 4, "attention_chunk_size": 4, "window_size": 4}
"""Shorter than the text that is compared, so that kinds of layers differ."""
_NAMES = re.compile("_token_ids?$|^architectures$")
"""Lists that have no entries of layers, whatever their length."""
_NORM_OFFSETS = (None, 1.0, 0.0)
"""Tried in this order: `Derived.norm_offset`."""
_GIVEN_UP = (
    (), ("hidden",), ("kv_head", "head"), ("ffn",), ("hidden", "kv_head", "head"),
    ("hidden", "ffn"), ("ffn", "kv_head", "head"),
)  # fmt: skip
"""Axes that are given up, in this order, until all claims about the others hold."""


def derive(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """What a decoder-only class and the flags of this config give, in types that JSON has.

    Returns a dict: `derived`, a `Derived` as a dict; `values` and `lists`, as its blueprint wants
    them for this config. If nothing can be derived, it holds only `refusal`, the reason in one
    line.
    """
    try:
        with silent_transformers():
            asked = _Asked(config, architecture)
            tiny = json.dumps(asked.tiny(), sort_keys=True)
            facts = _proved(tiny, architecture, json.dumps(asked.facts()))
        return {"derived": facts, "values": asked.values, "lists": asked.lists}
    except NotDerivedError as error:
        return {"refusal": str(error)}


@contextmanager
def _asking(architecture: str, what: str = "it") -> Iterator[None]:
    """Context manager: whatever the class raises is its refusal."""
    try:
        yield
    except Exception as error:
        raise NotDerivedError(f"{architecture} refuses {what}: {one_line(str(error))}") from error


class _Asked:
    """What a config says of its class, and small configs with the same flags."""

    def __init__(self, config: Mapping[str, Any], architecture: str) -> None:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
            raise NotDerivedError(f"{architecture} is no decoder that predicts the next token")
        with _asking(architecture):
            built = build_config(config)
        if built.is_encoder_decoder or built.get_text_config() is not built:
            raise NotDerivedError(f"{architecture} is more than a decoder")
        self.config = config
        with _asking(architecture):
            self.all = built.to_dict()
            fields = self._fields(built)
        self.paths: dict[str, str] = {}
        self.also: dict[str, str] = {}
        self.values: dict[str, int] = {}
        for name, (key, path, value) in fields.items():
            self.paths[name], self.values[name] = path, value
            if path != key:
                self.also[name] = key
        for name in ("vocab", "hidden", "head", "layer"):
            if name not in self.paths:
                raise NotDerivedError(f"its config has no {FIELDS[name][0]}")
        if "head_dim" not in self.paths:
            # Many classes read this field and have no default for it.
            self.paths["head_dim"] = built.attribute_map.get("head_dim", "head_dim")
            self.values["head_dim"] = self.values["hidden"] // self.values["head"]
        self.tied = bool(getattr(built, "tie_word_embeddings", True))
        layers = self.values["layer"]
        self.lists = {
            path: value
            for path, value in self.all.items()
            if isinstance(value, list) and len(value) == layers and not _NAMES.search(path)
        }

    @staticmethod
    def _fields(built: Any) -> dict[str, tuple[str, str, int]]:
        """By axis or fixed size: the usual name of its field, its name here, and its value."""
        found = {}
        for name, keys in FIELDS.items():
            for key in keys:
                path = built.attribute_map.get(key, key)
                if type(value := getattr(built, path, None)) is int:
                    found[name] = key, path, value
                    break
        return found

    def facts(self) -> dict[str, Any]:
        return {"paths": self.paths, "also": self.also, "lists": sorted(self.lists)}

    def tiny(self) -> dict[str, Any]:
        """A config with the same flags and small sizes.

        The size of a head stays, since further fields may hold parts of it.
        """
        small = copy.deepcopy(dict(self.config))
        layers = min(_LAYERS, max(self.values["layer"], 2))
        for path, value in self.lists.items():
            small[path] = value[:layers]
        for path, value in self.all.items():
            if path.endswith("_token_id") and value is not None:
                small[path] = {"pad_token_id": 0, "bos_token_id": 1}.get(path, 2)
            elif type(value) is int and "position" in path:
                small[path] = min(value, _POSITIONS)
            elif type(value) is int and path in _SHORT:
                small[path] = _SHORT[path]
        small["tie_word_embeddings"] = self.tied
        sizes = {**_SIZES, "layer": layers, "head_dim": self.values["head_dim"]}
        for name, path in self.paths.items():
            set_field(small, path, sizes[name])
            small.pop(self.also.get(name, ""), None)
        return small


@lru_cache(maxsize=64)
def _proved(tiny_json: str, architecture: str, facts_json: str) -> dict[str, Any]:
    """A `Derived` as a dict, all claims of which hold on a tiny model."""
    tiny, facts = json.loads(tiny_json), json.loads(facts_json)
    trial = _Trial(tiny, architecture, facts["paths"], facts["lists"])
    found = [_derived(trial, tensors, facts) for tensors in candidates(trial.orders())]
    first: ProofError | None = None
    with in_float64():
        axes_tried = [
            tuple(axis for axis in found[0].axes if axis not in given_up) for given_up in _GIVEN_UP
        ]
        for axes in dict.fromkeys(axes_tried):
            offsets = _NORM_OFFSETS if "hidden" in axes else _NORM_OFFSETS[:1]
            for each, offset in itertools.product(found, offsets):
                tried = replace(each, axes=list(axes), norm_offset=offset)
                try:
                    adds = trial.prove(tried)
                except ProofError as error:
                    first = first or error
                else:
                    return asdict(replace(tried, pre_norm=adds))
    raise NotDerivedError(str(first))


def _derived(trial: "_Trial", tensors: Mapping[str, str], facts: Mapping[str, Any]) -> Derived:
    """What one labelling of the tensors gives."""
    used = {name for label in tensors.values() for name in parse_dims(label).names}
    sites: dict[str, list[str]] = {"hidden": [], "ffn": [], "head": []}
    inside_norms: dict[str, list[str]] = {"head": [], "kv_head": []}
    embeddings = []
    for pattern, label in tensors.items():
        name, _, kind = pattern.rpartition(".")
        module = trial.modules.get(name.replace("{layer}", "0"))
        dims = label.split(", ")
        if kind != "weight" or module is None:
            continue
        if isinstance(module, nn.Embedding):
            embeddings += [name] if dims[-1] == "hidden" else []
        elif isinstance(module, nn.Linear):
            axis = dims[1].partition("*")[0]
            if axis in ("ffn", "head") and "+" not in dims[1]:
                sites[axis].append(name)
        elif dims == ["hidden"]:
            sites["hidden"].append(name)
        elif dims in (["head*head_dim"], ["kv_head*head_dim"]):
            inside_norms[dims[0].partition("*")[0]].append(name)
    found = trial.found
    assert found.embedding is not None
    main = (found.embedding, found.head)
    layer = next(p for p in tensors if "{layer}" in p).partition("{layer}")[0] + "{layer}"
    biases = [p for p, label in tensors.items() if label == "vocab" and p not in main]
    return Derived(
        model_type=trial.tiny["model_type"],
        architecture=trial.architecture,
        paths=facts["paths"],
        also=facts["also"],
        axes=[a for a in ("vocab", "hidden", "ffn", "kv_head", "head") if a in used] + ["layer"],
        sites={**sites, "layer": [layer]},
        inside_norms=inside_norms,
        tensors={p: label for p, label in tensors.items() if p in main or p not in found.tied},
        lists=facts["lists"],
        embedding=found.embedding,
        head=found.head,
        head_bias=biases[0] if biases else None,
        last_norm=next((f"{n}.weight" for n in sites["hidden"] if "{layer}" not in n), None),
        embeddings=embeddings,
        ignored=found.ignored,
        buffers=sorted(found.optional),
        divides=trial.divides,
        pre_norm=False,
    )


class _Trial:
    """A class at tiny sizes."""

    def __init__(
        self,
        tiny: Mapping[str, Any],
        architecture: str,
        paths: Mapping[str, str],
        lists: Sequence[str],
    ) -> None:
        self.tiny, self.architecture = tiny, architecture
        self.paths, self.lists = paths, lists
        self.sizes = {name: tiny[path] for name, path in paths.items()}
        self.found = self._tensors()
        if self.found.embedding is None:
            raise NotDerivedError(f"{architecture} has no input embedding")
        if self._tensors(head_dim=2 * self.sizes["head_dim"]).shapes == self.found.shapes:
            raise NotDerivedError(f"{architecture} has no field for the size of a head")
        with _asking(architecture, _SMALL), torch.device("meta"):
            model = model_class(architecture)(build_config(tiny))
        self.modules = dict(model.named_modules())

    def _config(self, **sizes: int) -> dict[str, Any]:
        config = copy.deepcopy(dict(self.tiny))
        for name, size in sizes.items():
            set_field(config, self.paths[name], size)
        return config

    def _tensors(self, **sizes: int) -> ClassTensors:
        with _asking(self.architecture, _SMALL):
            return class_tensors(self._config(**sizes), self.architecture)

    @property
    def divides(self) -> bool:
        """Whether the class refuses a hidden size that is not a multiple of the heads."""
        try:
            self._tensors(hidden=self.sizes["hidden"] + 2)
        except NotDerivedError:
            return True
        return False

    def orders(self) -> dict[str, list[tuple[str, ...]]]:
        """For each pattern of names, the ways in which its dimensions may lie along the axes."""
        layers = self.sizes["layer"]
        fewer = dict(self.tiny)
        for path in self.lists:
            fewer[path] = self.tiny[path][: layers - 1]
        fewer[self.paths["layer"]] = layers - 1
        with _asking(self.architecture, _SMALL):
            names = class_tensors(fewer, self.architecture).shapes
        patterns = patterns_of(self.found.shapes, names, layers)
        for name, shape in self.found.shapes.items():
            if len(shape) > 2:
                raise NotDerivedError(f"{name}: neither a matrix nor a vector")
        larger = {}
        for axis in ("vocab", "hidden", "ffn", "kv_head", "head"):
            if axis in self.paths:
                larger[axis] = self._tensors(**{axis: 2 * self.sizes[axis]}).shapes
                if larger[axis].keys() != self.found.shapes.keys():
                    raise NotDerivedError(f"other tensors with a larger {self.paths[axis]}")
        found = {}
        for pattern, members in patterns.items():
            first = members[0]
            if len({self.found.shapes[name] for name in members}) > 1:
                raise NotDerivedError(f"{first}: not all layers have its shape")
            grown = {axis: shapes[first] for axis, shapes in larger.items()}
            found[pattern] = orders_of(self.found.shapes[first], grown, self.sizes)
            constant = [dims[0] for dims in found[pattern] if dims[0].isdigit()]
            if constant and len(found[pattern]) > 1 and "{layer}" in pattern:
                raise NotDerivedError(f"{first}: a size of {constant[0]} that no field gives")
        return found

    def prove(self, derived: Derived) -> bool:
        """Whether all that layers write is added to the residual stream as it is.

        Raises ProofError where a claim does not hold.
        """
        tied = self.found.tied if self.tiny["tie_word_embeddings"] else set()
        shapes = {n: s for n, s in self.found.shapes.items() if n not in tied}
        lists = {path: self.tiny[path] for path in derived.lists}
        blueprint = derived.blueprint(shapes, self.sizes, lists)
        try:
            layout = bind(blueprint, self.tiny, shapes)
        except UserError as error:
            raise ProofError(f"bind: {error}") from None
        for seed in range(SEEDS):
            random = np.random.default_rng(seed)
            state = {name: random_values(shape, random) for name, shape in shapes.items()}
            model = self._model(self.tiny, state)

            def carved(cut: Cut, state: Mapping[str, Tensor] = state) -> Any:
                layers = {"layer": cut.layers("layer", self.sizes["layer"]).tolist()}
                try:
                    config = cut_config(layout, cut.sizes, layers)
                except UserError as error:
                    raise ProofError(str(error)) from None
                return self._model(config, _carved(state, layout, cut))

            check_claims(model, layout, "tiny", carved, random, alone=True)
        return _adds_to_stream(model, layout)

    def _model(self, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Any:
        """A model in float64 with these weights."""
        cls = model_class(self.architecture)
        try:
            model = cls._from_config(
                build_config(config), dtype=torch.float64, attn_implementation="eager"
            )
            missing, unexpected = model.load_state_dict(state, strict=False)
        except Exception as error:
            raise ProofError(
                f"{self.architecture} refuses a cut: {one_line(str(error))}"
            ) from error
        if lost := [*unexpected, *(n for n in missing if n not in self.found.tied)]:
            raise ProofError(f"{lost[0]}: not a tensor of both models")
        return model.eval()


def _carved(state: Mapping[str, Tensor], layout: Layout, cut: Cut) -> dict[str, Tensor]:
    """What a cut keeps of the weights."""
    shared: Shared = {}
    scalings = scalings_of(layout, cut)
    kept = {}
    for name, tensor in state.items():
        label = layout.tensors[name]
        position = position_after(label, layout, cut)
        if position is None:
            continue
        for number, dimension in enumerate(label.dims.dimensions):
            keep = kept_indices(dimension, position, layout, cut, shared)
            if keep is not None:
                tensor = tensor.index_select(number, torch.from_numpy(np.array(keep)))
        if name in scalings:
            tensor = scalings[name].applied(tensor)
        kept[label.renamed(position) if label.layer else name] = tensor
    return kept


def _adds_to_stream(model: nn.Module, layout: Layout) -> bool:
    """Whether a layer adds what its attention and its ffn write to its input, times a constant.

    What one of them writes is replaced by random values, and what the other writes by zeros.
    """
    sites = {a.name: a.sites for a in layout.blueprint.axes if a.name in ("ffn", "head")}
    if [len(each) for each in sites.values()] != [1, 1]:
        return False

    def modules(patterns: Sequence[str], place: tuple[str, int]) -> list[nn.Module]:
        return [model.get_submodule(name) for name in layout.modules(patterns, place)]

    ids = torch.arange(8)[None]
    random = torch.Generator().manual_seed(0)
    for number in range(layout.sizes["layer"]):
        place = ("layer", number)
        (layer,) = modules(layout.blueprint.axis("layer").sites, place)
        writers = [module for each in sites.values() for module in modules(each, place)]
        for writes in (None, *writers):
            values = torch.randn(1, 8, layout.sizes["hidden"], generator=random)
            added = _added(model, layer, {w: values * (w is writes) for w in writers}, ids)
            if added is None:
                return False
            factor = (added * values).sum() / (values * values).sum()
            expected = values * factor * (writes is not None)
            if (writes is not None and not factor) or (added - expected).abs().max() > 1e-9:
                return False
    return True


def _added(
    model: nn.Module, layer: nn.Module, written: Mapping[nn.Module, Tensor], ids: Tensor
) -> Tensor | None:
    """The output of a layer less its input, where modules write given values.

    None if the network does not run with values of this shape in their place.
    """
    seen: list[Tensor] = []

    def observe(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        before = args[0] if args else kwargs["hidden_states"]
        seen.append((output[0] if isinstance(output, tuple) else output) - before)

    handles = [
        module.register_forward_hook(lambda *_, values=values: values)
        for module, values in written.items()
    ]
    handles.append(layer.register_forward_hook(observe, with_kwargs=True))
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
    except Exception:  # noqa: BLE001 - the class may raise anything
        return None
    finally:
        for handle in handles:
            handle.remove()
    return seen[0]
