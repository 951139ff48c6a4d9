"""Summaries as a run would hand them over."""

import math
import random
from datetime import UTC, datetime

import pytest

from regrow.objectives.rows.denoisers import UL2
from regrow.report.records import (
    EvaluationRow,
    HeldoutCurve,
    KeptAxis,
    Loading,
    Machine,
    MixtureRow,
    ModelRow,
    Outcome,
    RunSummary,
    Sample,
    Score,
    Seconds,
    StageRow,
    Text,
)
from regrow.training.mixing.dynamic_mixture import RULES, DynamicMixture

LAYERS = tuple(index for index in range(30) if index not in (9, 11, 12, 15, 18, 19, 22, 26))
RECIPE = """\
name: smollm2-65m
model: HuggingFaceTB/SmolLM2-135M
seed: 17
stages:
  - name: depth
    cut: {layer: 22, score: influence}
    recover: {tokens: 4M, learning_rate: 3.0e-4, distill: true}
  - name: width
    cut: {ffn: 960, score: activation, correct: true}
    recover: {tokens: 6M, learning_rate: 3.0e-4, distill: true}
  - name: vocabulary
    cut: {vocab: 16384, score: count}
    recover: {tokens: 4M, learning_rate: 2.0e-4}
"""


def parts(layers: int, ffn: int, vocab: int) -> dict[str, int]:
    """Of a model with the hidden size and heads of SmolLM2-135M."""
    return {
        "embedding": vocab * 576,
        "attention": layers * (2 * 576 * 576 + 2 * 576 * 192),
        "ffn": layers * 3 * 576 * ffn,
        "norms": layers * 1152 + 576,
        "head": 0,
    }


def scores(**values: tuple[float, float]) -> dict[str, Score]:
    return {name: Score(loss=a, bits_per_byte=b) for name, (a, b) in values.items()}


def model(
    name: str, role: str, sizes: tuple[int, int, int], speed: float, **rest: object
) -> object:
    by_part = parts(*sizes)
    total = sum(by_part.values())
    return {
        "name": name,
        "role": role,
        "parameters": total,
        "parameters_by_part": by_part,
        "vocabulary": sizes[2],
        "bytes_on_disk": 2 * total + 31_000,
        "speed": {
            "tokens_per_second": (0.95 * speed, speed, 1.02 * speed),
            "beside": (40.0, 41.3, 42.0),
        },
        **rest,
    }


def recovery(
    generator: random.Random, start: float, end: float, tokens: int
) -> tuple[tuple[int, float], ...]:
    steps = 400
    fall = [(end + (start - end) * math.exp(-9 * i / steps)) for i in range(steps)]
    return tuple(
        (tokens * (i + 1) // steps, loss + generator.gauss(0, 0.09)) for i, loss in enumerate(fall)
    )


def held_out(start: tuple[float, float], end: tuple[float, float], tokens: int) -> HeldoutCurve:
    """Stories are measured during the training too, prose only before and after."""

    def between(share: float) -> float:
        return end[0] + (start[0] - end[0]) * math.exp(-6 * share)

    points = tuple((tokens * i // 8, between(i / 8)) for i in range(1, 8))
    return HeldoutCurve(
        unit="bits per byte",
        texts={
            "stories": ((0, start[0]), *points, (tokens, end[0])),
            "prose": ((0, start[1]), (tokens, end[1])),
        },
    )


def choose(generator: random.Random, size: int, kept: int, lean: float = 0.0) -> tuple[int, ...]:
    ranked = sorted(range(size), key=lambda i: generator.random() + lean * i / size)
    return tuple(sorted(ranked[:kept]))


@pytest.fixture
def smollm2() -> RunSummary:
    """SmolLM2-135M cut in three stages to 65M parameters, with everything measured."""
    generator = random.Random(5)
    rows = [
        model("SmolLM2-135M", "original", (30, 1536, 49152), 41.3,
              after_recovery=scores(stories=(2.12, 0.742), prose=(2.99, 0.941))),
        model("depth", "stage", (22, 1536, 49152), 54.0, path="stages/depth/model",
              after_cut=scores(stories=(3.41, 1.193), prose=(3.70, 1.165)),
              after_recovery=scores(stories=(2.03, 0.711), prose=(3.04, 0.957))),
        model("width", "stage", (22, 960, 49152), 66.8, path="stages/width/model",
              after_cut=scores(stories=(3.16, 1.106), prose=(4.31, 1.357)),
              after_recovery=scores(stories=(2.11, 0.739), prose=(3.21, 1.011))),
        model("vocabulary", "stage", (22, 960, 16384), 83.2, path="stages/vocabulary/model",
              after_cut=scores(stories=(2.09, 0.744), prose=(3.05, 1.033)),
              after_recovery=scores(stories=(2.02, 0.719), prose=(3.00, 1.016))),
        model("control", "comparison", (22, 960, 16384), 83.1,
              note="the same shape from random weights, as many tokens",
              after_recovery=scores(stories=(3.57, 1.271), prose=(5.22, 1.768))),
    ]  # fmt: skip
    tokens = (4_000_000, 6_000_000, 4_000_000)
    return RunSummary(
        name="smollm2-65m",
        loading=Loading(path="runs/smollm2-65m/model"),
        command="regrow run recipes/quickstart.yaml --out runs/smollm2-65m",
        recipe_text=RECIPE,
        versions={"regrow": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.1",
                  "tokenizers": "0.23.2", "python": "3.11.7"},
        machine=Machine(cpu="AMD EPYC 7R13", threads=8, memory=33_285_996_544),
        started=datetime(2026, 3, 14, 9, 26, tzinfo=UTC),
        seconds=9131.4,
        hashes={"original model": "5a" * 32,
                "result": "0b" * 32},
        texts=(
            Text(name="stories", role="heldout", documents=312, tokens=81_204, sha256="7c" * 32),
            Text(name="prose", role="heldout", documents=8, tokens=5_312, sha256="4e" * 32),
            Text(name="stories-train", role="train", documents=61_020, tokens=14_208_113,
                 sha256="b9" * 32),
        ),
        models=tuple(ModelRow.model_validate(row) for row in rows),
        stages=(
            StageRow(
                name="depth",
                cut="layers 30 → 22, by their influence on 512 rows of calibration text",
                refitted=tuple((0.02 + 0.004 * n, 0.01 + 0.002 * n) for n in range(44)),
                recovery="4M tokens, distilled from SmolLM2-135M, learning rate 3e-4",
                kept=(KeptAxis(axis="layer", before=30, kept=LAYERS),),
                curve=recovery(generator, 3.4, 2.05, tokens[0]),
                heldout=held_out((1.193, 1.165), (0.711, 0.957), tokens[0]),
                seconds=Seconds(score=74, carve=1.4, recover=2410, measure=95),
            ),
            StageRow(
                name="width",
                cut="ffn 1,536 → 960 per layer, by activation; down projection refitted",
                recovery="6M tokens, distilled from SmolLM2-135M, learning rate 3e-4",
                kept=(
                    KeptAxis(
                        axis="ffn",
                        before=1536,
                        kept_by_layer=tuple(choose(generator, 1536, 960) for _ in LAYERS),
                        layers=LAYERS,
                    ),
                ),
                curve=recovery(generator, 3.2, 2.13, tokens[1]),
                heldout=held_out((1.106, 1.357), (0.739, 1.011), tokens[1]),
                seconds=Seconds(score=102, carve=2.2, recover=3320, measure=91),
                warnings=("Loss on prose is 7% above the original's: it is not in the training "
                          "text.",),
            ),
            StageRow(
                name="vocabulary",
                cut="vocabulary 49,152 → 16,384 tokens, by count in the training text",
                recovery="4M tokens, learning rate 2e-4",
                kept=(KeptAxis(axis="vocab", before=49152,
                               kept=choose(generator, 49152, 16384, lean=1.5)),),
                curve=recovery(generator, 2.3, 2.04, tokens[2]),
                heldout=held_out((0.744, 1.033), (0.719, 1.016), tokens[2]),
                seconds=Seconds(score=31, carve=0.9, recover=2210, measure=84),
            ),
        ),
        samples=(
            Sample(
                prompt="Once upon a time there was a small boat that",
                answers={
                    "SmolLM2-135M": " was very old. It had been in the harbor for many years.\n\n"
                    "\"Can we take this one?\" a girl named Lily asked her father.",
                    "depth": " was very old, and nobody wanted to sail it any more.",
                    "width": "",
                    "vocabulary": " lived by the sea. The boat loved to see the fish jump. One day "
                    "a big storm came, and the boat was afraid.",
                },
            ),
            Sample(
                prompt="The main reason why bread rises is",
                answers={
                    "SmolLM2-135M": " that the yeast produces carbon dioxide, which the gluten "
                    "holds in the dough.",
                    "depth": " that the yeast in the dough makes a gas.",
                    "width": " that the dough makes a gas. The gas makes bubbles.",
                    "vocabulary": " the gas. The gas makes bubbles and the bread grows.",
                },
            ),
        ),
        evaluation=(
            EvaluationRow(task="arc_easy", metric="acc_norm", before=0.582, after=0.471),
            EvaluationRow(task="piqa", metric="acc", before=0.681, after=0.634),
            EvaluationRow(task="lambada_openai", metric="perplexity", before=18.7, after=41.2),
        ),
    )  # fmt: skip


@pytest.fixture
def mixed(smollm2: RunSummary) -> RunSummary:
    """The same run, where a recovery helped on one text, and another did not help."""
    width, vocabulary = (
        stage.model_copy(update={"outcome": Outcome(unit="bits per byte", texts=texts, kept=kept)})
        for stage, texts, kept in (
            (smollm2.stages[1], {"stories": (1.106, 0.739), "prose": (1.357, 1.401)}, "trained"),
            (smollm2.stages[2], {"stories": (0.744, 0.7442), "prose": (1.033, 1.041)}, "before"),
        )
    )
    rows = list(smollm2.models)
    worse = {**rows[2].after_recovery, "prose": Score(loss=4.45, bits_per_byte=1.401)}
    rows[2] = rows[2].model_copy(update={"after_recovery": worse})
    rows[3] = rows[3].model_copy(update={"after_recovery": rows[3].after_cut})
    stages = (smollm2.stages[0], width, vocabulary)
    return smollm2.model_copy(update={"models": tuple(rows), "stages": stages})


@pytest.fixture
def bare() -> RunSummary:
    """Nothing but what must be there."""
    return RunSummary(
        name="empty",
        command="regrow run r.yaml",
        started=datetime(2026, 3, 14, tzinfo=UTC),
        seconds=0,
    )


def followed(generator: random.Random) -> MixtureRow:
    """Seven denoisers, each of which comes back to its reference in its own time."""
    references = {name: 1.2 + 0.15 * place for place, name in enumerate(UL2)}
    mixture = DynamicMixture(RULES["stable"], dict.fromkeys(UL2, 1.0), references)
    late = {name: generator.uniform(0.2, 1.2) for name in UL2} | {"S": 2.5}
    for update in range(1, 21):
        losses = {
            name: reference + late[name] * math.exp(-update / 7) + generator.gauss(0, 0.01)
            for name, reference in references.items()
        }
        mixture = mixture.updated(losses, sample=update * 200, tokens=update * 100_000)
    return MixtureRow(
        of="denoiser",
        shares=((0, mixture.first_shares), *((c.tokens, c.shares) for c in mixture.history)),
        losses=tuple((change.tokens, change.losses) for change in mixture.history),
        references=references,
    )


@pytest.fixture
def openba() -> RunSummary:
    """An encoder-decoder with a mixture of denoisers, its second stage not done yet."""
    generator = random.Random(7)
    before = {"embedding": 40_000_000, "attention": 30_000_000, "ffn": 60_000_000, "norms": 80_000}
    after = {"embedding": 40_000_000, "attention": 22_000_000, "ffn": 45_000_000, "norms": 60_000}
    return RunSummary(
        name="encoder-decoder",
        command="regrow run ed.yaml",
        started=datetime(2026, 3, 14, tzinfo=UTC),
        seconds=4210,
        models=(
            ModelRow(name="original", role="original", parameters=sum(before.values()),
                     parameters_by_part=before, after_recovery={"wiki": Score(loss=2.2)}),
            ModelRow(name="depth", role="stage", parameters=sum(after.values()),
                     parameters_by_part=after, after_cut={"wiki": Score(loss=5.1)},
                     after_recovery={"wiki": Score(loss=2.3)}),
        ),
        stages=(
            StageRow(
                name="depth",
                cut="encoder 12 → 9 layers, decoder 36 → 24 layers",
                recovery="UL2 with a dynamic mixture, 2M tokens",
                kept=(
                    KeptAxis(axis="encoder.layer", before=12, kept=(0, 1, 2, 3, 5, 6, 8, 10, 11)),
                    KeptAxis(axis="decoder.layer", before=36,
                             kept=choose(generator, 36, 24)),
                ),
                mixtures=(followed(generator),),
                curve=recovery(generator, 5.1, 2.3, 2_000_000),
            ),
            StageRow(
                name="width",
                done=False,
                cut="hidden 768 → 512, decoder ffn 2,048 → 1,280, heads 12 → 8",
                kept=(
                    KeptAxis(axis="hidden", before=768, kept=choose(generator, 768, 512)),
                    KeptAxis(axis="decoder.ffn", before=2048,
                             kept_by_layer=tuple(choose(generator, 2048, 1280) for _ in range(24))),
                    KeptAxis(axis="decoder.head", before=12,
                             kept_by_layer=tuple(choose(generator, 12, 8) for _ in range(24))),
                ),
            ),
        ),
    )  # fmt: skip
