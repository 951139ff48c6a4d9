"""Scores at random: uniform, keyed by seed and axis, and light."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.architectures import BLUEPRINTS, Blueprint
from regrow.cuts.choose_indices import choose
from regrow.scoring.random_scores import random_scores
from tests.tiny import tiny_layout

LLAMA = next(blueprint for blueprint in BLUEPRINTS if blueprint.model_type == "llama")
LAYOUT = tiny_layout(LLAMA)


@given(st.integers(0, 2**63), st.sampled_from(LLAMA.axis_names))
def test_pure_function_of_seed_and_axis(seed: int, name: str) -> None:
    axis = LLAMA.axis(name)
    scores = random_scores(LAYOUT, axis, seed)
    assert (scores >= 0).all()
    assert (scores < 1).all()
    assert (scores == random_scores(LAYOUT, axis, seed)).all()
    assert (scores != random_scores(LAYOUT, axis, seed + 1)).any()


def test_the_same_bits_on_every_machine() -> None:
    scores = random_scores(LAYOUT, LLAMA.axis("layer"), 7)
    assert scores.tolist() == [
        0.49752849421062884,
        0.1951099927913612,
        0.36425972079093083,
        0.10306731073305375,
    ]


def test_axes_and_layers_differ() -> None:
    ffn = random_scores(LAYOUT, LLAMA.axis("ffn"), 0)
    hidden = random_scores(LAYOUT, LLAMA.axis("hidden"), 0)
    assert len({row.tobytes() for row in ffn}) == LAYOUT.sizes["layer"]
    assert (ffn[0] != hidden[: len(ffn[0])]).all()


def test_uniform() -> None:
    values = np.concatenate(
        [random_scores(LAYOUT, LLAMA.axis("ffn"), s).ravel() for s in range(99)]
    )
    counts = np.histogram(values, bins=10, range=(0, 1))[0]
    assert abs(counts - len(values) / 10).max() < 5 * (len(values) * 0.09) ** 0.5


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda b: b.model_type)
def test_choose_takes_them_for_every_axis(blueprint: Blueprint) -> None:
    layout = tiny_layout(blueprint)
    for axis in blueprint.axes:
        scores = {a.name: random_scores(layout, a, 3) for a in blueprint.axes}
        sizes = {name: layout.sizes[name] for name in layout.axes_of_field(axis.name)}
        smaller = next(
            (
                trial
                for n in range(layout.sizes[axis.name] - 1, 0, -1)
                if layout.size_problem(trial := dict.fromkeys(sizes, n)) is None
            ),
            None,
        )
        if smaller is not None:
            cut = choose(layout, "m", smaller, scores)
            assert cut.sizes == smaller


def test_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys\n"
        "from regrow.architectures import BLUEPRINTS, bind\n"
        "from regrow.scoring.registry import SCORES\n"
        "from regrow.scoring.random_scores import random_scores\n"
        "import regrow.scoring.score\n"
        "assert SCORES['random'].source.draw is random_scores\n"
        "print([m for m in ('torch', 'transformers', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
