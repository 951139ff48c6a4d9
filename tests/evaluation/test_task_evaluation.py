"""Scores are compared with those of lm-eval's own evaluation with `hf`."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api import metrics
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from safetensors.torch import load_file, save_file

from regrow.architectures.openba import OPENBA
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.progress import Progress, Update
from regrow.evaluation.comparison import compare_scores, kept_of
from regrow.evaluation.harness.language_model import RegrowModel
from regrow.evaluation.lm_eval_format import directory_names
from regrow.evaluation.quality_kept import QualityKept
from regrow.evaluation.task_evaluation import evaluate_tasks
from regrow.evaluation.task_results import Evaluated, GroupScore, Metric, TaskScore
from regrow.evaluation.task_spec import TaskSpec
from regrow.evaluation.tasks import task_index
from regrow.evaluation.tasks.find import find_tasks
from tests.evaluation.harness.test_language_model import with_modes
from tests.evaluation.tasks.files import write_all
from tests.tiny import write_model, write_seq2seq

TASKS = ("piqa", "sciq", "mmlu_anatomy")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "m", max_position_embeddings=2048)


def evaluated(
    model: Path, data: Path, cache: Path, tasks: tuple[str, ...] = TASKS, **options: Any
) -> Evaluated:
    progress = options.pop("progress", Progress())
    spec = TaskSpec(tasks=tasks, data=data, precision="fp32", **options)
    return evaluate_tasks({"m": ModelDirectory(model)}, spec, cache, progress)[0]


def test_scores_are_those_of_lm_eval(model: Path, data: Path, tmp_path: Path) -> None:
    ours = evaluated(model, data, tmp_path)
    tasks = find_tasks(TASKS, data=data).tasks
    for task in tasks.values():
        task.set_config(key="num_fewshot", value=0)
    own = evaluate(
        HFLM(pretrained=str(model), device="cpu", dtype="float32"),
        {"tasks": tasks, "groups": {}},
        bootstrap_iters=10,
    )
    assert own is not None
    for score in ours.tasks:
        theirs = own["results"][score.task]
        for name in ("acc", "acc_norm"):
            if f"{name},none" in theirs:
                assert score.metrics[name].value == theirs[f"{name},none"]
                assert score.metrics[name].error == pytest.approx(theirs[f"{name}_stderr,none"])
        assert score.questions == 5
        assert score.value == pytest.approx(sum(score.marks.values()) / 5)
        assert sum(score.predicted.values()) == pytest.approx(1)
    assert [score.metric for score in ours.tasks] == ["acc_norm", "acc_norm", "acc"]
    assert [score.chance for score in ours.tasks] == [0.5, 0.25, 0.25]
    assert set(ours.results) >= {"results", "configs", "versions", "n-shot", "samples", "config"}
    assert ours.computed == 5 * (2 + 4 + 4)


def test_a_score_by_tokens_divides_by_the_tokens_of_an_option(
    model: Path, data: Path, tmp_path: Path
) -> None:
    """Compared with log-likelihoods and tokens, option by option."""
    found = evaluated(model, data, tmp_path, ("piqa", "mmlu_anatomy"), mode="likelihood")
    tokenizer = ModelDirectory(model).tokenizer
    differ = 0
    for score in found.tasks:
        hits, plain = [], []
        for sample in found.results["samples"][score.task]:
            nats = [each[0][0] for each in sample["resps"]]
            counts = [len(tokenizer(end)["input_ids"]) for _, end in sample["arguments"]]
            by_token = [one / count for one, count in zip(nats, counts, strict=True)]
            hits.append(by_token.index(max(by_token)) == sample["target"])
            plain.append(nats.index(max(nats)) == sample["target"])
        assert score.metrics["acc_token"].value == pytest.approx(sum(hits) / 5)
        differ += hits != plain
    assert differ, "all options have as many tokens, or none wins by it"


def test_answers_are_kept_and_a_larger_limit_goes_on(
    model: Path, data: Path, tmp_path: Path
) -> None:
    some = evaluated(model, data, tmp_path, limit=2)
    assert (some.computed, some.cached) == (20, 0)
    assert some.tasks[0].questions == 2
    every = evaluated(model, data, tmp_path)
    assert (every.computed, every.cached) == (30, 20)
    again = evaluated(model, data, tmp_path)
    assert (again.computed, again.cached) == (0, 50)
    assert again.tasks == every.tasks


def test_progress_ends_with_all_answers(model: Path, data: Path, tmp_path: Path) -> None:
    seen: list[Update] = []
    evaluated(model, data, tmp_path, progress=Progress(update=seen.append))
    assert seen[-1].doing == "50 of 50 answers"
    assert (seen[-1].share, seen[-1].seconds_left) == (1, 0)


def test_demonstrations_by_task_are_the_same_for_all_models(
    model: Path, data: Path, tmp_path: Path
) -> None:
    spec = TaskSpec(tasks=("mmlu_anatomy", "sciq"), data=data, shots={"mmlu_anatomy": 2})
    models = {name: ModelDirectory(model) for name in ("a", "b")}
    for found in evaluate_tasks(models, spec, tmp_path, Progress()):
        assert [score.shots for score in found.tasks] == [2, 0]
        for sample in found.results["samples"]["mmlu_anatomy"]:
            assert sample["arguments"][0][0].count("Answer:") == 3


def test_demonstrations_that_do_not_fit_are_counted_and_said(data: Path, tmp_path: Path) -> None:
    short = write_model(tmp_path / "m", max_position_embeddings=160)
    said: list[str] = []
    found = evaluated(
        short, data, tmp_path, ("mmlu_anatomy",), shots=5, progress=Progress(say=said.append)
    ).tasks[0]
    assert (found.shots, found.fewer_shots, found.shortened) == (5, 5, 0)
    assert found.dropped_shots >= 5
    assert any("5 of 5 questions have fewer than 5 demonstrations" in line for line in said)


def test_a_prompt_that_never_fits_is_said(data: Path, tmp_path: Path) -> None:
    short = write_model(tmp_path / "m", max_position_embeddings=16)
    said: list[str] = []
    found = evaluated(
        short, data, tmp_path, ("mmlu_anatomy",), progress=Progress(say=said.append)
    ).tasks[0]
    assert found.shortened == 20
    assert any("20 prompts are longer than the model reads" in line for line in said)


def test_an_openba_is_scored_by_mean_loss_of_tokens(data: Path, tmp_path: Path) -> None:
    directory = write_seq2seq(tmp_path / "m", OPENBA, vocab_size=340)
    with_modes(directory)
    found = evaluated(directory, data, tmp_path, ("piqa", "mmlu_anatomy"))
    assert [score.metric for score in found.tasks] == ["acc_token", "acc"]
    samples = found.results["samples"]["piqa"]
    assert len(samples) == 5
    assert found.tasks[0].metrics["acc_token"].value in (0, 0.2, 0.4, 0.6, 0.8, 1)


def test_two_models_are_compared_on_the_same_questions(
    model: Path, data: Path, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other", num_hidden_layers=2, max_position_embeddings=2048)
    first, second = (evaluated(each, data, tmp_path) for each in (model, other))
    found = compare_scores([first, second])
    assert [each.name for each in found.compared[0].differences] == [*TASKS]
    for one, a, b in zip(found.compared[0].differences, first.tasks, second.tasks, strict=True):
        assert (one.first, one.second) == (a.value, b.value)
        assert one.test is not None
        assert one.test.difference == pytest.approx(b.value - a.value)
    shorter = evaluated(other, data, tmp_path, limit=2)
    with pytest.raises(UserError, match="piqa: the models were not asked the same questions"):
        compare_scores([first, shorter])


def test_a_group_is_the_mean_over_its_questions(data: Path, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    path.write_text("group: both\ntask: [mmlu_anatomy]\n")
    folder = task_index._TASKS / "mmlu/default"
    (tmp_path / "one.yaml").write_text(f"include: {folder}/mmlu_anatomy.yaml\n")
    found = evaluated(model, data, tmp_path / "cache", (str(path),))
    (group,) = found.groups
    assert (group.group, group.questions, group.tasks) == ("both", 5, ("mmlu_anatomy",))
    assert group.value == found.tasks[0].value
    assert group.error == pytest.approx(found.tasks[0].error)


def test_a_group_counts_as_one_task_of_the_quality_that_is_kept() -> None:
    def marks(value: float) -> dict[str, float]:
        return {f"{number}": float(number < 20 * value) for number in range(20 * has_marks)}

    has_marks = True

    def scores(**values: float) -> Evaluated:
        tasks = tuple(
            TaskScore(name, "acc", {"acc": Metric(value, 0.04)}, True, 20, marks(value), 0.25, {})
            for name, value in values.items()
        )
        mean = (values["a"] + values["b"]) / 2
        groups = (GroupScore("g", "acc", mean, 0.04, 0.25, 20, ("a", "b")),)
        return Evaluated("m", "/m", "sha", 9, 9, "fp32", tasks, groups, 0, 0, {})

    found = kept_of(scores(piqa=0.75, a=0.45, b=0.25), scores(piqa=0.65, a=0.25, b=0.25))
    assert found is not None
    assert found.interval is not None
    assert found.share == pytest.approx(0.4 / (0.5 + 0.1))
    assert found.interval[0] < found.share < found.interval[1]
    has_marks = False
    without = kept_of(scores(piqa=0.75, a=0.45, b=0.25), scores(piqa=0.65, a=0.25, b=0.25))
    assert without == QualityKept(found.share, interval=None)
    assert kept_of(scores(piqa=0.32, a=0.3, b=0.32), scores(piqa=0.2, a=0.2, b=0.2)) is None


def test_a_task_with_scores_of_its_own_has_no_known_chance(
    model: Path, data: Path, tmp_path: Path
) -> None:
    own = task_index._TASKS / "piqa/piqa.yaml"
    (tmp_path / "scores.py").write_text("def score(doc, results):\n    return {'acc': 0.5}\n")
    path = tmp_path / "mine.yaml"
    path.write_text(f"include: {own}\ntask: mine\nprocess_results: !function scores.score\n")
    (score,) = evaluated(model, data, tmp_path / "cache", (str(path),)).tasks
    assert (score.metrics["acc"].value, score.chance) == (0.5, None)


def test_texts_are_measured_with_what_the_tokenizer_loses(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "texts.jsonl"
    text.write_text('{"text": "the river and the stone"}\n{"text": "water"}\n')
    task = tmp_path / "texts.yaml"
    task.write_text(
        "task: texts\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: "
        f"{text}\n  cache_dir: {tmp_path / 'datasets'}\ntest_split: test\n"
        "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
        "metric_list:\n  - metric: bits_per_byte\n  - metric: byte_perplexity\n"
    )
    spec = TaskSpec(tasks=(str(task),), precision="fp32", shots=5)
    said: list[str] = []
    progress = Progress(say=said.append)
    found = evaluate_tasks({"m": ModelDirectory(model)}, spec, tmp_path, progress)[0].tasks[0]
    assert "texts: asked without demonstrations, as the task says" in said
    bits, perplexity = (found.metrics[name].value for name in ("bits_per_byte", "byte_perplexity"))
    assert perplexity == pytest.approx(2**bits)
    assert (found.metric, found.higher_is_better) == ("bits_per_byte", False)
    assert (found.lost, found.unknown, found.chance) == (0, 0, None)
    assert found.shots == 0, "a text has no demonstrations"
    # A model that has diverged: its perplexity is larger than the largest float.
    shutil.copytree(model, tmp_path / "diverged")
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"] *= 1e6
    save_file(weights, tmp_path / "diverged/model.safetensors", metadata={"format": "pt"})
    models = {"diverged": ModelDirectory(tmp_path / "diverged")}
    (task_score,) = evaluate_tasks(models, spec, tmp_path, Progress())[0].tasks
    assert task_score.metrics["byte_perplexity"].value == math.inf
    assert metrics.math is math
    assert task_score.metrics["bits_per_byte"].value > 1_000


def test_other_weights_are_asked_again(model: Path, data: Path, tmp_path: Path) -> None:
    """Also where only some rows in the middle of a tensor differ."""
    before = RegrowModel(ModelDirectory(model)).identity
    shutil.copytree(model, tmp_path / "m")
    assert RegrowModel(ModelDirectory(tmp_path / "m")).identity == before
    weights = load_file(model / "model.safetensors")
    weights["model.embed_tokens.weight"][60:70] *= -3
    save_file(weights, tmp_path / "m/model.safetensors", metadata={"format": "pt"})
    assert RegrowModel(ModelDirectory(tmp_path / "m")).identity != before


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (["a/llama-3", "b/llama", "c/llama"], ["llama-3", "llama", "llama-2"]),
        (["a/x", "b/x-2", "c/x", "d/x"], ["x", "x-2", "x-3", "x-4"]),
        (["..", "/", "a/.."], ["model", "model-2", "model-3"]),
    ],
)
def test_each_model_has_a_directory_of_its_own(models: list[str], names: list[str]) -> None:
    assert directory_names(models) == names
