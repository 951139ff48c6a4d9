"""The pages in docs/ say what the code says, and the code on them runs."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.architectures import BLUEPRINTS, Blueprint, Layout, bind, schema
from regrow.architectures.binding import bind_sizes
from regrow.architectures.cut_config import cut_config
from regrow.architectures.dims import parse_dims
from regrow.architectures.openba import OPENBA
from regrow.common.errors import UserError
from regrow.cuts.cut import Cut

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/blueprints.md").read_text(encoding="utf-8")
BY_TYPE = {blueprint.model_type: blueprint for blueprint in BLUEPRINTS}


# --- the code blocks ---------------------------------------------------------------------------


def _blocks(language: str) -> Iterator[tuple[int, str]]:
    """Code blocks of the page with the number of lines above each."""
    for block in re.finditer(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        yield PAGE[: block.start(1)].count("\n"), block[1]


def _run_page() -> dict[str, Any]:
    """What all Python blocks of the page define, run in order as one module."""
    namespace: dict[str, Any] = {"__name__": "docs.blueprints"}
    for above, code in _blocks("python"):
        exec(compile("\n" * above + code, "docs/blueprints.md", "exec"), namespace)
    return namespace


def test_the_code_on_the_page_runs() -> None:
    namespace = _run_page()
    assert namespace["fused"].shape(namespace["sizes"]) == (12, 5)


# --- OpenBA ------------------------------------------------------------------------------------

PUBLISHED: Mapping[str, Any] = {
    "model_type": "openba", "vocab_size": 251_000, "hidden_size": 4_096,
    "ffn_hidden_size": 16_384, "num_layers": 12, "num_decoder_layers": 36, "num_heads": 40,
    "kv_channels": 128, "tie_word_embeddings": False,
}  # fmt: skip


def _openba(layers: Mapping[str, int] | None = None, **changes: Any) -> Layout:
    """The layout of the published model; shapes from the report, not from the blueprint."""
    config = {**PUBLISHED, **changes}
    vocab, hidden, width, ffn = config["vocab_size"], config["hidden_size"], 40 * 128, 11_008
    attention = {"qkv": (3 * width, hidden), "o": (hidden, width)}
    cross = {"q": (width, hidden), "kv": (2 * width, hidden), "o": (hidden, width)}
    shapes: dict[str, tuple[int, ...]] = {
        "shared_embedding.weight": (vocab, hidden),
        "lm_head.weight": (vocab, hidden),
        "lm_head.bias": (vocab,),
    }
    for stack, count in (("encoder", 12), ("decoder", 36)):
        norms = [f"{stack}.final_layernorm"]
        for index in range(count):
            block = f"{stack}.block.{index}"
            linear = {f"{block}.self_attn.{name}": shape for name, shape in attention.items()}
            norms += [f"{block}.input_layernorm", f"{block}.post_attn_layernorm"]
            if stack == "decoder":
                linear |= {f"{block}.inter_attn.{name}": shape for name, shape in cross.items()}
                norms.append(f"{block}.post_inter_attn_layernorm")
            for name, shape in linear.items():
                shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
            shapes[f"{block}.mlp.fc_in.weight"] = (2 * ffn, hidden)
            shapes[f"{block}.mlp.fc_out.weight"] = (hidden, ffn)
        for norm in norms:
            shapes |= {f"{norm}.weight": (hidden,), f"{norm}.bias": (hidden,)}
    return bind(OPENBA, config, shapes, tied=True)


NARROW = {
    "hidden": 2_560,
    **{axis.name: 6_912 for axis in OPENBA.axes if axis.kind == "ffn"},
    **{axis.name: 20 for axis in OPENBA.axes if axis.kind == "head"},
}


def test_openba_has_the_sizes_of_the_report() -> None:
    layout = _openba()
    assert layout.sizes["encoder.ffn"] == layout.sizes["decoder.ffn"] == 11_008

    def billions(encoder: int, decoder: int, **sizes: int) -> float:
        return (
            layout.parameters({"encoder.layer": encoder, "decoder.layer": decoder, **sizes}) / 1e9
        )

    assert billions(12, 36) == pytest.approx(14.57, abs=0.005)
    assert billions(10, 30) == pytest.approx(12.3, abs=0.05)
    assert billions(8, 27) == pytest.approx(11.0, abs=0.05)
    assert billions(8, 24, **NARROW) == pytest.approx(3.8, abs=0.05)
    assert billions(8, 24, vocab=100_000, **NARROW) == pytest.approx(3.42, abs=0.01)
    assert billions(8, 24, vocab=120_000, **NARROW) == pytest.approx(3.47, abs=0.01)


def test_openba_config_follows_a_cut() -> None:
    layout = _openba()
    layout.check_sizes(NARROW)
    config = cut_config(layout, NARROW | {"encoder.layer": 8, "decoder.layer": 24}, {})
    changed = {key: value for key, value in config.items() if value != PUBLISHED[key]}
    assert changed == {
        "hidden_size": 2_560, "ffn_hidden_size": 10_240, "num_heads": 20, "num_layers": 8,
        "num_decoder_layers": 24,
    }  # fmt: skip
    assert bind_sizes(OPENBA, config)["decoder.ffn"] == 6_912


def test_openba_leaves_a_value_whose_size_stays() -> None:
    layout = _openba(ffn_hidden_size=16_500)
    assert layout.sizes["encoder.ffn"] == 11_008
    assert cut_config(layout, {"hidden": 2_560}, {})["ffn_hidden_size"] == 16_500


@pytest.mark.parametrize("size", [6_900, 128, 11_007])
def test_openba_refuses_an_ffn_that_no_config_gives(size: int) -> None:
    ffn = {axis.name: size for axis in OPENBA.axes if axis.kind == "ffn"}
    with pytest.raises(UserError, match="not a multiple of 256"):
        _openba().check_sizes(ffn)


@given(st.integers(1, 1 << 20))
def test_openba_codec_inverts(size: int) -> None:
    codec = OPENBA.axis("decoder.ffn").field.codec
    assert codec is not None
    if size % 256:
        with pytest.raises(ValueError, match="multiple of 256"):
            codec.value(size)
    assert codec.size(codec.value(size * 256)) == size * 256


def test_openba_cuts_its_stacks_alike_where_they_share_a_field() -> None:
    with pytest.raises(UserError, match="ffn_hidden_size; cut them alike"):
        _openba().check_sizes({"encoder.ffn": 6_912})


def test_openba_keeps_query_key_and_value_of_a_head_together() -> None:
    sizes = {"decoder.head": 3, "decoder.cross_head": 3, "head_dim": 2, "hidden": 5}
    block = "decoder.block.{decoder.layer}"

    def rows(name: str, axis: str) -> list[int]:
        kept = OPENBA.dims(f"{block}.{name}").indices(sizes, {axis: np.array([1])})[0]
        assert kept is not None
        return [int(row) for row in kept]

    assert rows("self_attn.qkv.weight", "decoder.head") == [6, 7, 8, 9, 10, 11]
    assert rows("self_attn.qkv.bias?", "decoder.head") == [6, 7, 8, 9, 10, 11]
    assert rows("inter_attn.kv.weight", "decoder.cross_head") == [4, 5, 6, 7]


def test_openba_folds_only_where_the_flag_ties() -> None:
    assert [fold.tensor for fold in _openba().folds()] == []
    assert [fold.tensor for fold in _openba(tie_word_embeddings=True).folds()] == [
        "decoder.final_layernorm.weight",
        "decoder.final_layernorm.bias",
    ]


# --- the tables --------------------------------------------------------------------------------


def _section(model_type: str) -> str:
    """The part of the page under the heading that ends in this model type."""
    hit = re.search(
        rf"^### [^\n]*\(`{model_type}`\)\n(.*?)(?=^##)", PAGE + "\n##", re.MULTILINE | re.DOTALL
    )
    assert hit, f"no section for {model_type}"
    return hit[1]


def _table(model_type: str, first: str) -> list[tuple[str, ...]]:
    """Rows of the table whose first column has this title, after those of the family named by a
    line like "As in `t5`: axes, tensors"."""
    section = _section(model_type)
    plural = {"axis": "axes", "fold": "folds"}.get(first, first)
    taken = re.search(rf"^- As in `(\w+)`: .*\b{plural}\b", section, re.MULTILINE)
    rows: list[tuple[str, ...]] = []
    for line in section.splitlines():
        cells = tuple(cell.strip() for cell in line.strip("|").split("|"))
        if not line.startswith("|"):
            if rows:
                break
        elif rows or cells[0] == first:
            rows.append(cells)
    return (_table(taken[1], first) if taken else []) + rows[2:]


def _codes(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def _default(default: Any) -> str:
    if default is None:
        return ""
    if isinstance(default, schema.Quotient):
        return f"`{default.dividend} // {default.divisor}`"
    return f"{default:,}" if isinstance(default, int) else f"`{default}`"


def _field_cells(field: schema.Field) -> tuple[str, str]:
    names = [f"`{name}`" for name in (field.path, *field.also, field.instead) if name is not None]
    return ", ".join(names), _default(field.default)


def _axis_rows(blueprint: Blueprint) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for axis in blueprint.axes:
        chosen = f"each `{axis.along}`" if axis.along else "once"
        if axis.groups:
            chosen += f", groups of `{axis.groups}`"
        rows.append((f"`{axis.name}`", chosen, *_field_cells(axis.field)))
    for name, field in blueprint.fixed.items():
        rows.append((f"`{name}`", "fixed", *_field_cells(field)))
    return rows


def _fold_rows(blueprint: Blueprint) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for fold in blueprint.folds:
        factor = f"(m/n)**{fold.power}"
        becomes = f"(w + {fold.offset}) * {factor} - {fold.offset}" if fold.offset else None
        where = [] if fold.tied is None else ["head tied" if fold.tied else "head untied"]
        for condition in fold.when:
            assert condition.values == (condition.negate is False,)
            where.append(f"`{condition.field}` {'not false' if condition.negate else 'true'}")
        rows.append(
            (
                f"`{fold.tensor}`",
                f"`{fold.axis}`",
                f"`{becomes or f'w * {factor}'}`",
                ", ".join(where),
            )
        )
    return rows


def _rules(blueprint: Blueprint) -> dict[str, set[str]]:
    """Constraints as text, each with the names and values of its conditions."""
    rules: dict[str, set[str]] = {}
    for rule in blueprint.constraints:
        if isinstance(rule, schema.Divides):
            text = f"{rule.whole} % {rule.part} == 0"
        elif isinstance(rule, schema.AtLeast):
            text = f"{rule.axis} >= {rule.fixed}"
        else:
            text = f"{rule.dividend} / {rule.divisor}"
        conditions = rules.setdefault(text, set())
        if not isinstance(rule, schema.AtLeast) and rule.when:
            conditions |= {rule.when.field, *map(str, rule.when.values)}
    return rules


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda b: b.model_type)
class TestFamily:
    def test_axes(self, blueprint: Blueprint) -> None:
        assert _table(blueprint.model_type, "axis") == _axis_rows(blueprint)

    def test_tensors(self, blueprint: Blueprint) -> None:
        """Each tensor is in exactly one row, with its dimensions; no row is left over."""
        rows: dict[str, str] = {}
        for names, dims in _table(blueprint.model_type, "tensors"):
            for stack in ("encoder", "decoder") if "STACK" in names else ("",):
                for name in _codes(names):
                    rows[name.replace("STACK", stack)] = _codes(dims)[0].replace("STACK", stack)
        used = set()
        for pattern, dims in blueprint.tensors.items():
            hits = [
                name
                for name in rows
                if fnmatchcase(pattern.rstrip("?"), name.rstrip("?"))
                and name.endswith("?") is pattern.endswith("?")
            ]
            assert len(hits) == 1, f"{pattern} is in rows {hits}"
            assert parse_dims(rows[hits[0]]) == parse_dims(dims), pattern
            used.add(hits[0])
        assert used == rows.keys()

    def test_folds(self, blueprint: Blueprint) -> None:
        assert _table(blueprint.model_type, "fold") == _fold_rows(blueprint)

    def test_constraints_and_lists(self, blueprint: Blueprint) -> None:
        written: dict[str, set[str]] = {}
        lists: dict[str, str] = {}
        for line in _section(blueprint.model_type).splitlines():
            if line.startswith("- Constraint: "):
                rule, *conditions = _codes(line)
                written[rule] = set(conditions)
            elif line.startswith("- List: "):
                path, axis = _codes(line)
                lists[path] = axis
        assert written == _rules(blueprint)
        assert lists == {path: rule.axis for path, rule in blueprint.lists.items()}


def test_every_family_has_a_section() -> None:
    written = re.findall(r"^### [^\n]*\(`(\w+)`\)$", PAGE, re.MULTILINE)
    assert sorted(written) == sorted(BY_TYPE)


def test_every_part_of_the_schema_is_explained() -> None:
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    words = set(re.findall(r"\w+", " ".join(_codes(prose))))
    parts = (
        schema.Blueprint, schema.Axis, schema.Field, schema.Quotient, schema.Codec,
        schema.HeadTensors,
        schema.Fold, schema.Condition, schema.Divides, schema.KeepsQuotient, schema.AtLeast,
        schema.LayerList,
    )  # fmt: skip
    names = {part.__name__ for part in parts[1:]}
    assert names | {field.name for part in parts for field in fields(part)} <= words


def test_the_cut_on_the_page_is_a_cut() -> None:
    ((_, text),) = _blocks("json")
    cut = Cut.from_json(json.loads(text), "docs/blueprints.md")
    assert f"`{cut.words()}`" in PAGE


# --- dependencies ------------------------------------------------------------------------------


def test_every_dependency_has_its_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"base": project["dependencies"], **project["optional-dependencies"]}
    needed = {
        (group, re.split(r"[^\w.-]", requirement)[0])
        for group, requirements in groups.items()
        for requirement in requirements
    }
    written: list[tuple[str, str]] = []
    group = ""
    for line in (ROOT / "docs/dependencies.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            group = line.removeprefix("## ").strip("`")
        elif hit := re.fullmatch(r"- `([^`]+)`: \S.*", line):
            written.append((group, hit[1]))
        else:
            assert not line.startswith("-"), line
    assert len(written) == len(set(written))
    assert set(written) == needed
