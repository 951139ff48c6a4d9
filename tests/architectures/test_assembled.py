"""Parameters that transformers assembles from several tensors: routers and experts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from regrow.architectures import BLUEPRINTS, Blueprint, blueprint_for
from regrow.architectures.assembled import assembled, class_shapes, file_shapes
from regrow.architectures.cut_config import cut_config
from regrow.architectures.flops import SampleShape, forward_flops
from regrow.architectures.llama import LLAMA
from regrow.architectures.qwen3_moe import QWEN3_MOE
from regrow.architectures.schema import Axis, Field
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import open_checkpoint
from regrow.common.errors import UserError
from regrow.cuts.cut import AxisCut, Cut
from regrow.models.networks import model_class
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.prune import prune_checkpoint
from regrow.surgery.search.speed import _parts
from tests.cuts.random_cuts import TINY, TINY_IDS
from tests.surgery.refitting.cases import calibration, refitted
from tests.tiny import tiny_layout, tiny_shapes, weights_by_name, write_tiny

WITH_EXPERTS = [blueprint for blueprint in BLUEPRINTS if "expert" in blueprint.axis_names]
experts = pytest.mark.parametrize("blueprint", WITH_EXPERTS, ids=lambda b: b.model_type)


@pytest.mark.parametrize(("blueprint", "number"), TINY, ids=TINY_IDS)
def test_shapes_in_files_and_in_the_class(blueprint: Blueprint, number: int) -> None:
    stored = tiny_shapes(blueprint, blueprint.tiny[number])
    inside = class_shapes(blueprint, stored)
    assert file_shapes(blueprint, inside) == stored
    sizes = [sum(map(np.prod, shapes.values())) for shapes in (stored, inside)]
    assert sizes[0] == sizes[1]
    made = assembled(blueprint, stored)
    assert bool(made) is ("expert" in blueprint.axis_names)
    assert {each.parameter for each in made} == inside.keys() - stored.keys()


@experts
def test_parts_lie_where_transformers_puts_them(blueprint: Blueprint, tmp_path: Path) -> None:
    source = write_tiny(blueprint, tmp_path / "m")
    model = model_class(blueprint.architectures[0]).from_pretrained(source, dtype=torch.float32)
    stored, found = load_file(source / "model.safetensors"), weights_by_name(model, blueprint)
    assert stored.keys() <= found.keys()
    assert all(torch.equal(found[name], values) for name, values in stored.items())


@experts
def test_dropped_experts_leave_no_tensor(blueprint: Blueprint, tmp_path: Path) -> None:
    source = write_tiny(blueprint, tmp_path / "m")
    result = prune_checkpoint(
        ModelDirectory(source), tmp_path / "out", CutSpec(experts=3, by="random")
    )
    keep = result.cut.axes["expert"].keep
    assert keep.shape == (3, 3)
    assert len({tuple(row) for row in keep.tolist()}) > 1, "each layer has its own choice"
    stored, found = (load_file(each / "model.safetensors") for each in (source, tmp_path / "out"))
    layout = bind_checkpoint(open_checkpoint(tmp_path / "out"))
    of_experts = [each for each in layout.tensors.values() if each.expert is not None]
    assert len(of_experts) == 3 * 3 * 3
    for tensor in of_experts:
        assert tensor.layer is not None
        assert tensor.expert is not None
        layer = tensor.layer[1]
        before = int(keep[layer, tensor.expert[1]])
        assert torch.equal(found[tensor.name], stored[tensor.renamed(layer, before)])


@pytest.mark.parametrize(("size", "message"), [
    (1, "experts: 1 is less than the 2 that compute each token; keep at least so many"),
    (6, "experts: 6 is not between 1 and 5, what the model has"),
    (5, "experts 5: nothing is cut: the model has that size; give less"),
])  # fmt: skip
@experts
def test_numbers_of_experts(blueprint: Blueprint, size: int, message: str, tmp_path: Path) -> None:
    source = ModelDirectory(write_tiny(blueprint, tmp_path / "m"))
    with pytest.raises(UserError) as error:
        prune_checkpoint(source, tmp_path / "out", CutSpec(experts=size, by="random"))
    assert str(error.value) == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("field", ["num_experts", "num_local_experts"])
def test_a_cut_writes_the_field_that_a_file_has(field: str) -> None:
    """transformers 5 saves `num_local_experts`, published files have `num_experts`."""
    layout = tiny_layout(QWEN3_MOE)
    config = {name: each for name, each in layout.config.items() if name != "num_experts"}
    found = cut_config(layout, {"expert": 3}, {}, {**config, field: 5})
    assert found == {**config, field: 3}


def test_a_field_that_a_class_reads_is_written_if_only_its_copy_is_there() -> None:
    """As LLaVA has it: the class takes its default where the text config names no vocabulary."""
    axes = (Axis("vocab", Field("vocab_size", default=61, also=("copy",))), *LLAMA.axes[1:])
    layout = replace(tiny_layout(LLAMA), blueprint=replace(LLAMA, axes=axes))
    config = {name: each for name, each in layout.config.items() if name != "vocab_size"}
    found = cut_config(layout, {"vocab": 31}, {}, {**config, "copy": 61})
    assert found == {**config, "copy": 31, "vocab_size": 31}


@pytest.mark.parametrize(
    "change",
    [{"mlp_only_layers": [1]}, {"decoder_sparse_step": 2}],
    ids=lambda each: next(iter(each)),
)
def test_a_model_with_some_layers_without_experts_has_no_blueprint(
    change: dict[str, object], tmp_path: Path
) -> None:
    tiny = dict(QWEN3_MOE.tiny[0])
    assert blueprint_for(tiny) is QWEN3_MOE
    assert blueprint_for(tiny | change) is None


@experts
def test_two_cuts_are_one(blueprint: Blueprint, tmp_path: Path) -> None:
    """The second drops a layer too, and each layer drops other experts in each cut."""
    first, second, once = (tmp_path / name for name in ("first", "second", "once"))
    source = write_tiny(blueprint, tmp_path / "m")
    before = prune_checkpoint(ModelDirectory(source), first, CutSpec(experts=4, by="random")).cut
    spec = CutSpec(experts=2, layers=2, by="random")
    after = prune_checkpoint(ModelDirectory(first), second, spec, seed=1).cut
    (tmp_path / "cut.json").write_text(json.dumps(before.then(after).to_json()))
    prune_checkpoint(ModelDirectory(source), once, CutSpec(cut=tmp_path / "cut.json"))
    stored, wanted = (load_file(each / "model.safetensors") for each in (once, second))
    assert stored.keys() == wanted.keys()
    assert all(torch.equal(stored[name], each) for name, each in wanted.items())


@experts
def test_a_hidden_size_that_stays_may_be_any(blueprint: Blueprint, tmp_path: Path) -> None:
    source = write_tiny(blueprint, tmp_path / "m", hidden_size=20, num_attention_heads=4,
                        num_key_value_heads=2)  # fmt: skip
    layout = ModelDirectory(source).layout
    assert layout.size_problem({"expert": 3}) is None
    problem = layout.size_problem({"hidden": 10, "head": 2, "kv_head": 1})
    assert str(problem) == (f"hidden: 10 is not a multiple of 8, as {blueprint.model_type} needs")


@experts
def test_of_a_file_with_stacked_experts_the_vocabulary_can_be_cut(
    blueprint: Blueprint, tmp_path: Path
) -> None:
    source = write_tiny(blueprint, tmp_path / "m")
    model = model_class(blueprint.architectures[0]).from_pretrained(source, dtype=torch.float32)
    model.save_pretrained(tmp_path / "stacked", save_original_format=False)
    layout = ModelDirectory(tmp_path / "stacked").layout
    assert layout.blueprint.vocabulary_only
    assert layout.parameters() == ModelDirectory(source).layout.parameters()


def test_the_ffn_of_experts_cannot_be_cut(tmp_path: Path) -> None:
    source = ModelDirectory(write_tiny(QWEN3_MOE, tmp_path / "m"))
    with pytest.raises(UserError) as error:
        prune_checkpoint(source, tmp_path / "out", CutSpec(ffn=8, by="random"))
    assert str(error.value) == (
        "ffn: qwen3_moe has no such axis; its experts can be cut, so give experts"
    )


@pytest.mark.parametrize("field", ["num_experts", "num_local_experts"])
def test_an_error_names_the_field_that_a_file_has(field: str, tmp_path: Path) -> None:
    source = write_tiny(QWEN3_MOE, tmp_path / "m")
    config = json.loads((source / "config.json").read_text())
    del config["num_experts"]
    (source / "config.json").write_text(json.dumps({**config, field: 4}))
    with pytest.raises(UserError, match=rf"experts\.4.*: config.json says 4 experts \({field}\)"):
        _ = ModelDirectory(source).layout


@experts
def test_time_of_a_token_counts_the_experts_that_compute_it(blueprint: Blueprint) -> None:
    layout = tiny_layout(blueprint)
    _, _, inside, _ = _parts(layout, {})
    matrices = forward_flops(layout, SampleShape(1, 1)).decoder // 2
    small = sum(
        np.prod(each.shape) for each in layout.tensors.values()
        if each.layer is not None and len(each.shape) == 1
    )  # fmt: skip
    assert inside == matrices + small
    assert _parts(layout, {"expert": 2})[2] - inside == -3 * (5 - 2) * 24  # rows of the router


@experts
def test_an_offloaded_refit_is_that_in_memory(
    blueprint: Blueprint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelDirectory(write_tiny(blueprint, tmp_path / "m"))
    layers = AxisCut(3, np.array([0, 2]))
    axes = {"expert": AxisCut(5, np.array([4, 1])), "layer": layers}
    cut, text = Cut(model.checkpoint.fingerprint, axes), calibration(model, 40)
    found = refitted(model, cut, text, passes=2)
    little = "regrow.surgery.refitting.refit.check_memory"
    monkeypatch.setattr(little, lambda *_: "there is little memory")
    other = refitted(model, cut, text, passes=2)
    assert found.corrections.keys() == other.corrections.keys()
    assert any(".experts.1." in name for name in found.corrections)
    for name, each in found.corrections.items():
        rows = each.shape[0]
        assert np.array_equal(each.rows(0, rows), other.corrections[name].rows(0, rows)), name
