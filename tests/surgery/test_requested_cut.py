"""What the options of a cut ask of a model, from its layout alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regrow.architectures import Layout
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.llama import LLAMA
from regrow.architectures.t5 import T5
from regrow.common.errors import UserError
from regrow.cuts.cut import AxisCut, Cut
from regrow.scoring.score_file import SavedScores
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.requested_cut import RequestedCut, is_refitted_by_default, request_cut
from regrow.vocabulary.vocabulary_spec import VocabularySpec
from tests.tiny import tiny_layout

UNTIED, TIED = tiny_layout(LLAMA), tiny_layout(LLAMA, 1)
POST_NORM, STACKS = tiny_layout(GEMMA2), tiny_layout(T5)
MODEL, OTHER = "sha256:" + "0" * 64, "sha256:" + "1" * 64

FILES = {
    "layers": {"layer": AxisCut(4, np.array([0, 1, 3]))},
    "reordered layers": {"layer": AxisCut(4, np.array([3, 1]))},
    "vocabulary": {"vocab": AxisCut(61, np.arange(50))},
    "vocabulary of whole layers": {
        "vocab": AxisCut(61, np.arange(50)), "layer": AxisCut(4, np.arange(4)),
    },
    "directions": {"hidden": AxisCut(24, np.arange(12), rotated=True)},
    "channels": {"hidden": AxisCut(24, np.arange(12))},
}  # fmt: skip


def cut_file(directory: Path, name: str) -> Path:
    path = directory / "cut.json"
    Cut(MODEL, FILES[name]).save(path)
    return path


def score_file(directory: Path, *axes: str) -> Path:
    """Scores of some axes of `UNTIED`."""
    path = directory / "scores.json"
    scores = {name: np.arange(UNTIED.sizes[name], dtype=np.float64) for name in axes}
    SavedScores(MODEL, dict.fromkeys(axes, "random"), 0, None, scores).save(path)
    return path


def requested(
    layout: Layout = UNTIED, *, text: bool = True, fingerprint: str | None = None, **options: Any
) -> RequestedCut:
    return request_cut(CutSpec(**options), layout, fingerprint=fingerprint, has_text=text)


@pytest.mark.parametrize(
    ("layout", "options", "sizes", "scored"),
    [
        (UNTIED, {"layers": 3, "ffn": 8}, {"layer": 3, "ffn": 8}, ("layer", "ffn")),
        (UNTIED, {"layers": 3, "ffn": 20}, {"layer": 3}, ("layer",)),
        (UNTIED, {"heads": 3}, {"head": 3}, ("head",)),
        (UNTIED, {"kv_heads": 2}, {"kv_head": 2, "head": 4}, ("kv_head", "head")),
        (UNTIED, {"hidden": 12, "by": "activation"}, {"hidden": 12}, ("hidden",)),
        (UNTIED, {"drop_layers": "1,2", "ffn": 8}, {"layer": 2, "ffn": 8}, ("ffn",)),
        (UNTIED, {"vocab_size": 40}, {"vocab": 40}, ()),
        (UNTIED, {"layers": 3, "vocab_size": 61}, {"layer": 3}, ("layer",)),
        (STACKS, {"layers": {"decoder": 2}}, {"decoder.layer": 2}, ("decoder.layer",)),
    ],
)
def test_the_sizes_after_the_cut_and_the_axes_that_are_scored(
    layout: Layout, options: dict[str, Any], sizes: dict[str, int], scored: tuple[str, ...]
) -> None:
    found = requested(layout, **options)
    assert found.sizes == sizes
    assert found.scored == scored
    assert (found.layout, found.from_file, found.scores) == (layout, None, None)


def test_the_layers_that_the_user_drops_are_kept_by_number() -> None:
    (name, keep), = requested(drop_layers="1,2", ffn=8).kept.items()  # fmt: skip
    assert (name, keep.tolist()) == ("layer", [0, 3])
    assert requested(layers=2).kept == {}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"vocab_size": 40}, VocabularySpec(size=40)),
        ({"vocab": VocabularySpec(size=40, pad_to=8)}, VocabularySpec(size=40, pad_to=8)),
        ({"vocab": VocabularySpec(plan=Path("p.json"))}, VocabularySpec(plan=Path("p.json"))),
        ({"layers": 3}, None),
        ({"layers": 3, "vocab_size": 61}, None),
        ({"layers": 3, "vocab": VocabularySpec(size=61)}, None),
        (
            {"layers": 3, "vocab": VocabularySpec(size=61, pad_to=64, drop=["nonsense"])},
            VocabularySpec(size=61, pad_to=64, drop=["nonsense"]),
        ),
    ],
)
def test_the_vocabulary_that_is_still_to_be_chosen(
    options: dict[str, Any], expected: VocabularySpec | None
) -> None:
    assert requested(**options).vocabulary == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"vocab_size": 40}, True),
        ({"vocab": VocabularySpec(plan=Path("p.json"))}, True),
        ({"vocab_size": 40, "layers": 4}, True),
        ({"vocab_size": 40, "layers": 3}, False),
        ({"drop_layers": "0"}, False),
    ],
)
def test_whether_only_the_vocabulary_is_cut(options: dict[str, Any], expected: bool) -> None:
    assert requested(**options).only_vocabulary is expected
    assert requested(**options).is_refitted is not expected


@pytest.mark.parametrize(
    ("layout", "options", "rotated"),
    [
        (UNTIED, {"hidden": 12}, "hidden"),
        (UNTIED, {"hidden": 12, "rotate": False}, None),
        (UNTIED, {"hidden": 12, "by": "random"}, None),
        (UNTIED, {"hidden": 12, "ffn": 8, "by": "random", "rotate": True}, "hidden"),
        (UNTIED, {"hidden": 24, "layers": 3}, None),
        (UNTIED, {"hidden": 12, "text": False, "by": "random"}, None),
        (TIED, {"hidden": 12}, None),
        (POST_NORM, {"hidden": 12}, None),
    ],
)
def test_whether_hidden_is_rotated(
    layout: Layout, options: dict[str, Any], rotated: str | None
) -> None:
    found = requested(layout, **options)
    assert found.rotated == rotated
    assert ("hidden" in found.scored) is (rotated is None and "hidden" in found.sizes)


@pytest.mark.parametrize(
    ("layout", "options", "expected"),
    [
        (UNTIED, {}, True),
        (UNTIED, {"refit": True}, True),
        (UNTIED, {"refit": False}, False),
        (UNTIED, {"text": False, "by": "random"}, False),
        (POST_NORM, {}, False),
        (POST_NORM, {"refit_passes": 1}, True),
    ],
)
def test_whether_the_layers_are_refitted(
    layout: Layout, options: dict[str, Any], expected: bool
) -> None:
    assert requested(layout, layers=3, **options).is_refitted is expected


@pytest.mark.parametrize("layout", [UNTIED, POST_NORM])
@pytest.mark.parametrize("options", [{"layers": 3}, {"vocab_size": 40}, {"ffn": 8, "hidden": 12}])
def test_whether_sizes_without_options_are_refitted(
    layout: Layout, options: dict[str, Any]
) -> None:
    found = requested(layout, **options)
    assert is_refitted_by_default(layout, found.sizes) is found.is_refitted


@pytest.mark.parametrize(
    ("name", "sizes", "rotated", "only_vocabulary", "is_refitted"),
    [
        ("layers", {"layer": 3}, None, False, True),
        ("reordered layers", {"layer": 2}, None, False, False),
        ("vocabulary", {"vocab": 50}, None, True, False),
        ("vocabulary of whole layers", {"vocab": 50}, None, True, False),
        ("directions", {"hidden": 12}, "hidden", False, True),
        ("channels", {"hidden": 12}, None, False, True),
    ],
)
def test_a_cut_file_says_all(
    tmp_path: Path,
    name: str,
    sizes: dict[str, int],
    rotated: str | None,
    only_vocabulary: bool,
    is_refitted: bool,
) -> None:
    found = requested(cut=cut_file(tmp_path, name), fingerprint=MODEL)
    assert found.from_file == Cut(MODEL, FILES[name])
    assert found.sizes == sizes
    assert (found.kept, found.scored, found.scores, found.vocabulary) == ({}, (), None, None)
    assert found.rotated == rotated
    assert found.only_vocabulary is only_vocabulary
    assert found.is_refitted is is_refitted


def test_scores_from_a_file(tmp_path: Path) -> None:
    path = score_file(tmp_path, "ffn", "hidden")
    found = requested(ffn=8, hidden=12, scores=path, text=False, fingerprint=MODEL)
    assert found.scored == ("hidden", "ffn")
    assert found.scores is not None
    assert found.scores["ffn"].tolist() == list(range(20))
    # Neither the axis that is rotated nor the layers that are listed need scores.
    given: dict[str, Any] = {"drop_layers": "1", "hidden": 12, "rotate": True}
    assert requested(**given, scores=score_file(tmp_path, "ffn")).scored == ()


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        (UNTIED, {"layers": 9}, "layers: 9 is not between 1 and 4, what the model has"),
        (UNTIED, {"drop_layers": "7"}, "drop_layers 7: "),
        (UNTIED, {"heads": 4}, "heads: 4 heads on 3 key-value heads cannot be cut from"),
        (STACKS, {"layers": 2}, "layers 2: t5 has 2 stacks; give encoder=2 or decoder=2"),
        (UNTIED, {"ffn": 20}, "ffn 20: nothing is cut: the model has that size; give less"),
        (UNTIED, {"vocab": {"size": 61}}, "vocab_size 61: nothing is cut"),
        (
            UNTIED,
            {"vocab": {"size": 61, "pad_to": 64, "drop": ["nonsense"]}},
            "vocab_size 61: nothing is cut: the model has that size; give less",
        ),
        (
            UNTIED,
            {"ffn": 8, "by": "influence"},
            "by: influence scores layer, not ffn; give random ",
        ),
        (
            UNTIED,
            {"layers": 3, "by": "wanda"},
            "by: wanda scores hidden, ffn, .*, not layer; give ",
        ),
        (UNTIED, {"ffn": 8, "text": False}, "calibration: ffn: scoring by activation needs a text"),
        (UNTIED, {"layers": 3, "refit": False, "refit_passes": 1}, "refit_passes: refit is false"),
        (UNTIED, {"layers": 3, "refit": True, "text": False}, "refit: a refit needs a text"),
        (UNTIED, {"vocab_size": 40, "refit": True}, "refit: only the vocabulary is cut"),
        (
            UNTIED,
            {"vocab_size": 40, "refit": True, "refit_passes": 1},
            "refit: only the vocabulary is cut, .* leave refit and refit_passes out",
        ),
        (POST_NORM, {"layers": 3, "refit": True}, "refit: gemma2 normalises .*; give refit_passes"),
        (TIED, {"hidden": 12, "rotate": True}, "rotate: the head is tied .*; leave rotate out"),
        (
            POST_NORM,
            {"hidden": 12, "rotate": True},
            "rotate: gemma2 normalises what is in its resi",
        ),
        (UNTIED, {"hidden": 24, "layers": 3, "rotate": True}, "rotate: hidden keeps its size"),
        (
            UNTIED,
            {"hidden": 12, "rotate": True, "text": False},
            "rotate: principal directions are ",
        ),
        (
            UNTIED,
            {"hidden": 12, "rotate": True, "by": "activation"},
            "rotate: principal directions are chosen by themselves; leave by or rotate out",
        ),
        (UNTIED, {"cut": Path("/none.json")}, "/none.json: no such file; name a cut, such as"),
        (
            UNTIED,
            {"ffn": 8, "scores": Path("/none.json")},
            "scores: /none.json: no such file; name a file",
        ),
    ],
)
def test_what_is_not_possible(layout: Layout, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        requested(layout, **options)


@pytest.mark.parametrize(
    ("name", "layout", "options", "message"),
    [
        ("layers", UNTIED, {"fingerprint": OTHER}, "cut: it was made for model sha256:0000"),
        ("layers", POST_NORM, {}, "cut: axis layer: made for size 4, the model has 5"),
        ("directions", TIED, {}, "cut: axis hidden: the head is tied"),
        ("directions", UNTIED, {"text": False}, "cut: its principal directions are found on a te"),
        (
            "reordered layers",
            UNTIED,
            {"refit": True},
            "refit: the cut puts layers in another order",
        ),
        ("vocabulary", UNTIED, {"refit_passes": 1}, "refit_passes: only the vocabulary is cut"),
        ("layers", UNTIED, {"refit": True, "text": False}, "refit: a refit needs a text"),
    ],
)
def test_a_cut_file_that_is_not_possible(
    tmp_path: Path, name: str, layout: Layout, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        requested(layout, cut=cut_file(tmp_path, name), **options)


def test_scores_of_another_model_or_axis(tmp_path: Path) -> None:
    path = score_file(tmp_path, "ffn")
    with pytest.raises(UserError, match=r"scores: .*made for model sha256:0000.*; score this"):
        requested(ffn=8, scores=path, fingerprint=OTHER)
    with pytest.raises(UserError, match=r"scores: .*holds no scores of layer, but of ffn; score"):
        requested(layers=3, scores=path)
    with pytest.raises(UserError, match=r"scores: .*ffn: scores of shape \[20\] do not fit the 16"):
        requested(UNTIED.resized({"ffn": 16}), ffn=8, scores=path)
