"""The recipe of the OpenBA-V2 report: its seven rows, and the page that shows them."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import regrow
from regrow.architectures import Layout
from regrow.architectures.flops import forward_flops
from regrow.checkpoint.config_only import bind_config
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.cli.preview_tables import cost_rows, size_rows, total_words
from regrow.cuts.cut import AxisCut, Cut
from regrow.pipeline.preview import Preview, preview_recipe
from regrow.pipeline.published import OPENBA_V2
from regrow.pipeline.recipe import Recipe
from regrow.pipeline.recipe_file import load_recipe
from regrow.pipeline.stage_layouts import layouts_by_stage
from regrow.pipeline.training_time import StageTraining
from regrow.surgery.size_options import sizes_from_options

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes/openba-v2.yaml"
PAGE = (ROOT / "docs/openba-v2.md").read_text(encoding="utf-8")

# Tables 1 and 3 of the report: layers, hidden, ffn, heads, billions of tokens, and parameters in
# billions; then the layers that go, by their numbers in the original.
ROWS = {
    "original": (12, 36, 4_096, 11_008, 40, 350, 14.57),
    "stage-1": (10, 30, 4_096, 11_008, 40, 10, 12.3),
    "stage-2": (8, 27, 4_096, 11_008, 40, 10, 11.0),
    "stage-3": (8, 24, 4_096, 11_008, 40, 15, 10.06),
    "stage-4": (8, 24, 2_560, 6_912, 20, 65, 3.8),
    "stage-5": (8, 24, 2_560, 6_912, 20, 700, 3.8),
    "vocabulary": (8, 24, 2_560, 6_912, 20, None, 3.42),
    "fine-tune": (8, 24, 2_560, 6_912, 20, 10, 3.42),
}
DROPPED = {
    "stage-1": ([4, 8], [7, 11, 18, 20, 22, 30]),
    "stage-2": ([6, 10], [4, 16, 27]),
    "stage-3": ([], [10, 24, 33]),
}


@cache
def recipe() -> Recipe:
    return load_recipe(RECIPE)


@cache
def original() -> Layout:
    return bind_config(ROOT / "recipes/openba-15b")


@cache
def preview() -> Preview:
    return regrow.preview(RECIPE)


def models() -> dict[str, Any]:
    return {stage.name: stage for stage in (preview().original, *preview().stages)}


def test_the_recipe_is_the_schedule_of_the_report() -> None:
    assert list(models()) == list(ROWS)
    for name, (encoder, decoder, hidden, ffn, heads, tokens, parameters) in ROWS.items():
        model = models()[name]
        wanted = {
            "hidden": hidden, "encoder.layer": encoder, "decoder.layer": decoder,
            "encoder.ffn": ffn, "decoder.ffn": ffn, "encoder.head": heads, "decoder.head": heads,
            "decoder.cross_head": heads,
            "vocab": 100_000 if name in ("vocabulary", "fine-tune") else 250_880,
        }  # fmt: skip
        assert model.sizes == wanted, name
        assert (model.training and model.training.tokens) == (tokens and tokens * 10**9), name
        assert model.parameters / 1e9 == pytest.approx(parameters, abs=0.05), name


def test_the_checkpoint_as_published() -> None:
    first = preview().original
    assert first.stored - first.parameters == 250_880 * 4_096
    assert round(first.stored / 1e9, 1) == 15.6
    assert round(first.nbytes / 1e9, 1) == 31.2


def test_layers_composed_back_have_the_original_numbers() -> None:
    layout = original()
    cut = Cut("model", {})
    for stage in recipe().stages[:3]:
        assert stage.cut is not None
        _, given = sizes_from_options(layout, stage.cut.options)
        before = {n: cut.layers(n, original().sizes[n]) for n in ("encoder.layer", "decoder.layer")}
        cut = cut.then(
            Cut("model", {n: AxisCut(layout.sizes[n], keep) for n, keep in given.items()})
        )
        for name, wanted in zip(before, DROPPED[stage.name], strict=True):
            after = cut.layers(name, original().sizes[name])
            assert np.setdiff1d(before[name], after).tolist() == wanted
        layout = layout.resized({name: len(keep) for name, keep in given.items()})


def test_the_comments_give_the_original_numbers() -> None:
    text = RECIPE.read_text(encoding="utf-8")
    commented = re.findall(r"(encoder|decoder): [\d,]+ +# original ([\d, ]+)$", text, re.MULTILINE)
    wanted = [
        (stack, ", ".join(map(str, layers)))
        for both in DROPPED.values()
        for stack, layers in zip(("encoder", "decoder"), both, strict=True)
        if layers
    ]
    assert commented == wanted


def test_the_neural_stage_is_random_as_in_the_report() -> None:
    cut = recipe().stages[3].cut
    assert cut is not None
    assert cut.by == "random"


def test_stage_five_cuts_nothing() -> None:
    assert recipe().stages[4].cut is None


@pytest.mark.parametrize("stage", [s for s in recipe().stages if s.recover], ids=lambda s: s.name)
def test_a_step_is_1024_samples(stage: Any) -> None:
    assert stage.recover.batch_tokens == 1_024 * stage.recover.row_length


def test_every_training_is_compared_with_its_row() -> None:
    *trainings, instructions = [m.training for m in models().values() if m.training]
    # The report does not say how many tokens of instructions it trained on.
    assert instructions.reported is None
    assert [training.reported for training in trainings] == list(OPENBA_V2)
    assert all(0.86 < t.flops / t.reported.flops < 0.895 for t in trainings)


def test_what_differs_from_the_report_is_not_compared() -> None:
    stages = list(recipe().stages)
    assert stages[0].recover is not None
    longer = stages[0].recover.model_copy(update={"tokens": 20_000_000_000})
    stages[0] = stages[0].model_copy(update={"recover": longer})
    changed = preview_recipe(
        recipe().model_copy(update={"stages": stages}), ModelDirectory(ROOT / "recipes/openba-15b")
    )
    first, second = changed.stages[0].training, changed.stages[1].training
    assert first is not None
    assert second is not None
    assert first.reported is None
    assert second.reported is OPENBA_V2[2]


# The page


def table(first: str) -> list[tuple[str, ...]]:
    """The table of the page that begins with this line of titles, without the line below it."""
    lines = PAGE[PAGE.index(f"\n| {first}") + 1 :].splitlines()
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
    return [rows[0], *rows[2:]]


def test_the_page_has_the_sizes() -> None:
    shown = table("stage | layers")
    assert [row[:-1] for row in shown] == list(size_rows(preview()))
    reported = [row.parameters for row in OPENBA_V2] + ["3.4B"] * 2
    assert [row[-1] for row in shown[1:]] == reported


def test_the_page_has_the_costs() -> None:
    assert table("training") == list(cost_rows(preview()))


def test_the_page_has_the_layers() -> None:
    def words(numbers: tuple[list[int], list[int]]) -> str:
        named = zip(("encoder", "decoder"), numbers, strict=True)
        return "; ".join(f"{s} {','.join(map(str, n))}" for s, n in named if n)

    shown = table("stage | numbers in the original")[1:]
    assert [(row[0], row[1]) for row in shown] == [(n, words(d)) for n, d in DROPPED.items()]
    for row, stage, reported in zip(shown, recipe().stages, OPENBA_V2[1:], strict=False):
        assert stage.cut is not None
        assert isinstance(stage.cut.drop_layers, dict)
        assert row[2] == "; ".join(f"{s} {text}" for s, text in stage.cut.drop_layers.items())
        assert row[3:] == tuple(f"{loss:.2f}" for loss in reported.loss)


def test_the_page_has_the_exact_counts() -> None:
    first = preview().original
    for number in (f"{first.stored:,}", f"{first.parameters:,}"):
        assert number in PAGE
    share = 1 - preview().stages[-1].parameters / first.parameters
    assert f"The stages remove {share:.1%} of the exact count" in " ".join(PAGE.split())


def test_the_page_has_the_total() -> None:
    told = next(iter(total_words(preview())))
    assert told == "recovery: 810B tokens, 1.18e22 FLOPs, 49% of the original's training"
    assert "cost 1.18e22 FLOPs, which is 49% of the original's training" in " ".join(PAGE.split())


def test_the_time_is_that_of_the_samples_that_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[StageTraining] = []
    monkeypatch.setattr(
        "regrow.pipeline.preview.time_of", lambda _, stages, *__: timed.extend(stages)
    )
    model = ModelDirectory(ROOT / "recipes/openba-15b")
    shown = preview_recipe(recipe(), model, timed=True).stages
    samples = [stage.training and stage.training.sample for stage in shown]
    assert [stage.recovered_sample for stage in timed] == samples
    flops = [0 if stage.training is None else stage.training.flops for stage in shown]
    assert [stage.flops for stage in timed] == flops


def test_what_the_page_makes_of_the_ratio() -> None:
    """Each figure under "Why the report's figures are higher", from the terms of the formula."""
    stages = layouts_by_stage(recipe().stages, ModelDirectory(ROOT / "recipes/openba-15b"))
    layouts = {"original": original(), **{name: each.after for name, each in stages.items()}}
    recomputed, texts, both, by_parameters = [], [], [], []
    for name, row in zip(layouts, OPENBA_V2, strict=False):
        flops = forward_flops(layouts[name], row.sample)
        shorter = 512 if row.objective != "O-UL2" else 0.8 * 1_898 + 0.2 * 1_700
        recomputed.append(f"{flops.scores / (3 * flops.total):.1%}")
        texts.append(round(3 * flops.total * row.tokens / row.flops))
        both.append(round((3 * flops.total + flops.scores) * row.tokens / shorter / row.flops, 2))
        by_parameters.append(round(6 * models()[name].parameters * row.tokens / row.flops, 2))
    assert recomputed == ["0.9%"] * 4 + ["1.1%", "2.4%"]
    assert (min(texts[:4]), max(texts[:4]), *texts[4:]) == (491, 496, 506, 1_810)
    assert (min(both[:4]), max(both[:4]), *both[4:]) == (0.97, 0.98, 1.0, 1.0)
    assert (min(by_parameters[:5]), max(by_parameters[:5]), by_parameters[5]) == (1.10, 1.14, 1.61)
    said = " ".join(PAGE.split())
    for words in (
        "adds 0.9% in the first four rows, 1.1% in stage 4 and 2.4% in stage 5",
        "491 to 496 tokens of text per sample in the first four rows, 506 in stage 4 and 1,810 in "
        "stage 5",
        "0.97 to 0.98 in the first four rows, 1.00 in stage 4 and 1.00 in stage 5",
        "1.10 to 1.14 of the report's figures in the first five rows, and 1.61 in stage 5",
    ):
        assert words in said


def test_the_page_has_the_parts_of_the_original() -> None:
    flops = forward_flops(original(), OPENBA_V2[0].sample)
    parts = (flops.encoder, flops.decoder, flops.cross_keys_values, flops.scores, flops.head)
    shares = [round(100 * part / flops.total) for part in parts]
    assert "{}, {}, {}, {} and {}%".format(*shares) in " ".join(PAGE.split())
