"""Weight magnitude against norms that are written out, in every family, without a text."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from regrow.architectures import BLUEPRINTS, Blueprint
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import open_checkpoint
from regrow.common.errors import UserError
from regrow.scoring.score import score
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.prune import prune_checkpoint
from tests.scoring.models import BY_TYPE
from tests.tiny import write_tiny

LLAMA = BY_TYPE["llama"]
CASES = [
    pytest.param(blueprint, number, id=f"{blueprint.model_type}-{number}")
    for blueprint in BLUEPRINTS
    for number in range(len(blueprint.tiny))
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_written_out_for_llama(dtype: torch.dtype, tmp_path: Path) -> None:
    """Six query heads on three key-value heads, untied, with all biases."""
    checkpoint = open_checkpoint(write_tiny(LLAMA, tmp_path / "m", dtype=dtype))
    state = {n: t.double() for n, t in load_file(tmp_path / "m" / "model.safetensors").items()}
    found = score(
        ModelDirectory(checkpoint.directory), ["ffn", "hidden", "kv_head"], by="magnitude"
    )

    def norm(*parts: torch.Tensor) -> float:
        return float(sum(part.square().sum().item() for part in parts) ** 0.5)

    hidden = torch.zeros(24, dtype=torch.float64)
    for name, tensor in state.items():
        if name.endswith(tuple(f"{part}_proj.bias" for part in ("q", "k", "v", "gate", "up"))):
            continue
        last = not name.endswith(("o_proj.weight", "down_proj.weight"))
        hidden += tensor.square().reshape(-1, 24).sum(0) if last else tensor.square().sum(1)
    assert found["hidden"] == pytest.approx(hidden.sqrt().numpy())
    for layer in range(4):
        mlp, attention = f"model.layers.{layer}.mlp.", f"model.layers.{layer}.self_attn."
        ffn = [
            norm(
                state[f"{mlp}gate_proj.weight"][i], state[f"{mlp}gate_proj.bias"][i],
                state[f"{mlp}up_proj.weight"][i], state[f"{mlp}up_proj.bias"][i],
                state[f"{mlp}down_proj.weight"][:, i],
            )
            for i in range(20)
        ]  # fmt: skip
        assert found["ffn"][layer] == pytest.approx(ffn)
        heads = []
        for head in range(6):
            own, read = slice(head * 10, head * 10 + 10), slice(head // 2 * 10, head // 2 * 10 + 10)
            heads.append(
                norm(
                    state[f"{attention}q_proj.weight"][own], state[f"{attention}q_proj.bias"][own],
                    state[f"{attention}o_proj.weight"][:, own],
                    *(state[f"{attention}{kv}_proj.{part}"][read]
                      for kv in "kv" for part in ("weight", "bias")),
                )
            )  # fmt: skip
        assert found["head"][layer] == pytest.approx(heads)
        assert found["kv_head"][layer] == pytest.approx(np.reshape(heads, (3, 2)).mean(axis=1))


@pytest.mark.parametrize(("blueprint", "number"), CASES)
def test_an_index_without_weights_scores_zero(
    blueprint: Blueprint, number: int, tmp_path: Path
) -> None:
    for axis in blueprint.axes:
        if axis.kind not in ("hidden", "ffn", "head"):
            continue
        directory = write_tiny(blueprint, tmp_path / axis.name, number)
        layout = bind_checkpoint(open_checkpoint(directory))
        group = layout.sizes[axis.name] // layout.sizes[axis.groups] if axis.groups else 1
        dead = {axis.name: 1, **({axis.groups: 1 // group} if axis.groups else {})}
        state = load_file(directory / "model.safetensors")
        for name, tensor in layout.tensors.items():
            if axis.along and tensor.layer != (axis.along, 1):
                continue
            for dimension, described in enumerate(tensor.dims.dimensions):
                for which, index in dead.items():
                    if which in described.names:
                        places = described.owners(layout.sizes, which) == index
                        state[name].index_fill_(dimension, torch.from_numpy(places.nonzero()[0]), 0)
        save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
        found = score(ModelDirectory(directory), [axis.name], by="magnitude")[axis.name]
        rows = found if axis.along else found[None]
        assert rows.shape == (len(rows), layout.sizes[axis.name])
        assert (rows == 0).sum() == 1
        assert rows[1 if axis.along else 0, 1] == 0


def test_a_cut_needs_no_text_and_repeats(tmp_path: Path) -> None:
    source = write_tiny(LLAMA, tmp_path / "m")
    spec = CutSpec(ffn=12, hidden=18, heads=3, by="magnitude")
    cuts = [
        prune_checkpoint(ModelDirectory(source), tmp_path / name, spec).cut for name in ("a", "b")
    ]
    assert cuts[0] == cuts[1]
    with pytest.raises(
        UserError, match="by: magnitude scores hidden, ffn, kv_head, head, expert, not"
    ):
        prune_checkpoint(ModelDirectory(source), tmp_path / "c", CutSpec(layers=2, by="magnitude"))
