"""From settings to mixtures that follow losses: of denoisers, of domains, of both at once."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from regrow.architectures.openba import OPENBA
from regrow.common.errors import UserError
from regrow.corpus.mixed_order import BLOCK
from regrow.corpus.samples import data_order, mixed_samples
from regrow.corpus.shares import DOMAIN, Shares
from regrow.corpus.sources import Corpus, Source
from regrow.evaluation.heldout_components import heldout_texts
from regrow.evaluation.heldout_text import HeldoutText
from regrow.models.loading import load_config, load_model, load_tokenizer
from regrow.objectives.registry import TrainingData, loss_and_rows
from regrow.objectives.rows.denoisers import UL2
from regrow.pipeline.recipe import Data
from regrow.training.mixing.dynamic_mixture import OPENBA_START, RULES
from regrow.training.mixing.mixture_settings import DENOISERS
from regrow.training.mixing.training_mixtures import TrainingMixtures
from regrow.training.open_mixtures import (
    check_mixture_texts,
    measure_references,
    open_mixtures,
)
from regrow.training.settings import RecoverySettings
from regrow.training.task import TrainingResult
from tests.tiny import add_tokenizer, sentences, write_model, write_seq2seq, write_text
from tests.training.small import train_on

torch.set_num_threads(1)
ROW = 24
DOMAINS = ("river", "snow", "code")
PAGE = (Path(__file__).parents[2] / "docs/objectives.md").read_text(encoding="utf-8")


def settings(**values: Any) -> RecoverySettings:
    return RecoverySettings.model_validate(
        {
            "tokens": 960, "row_length": ROW, "batch_tokens": 2 * ROW, "micro_batch": 4,
            "learning_rate": 0.01, "mixture_every": 200, "mixture_tokens": 200, "save_every": 0,
            **values,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("steering")
    write_seq2seq(home / "openba", OPENBA)
    write_model(home / "llama")
    add_tokenizer(write_model(home / "filler", vocab_size=330), sentinels=8)
    for number, name in enumerate(DOMAINS):
        texts = [f"{name} {text} {name}" for text in sentences(30, seed=number)]
        write_text(home / f"{name}.jsonl", texts[:25])
        write_text(home / f"{name}-heldout.jsonl", texts[25:])
    return home


def corpus(home: Path, weights: tuple[float, ...] | None = (4, 3, 1)) -> Corpus:
    return Corpus(
        tuple(
            Source(name=name, path=home / f"{name}.jsonl", weight=weight)
            for name, weight in zip(DOMAINS, weights or (None,) * 3, strict=True)
        )
    )


def heldout(home: Path) -> dict[str, HeldoutText]:
    return {name: HeldoutText(home / f"{name}-heldout.jsonl") for name in DOMAINS}


def steered(
    home: Path, model: str, given: RecoverySettings, out: Path
) -> tuple[TrainingResult, TrainingMixtures, Any]:
    network, tokenizer = load_model(home / model), load_tokenizer(home / model)
    measured = measure_references(given, network, tokenizer, heldout(home), DOMAINS)
    data = TrainingData(corpus(home), tokenizer, network.config, ROW, seed=4)
    loss, samples = loss_and_rows(given.objective, data)
    steering = open_mixtures(given, samples, tokenizer, network.config, heldout(home), measured)
    assert steering is not None
    result = train_on(network, samples, loss, given, seed=1, directory=out, mixtures=steering)
    return result, steering, samples


FOLLOWS = {"rule": "code", "references": {"river": 9.0, "snow": 3.0, "code": 9.0}}


@pytest.mark.parametrize("model", ["llama", "openba"])
def test_domains_that_lie_behind_are_drawn_more_often(
    home: Path, tmp_path: Path, model: str
) -> None:
    result, steering, samples = steered(home, model, settings(domains=FOLLOWS), tmp_path)
    state = result.mixtures["domain"]
    assert state["start"] == pytest.approx({"river": 0.5, "snow": 0.375, "code": 0.125})
    history = state["history"]
    assert [change["tokens"] // 200 for change in history] == [1, 2, 3, 4]
    assert history[0]["shares"]["snow"] > 0.9
    assert steering.mixtures["domain"].mixture.shares["snow"] > 0.9
    shares = mixed_samples(samples, DOMAIN)
    assert isinstance(shares, Shares)
    assert {sample for sample, _ in shares.changes} >= {0, history[0]["sample"]}
    assert shares.changes[-1][1][1] > 0.9 * BLOCK
    if model == "llama":
        first = history[0]["sample"]
        drawn = samples.sources_of(data_order(samples, 1).rows(first, first + 200))
        assert (drawn == 1).mean() > 0.85


def test_denoisers_and_domains_are_two_distributions(home: Path, tmp_path: Path) -> None:
    both = settings(objective="d-ul2", domains=FOLLOWS, denoisers={"rule": "code"})
    result, steering, _ = steered(home, "openba", both, tmp_path)
    assert list(result.mixtures) == ["denoiser", "domain"]
    assert set(result.mixtures["denoiser"]["history"][0]["losses"]) == set(UL2)
    for kind, alone in (
        ("denoiser", settings(objective="d-ul2", denoisers={"rule": "code"})),
        ("domain", settings(domains=FOLLOWS)),
    ):
        mine = steering.mixtures[kind].mixture
        assert sum(mine.shares.values()) == pytest.approx(1)
        assert list(alone.mixtures) == [kind]
        assert alone.mixtures[kind] == both.mixtures[kind]


def test_a_decoder_mixes_denoisers_and_domains_too(home: Path, tmp_path: Path) -> None:
    prefix = "bidirectional"
    given = settings(objective="d-ul2", domains=FOLLOWS, prefix=prefix, denoisers={"rule": "code"})
    result, steering, samples = steered(home, "filler", given, tmp_path)
    mixture = steering.mixtures["denoiser"].mixture
    assert samples.pairs.shares.changes[-1][1] == pytest.approx(tuple(mixture.shares.values()))
    assert result.mixtures["domain"]["history"][-1]["shares"]["snow"] > 0.9
    assert steering.mixtures["denoiser"].heldout.loss.identity == f"prefix-lm {prefix}"


def test_what_domains_are_measured_on_is_checked_without_a_model(
    home: Path, tmp_path: Path
) -> None:
    tokenizer, config = load_tokenizer(home / "llama"), load_config(home / "llama")
    texts = heldout(home)
    check_mixture_texts(settings(domains=FOLLOWS), tokenizer, config, texts, DOMAINS)
    texts["snow"] = HeldoutText(write_text(tmp_path / "short.jsonl", ["a river"]))
    check_mixture_texts(settings(mixture_every=None), tokenizer, config, texts, DOMAINS)
    with pytest.raises(UserError, match=r"data\.heldout: snow: the text is \d+ tokens, less than"):
        check_mixture_texts(settings(domains=FOLLOWS), tokenizer, config, texts, DOMAINS)


def test_a_domain_is_measured_as_any_held_out_text(home: Path) -> None:
    for name in ("llama", "openba"):
        model, tokenizer = load_model(home / name), load_tokenizer(home / name)
        given = settings(domains="dynamic")
        found = measure_references(given, model, tokenizer, heldout(home), DOMAINS)
        texts = {n: [f"{n} {t} {n}" for t in sentences(30, seed=i)][25:]
                 for i, n in enumerate(DOMAINS)}  # fmt: skip
        components = heldout_texts(texts, tokenizer, model.config, ROW, 200)
        assert found == {"domain": components.losses(model)}
        assert len({round(loss, 2) for loss in found["domain"].values()}) > 1
        assert measure_references(settings(mixture_every=None), model, tokenizer, {}, ()) == {}
        with_both = settings(domains={"references": dict.fromkeys(DOMAINS, 1.0)})
        assert measure_references(with_both, model, tokenizer, heldout(home), DOMAINS) == {}


def test_most_recoveries_have_nothing_to_follow(home: Path) -> None:
    model, tokenizer = load_model(home / "llama"), load_tokenizer(home / "llama")
    _, samples = loss_and_rows(
        None, TrainingData(corpus(home), tokenizer, model.config, ROW, seed=4)
    )
    given = settings(mixture_every=None)
    assert open_mixtures(given, samples, tokenizer, model.config, heldout(home), {}) is None


def test_where_it_begins_depends_on_the_rule() -> None:
    for rule, start in (("stable", dict.fromkeys(UL2, 1.0)), ("paper", OPENBA_START),
                        ("code", OPENBA_START)):  # fmt: skip
        mixing = settings(objective="d-ul2", denoisers={"rule": rule}).mixtures["denoiser"]
        assert mixing.denoisers_start == start
    assert tuple(UL2) == DENOISERS


def test_how_often_is_a_twentieth_but_not_too_often() -> None:
    assert (
        settings(mixture_every=None, tokens=10**8, objective="d-ul2").mixture_interval == 5 * 10**6
    )
    assert settings(mixture_every=None, objective="d-ul2").mixture_interval == 240
    shorter = settings(mixture_every=None, objective="d-ul2", tokens=10_000)
    assert shorter.mixture_interval == 1_600
    assert settings(objective="d-ul2").mixture_interval == 200


# The page


def block(holds: str) -> Any:
    """The block of the page that holds this."""
    found = [text for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if holds in text]
    return yaml.safe_load(found[0])


def test_what_the_page_shows_is_accepted() -> None:
    first, second = block("mixture_every"), block("domains: dynamic")
    found = RecoverySettings.model_validate(first["recover"])
    assert found.mixtures["denoiser"].references == {
        "R1": 1.154, "R2": 1.594, "S": 2.106, "X1": 1.298, "X2": 1.723, "X3": 2.151, "X4": 2.151,
    }  # fmt: skip
    data = Data.model_validate(second["data"])
    assert [source.name for source in data.sources] == list(data.heldout)
    recovery = RecoverySettings.model_validate(second["stages"][0]["recover"])
    assert list(recovery.mixtures) == ["domain"]


def test_the_page_has_the_rules() -> None:
    stable, paper, code = (RULES[name] for name in ("stable", "paper", "code"))
    keep, pull, rate = 1 - stable.pull, stable.pull, stable.rate
    floor = stable.least / 7
    assert f"{keep:g} log p + {pull:g} log s + {rate:g} max(l - r, 0) " in PAGE
    assert f"no share below {floor:.0%}" in PAGE
    assert f"`s * exp({stable.rate / stable.pull:g} d)`" in PAGE
    for rule, gap in ((paper, "max(l - r, 0)"), (code, "(l - r)")):
        assert (rule.rate, rule.pull) == (1, 0)
        assert rule.clipped == ("max" in gap)
        assert f"log p + {gap}" in PAGE
        assert f"then {1 - rule.least:g} p + {rule.least:.4f} / 7" in PAGE
    defaults = RecoverySettings(objective="d-ul2")
    assert f"| `mixture_tokens` | {defaults.mixture_tokens:,} |" in PAGE
