"""The model class on the meta device accepts or refuses configs and shapes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from regrow.architectures import Blueprint
from regrow.architectures.assembled import class_shapes
from regrow.architectures.bart import BART, MBART
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.llama import LLAMA
from regrow.checkpoint import meta_check
from regrow.checkpoint.meta_check import check_on_meta, find_problem
from regrow.common.errors import UserError
from regrow.models.networks import model_class
from tests.cuts.random_cuts import TINY, TINY_IDS
from tests.tiny import tiny_shapes

NAME = LLAMA.architectures[0]
SHAPES = tiny_shapes(LLAMA, LLAMA.tiny[0])


@pytest.mark.parametrize(("blueprint", "number"), TINY, ids=TINY_IDS)
def test_accepts_what_fits(blueprint: Blueprint, number: int) -> None:
    """A tied head may be in the file or not."""
    tiny = blueprint.tiny[number]
    shapes = class_shapes(blueprint, tiny_shapes(blueprint, tiny))
    assert find_problem(tiny, blueprint.architectures[0], shapes) is None
    head = {blueprint.head.weight: shapes[blueprint.head.embedding]}
    assert find_problem(tiny, blueprint.architectures[0], {**head, **shapes}) is None


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "hidden and heads": ({"hidden_size": 20}, {}, "LlamaForCausalLM refuses it: .*20"),
    "no such model": ({"model_type": "lama"}, {}, "LlamaForCausalLM refuses it: .*lama"),
    "missing": (
        {}, {"model.norm.weight": None},
        r"LlamaForCausalLM wants model\.norm\.weight, which is not there",
    ),
    "missing head": ({}, {"lm_head.weight": None}, r"wants lm_head\.weight"),
    "shape": (
        {}, {"lm_head.weight": (24, 61)},
        r"lm_head\.weight: LlamaForCausalLM wants shape \[61, 24\], not \[24, 61\]",
    ),
    "extra": ({}, {"model.layers.4.x": (1,)}, r"LlamaForCausalLM has no model\.layers\.4\.x"),
    "another size": ({"intermediate_size": 8}, {}, r"wants shape \[8, 24\], not \[20, 24\]"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "edits", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(changes: dict[str, Any], edits: dict[str, Any], message: str) -> None:
    shapes = {n: s for n, s in {**SHAPES, **edits}.items() if s is not None}
    with pytest.raises(UserError, match="config.json of the result: .*" + message) as error:
        check_on_meta({**LLAMA.tiny[0], **changes}, LLAMA, shapes)
    assert "\n" not in str(error.value)


def test_head_may_be_absent_only_where_it_is_shared() -> None:
    shapes = tiny_shapes(GEMMA2, GEMMA2.tiny[0])
    untied = {**GEMMA2.tiny[0], "tie_word_embeddings": False}
    problem = find_problem(untied, GEMMA2.architectures[0], shapes)
    assert problem == "Gemma2ForCausalLM wants lm_head.weight, which is not there"


@pytest.mark.parametrize("blueprint", [BART, MBART], ids=lambda b: b.model_type)
def test_only_a_buffer_that_the_class_fills_may_be_absent(blueprint: Blueprint) -> None:
    name = blueprint.architectures[0]
    shapes = tiny_shapes(blueprint, blueprint.tiny[0])

    def problem(absent: str) -> str | None:
        fewer = {tensor: shape for tensor, shape in shapes.items() if tensor != absent}
        return find_problem(blueprint.tiny[0], name, fewer)

    assert problem("final_logits_bias") is None
    for tensor in ("model.encoder.layers.0.fc1.bias", "model.decoder.embed_positions.weight"):
        assert problem(tensor) == f"{name} wants {tensor}, which is not there"
    wrong = {**shapes, "final_logits_bias": (1, 60)}
    assert find_problem(blueprint.tiny[0], name, wrong) == (
        f"final_logits_bias: {name} wants shape [1, 61], not [1, 60]"
    )


def test_a_parameter_may_not_be_absent_whatever_the_class_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacking = {n: s for n, s in SHAPES.items() if n != "model.norm.weight"}
    cls = model_class(NAME)
    monkeypatch.setattr(cls, "_keys_to_ignore_on_load_missing", ["norm"], raising=False)
    assert find_problem(LLAMA.tiny[0], NAME, lacking) == (
        f"{NAME} wants model.norm.weight, which is not there"
    )


def test_queries_a_subprocess_if_transformers_is_not_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def here(**_: Any) -> None:
        raise AssertionError("nothing may be answered in this process")

    here.__module__, here.__name__ = find_problem.__module__, find_problem.__name__
    monkeypatch.setattr(meta_check, "find_problem", here)
    monkeypatch.delitem(sys.modules, "transformers")
    shapes = {**SHAPES, "lm_head.weight": (60, 24)}
    with pytest.raises(UserError, match=r"lm_head\.weight: .* wants shape \[61, 24\], not \[60"):
        check_on_meta(LLAMA.tiny[0], LLAMA, shapes)


def test_code_in_the_current_directory_is_not_run(tmp_path: Path) -> None:
    """The current directory may be that of a downloaded model."""
    for name in ("torch", "transformers", "regrow", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('ran')\n")
    arguments = json.dumps({"config": LLAMA.tiny[0], "architecture": NAME, "shapes": SHAPES})
    code = (
        "import json, sys; from regrow.checkpoint.class_query import query_class; "
        "from regrow.checkpoint.meta_check import find_problem; "
        "query_class(find_problem, **json.loads(sys.argv[1])); "
        "assert 'transformers' not in sys.modules"
    )
    process = subprocess.run(
        [sys.executable, "-P", "-c", code, arguments],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr


def test_module_is_light() -> None:
    code = "import sys, regrow.surgery.carve, regrow.checkpoint.meta_check as m; " \
           "print(sorted({'torch', 'transformers'} & sys.modules.keys()))"  # fmt: skip
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
