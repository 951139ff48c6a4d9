import html
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from regrow.report.page import render_page, write_page
from regrow.report.records import (
    EvaluationRow,
    KeptAxis,
    Loading,
    QualityKept,
    RunSummary,
    StageRow,
    Text,
)

VOID = {"meta", "link", "br"}
HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7 * 7 }}"


class Outline(HTMLParser):
    """What a reader of the structure finds; fails on tags that do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[tuple[int, str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-4]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and re.fullmatch("h[1-4]", self.open[-1]):
            level, text = self.headings[-1]
            self.headings[-1] = level, text + data

    def titles(self, level: int) -> list[str]:
        return [" ".join(text.split()) for at, text in self.headings if at == level]


def words(page: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", page.split("</style>", 1)[1]).split())


def test_headline_and_sections(smollm2: RunSummary) -> None:
    page = render_page(smollm2)
    assert "134.5M → to 65.4M parameters \N{MINUS SIGN}51%" in words(page)
    assert "bits per byte, prose 0.941 → to 1.016 +8.0%" in words(page)
    assert "generated tokens per second 41.3 → to 83.2 2.0×" in words(page)  # noqa: RUF001
    assert (
        "The result (vocabulary) has 49% of the original's parameters, needs 3% fewer bits per "
        "byte on stories and 8% more on prose, and generates text 2.0 times as fast."
    ) in html.unescape(words(page))
    outline = Outline(page)
    assert outline.titles(1) == ["smollm2-65m"]
    assert outline.titles(2) == [
        "Use the model", "Models", "Warnings", "Loss on held-out text", "Answers",
        "Parameters by part", "depth", "width", "vocabulary", "Evaluation", "Time", "To repeat it",
    ]  # fmt: skip


def test_the_table_holds_what_was_measured(smollm2: RunSummary) -> None:
    text = words(render_page(smollm2))
    assert "SmolLM2-135M 134.5M 100% 269 MB 41.3 ± 0.7 1.00×" in text  # noqa: RUF001
    assert "depth stages/depth/model 106.2M 79% 212 MB 54.0 ± 0.9 1.31×" in text  # noqa: RUF001
    minus = "\N{MINUS SIGN}"
    assert f"depth 1.193 0.711 {minus}4.2% 1.165 0.957 +1.7%" in text
    assert "SmolLM2-135M 0.742 0.941" in text
    assert "Losses in nats per token Nats per token stories prose" in text
    assert "depth 3.41 2.03 3.70 3.04" in text
    assert "arc_easy acc_norm 0.582 0.471 \N{MINUS SIGN}0.111" in text


def test_the_vocabulary_note_only_where_the_vocabulary_changed(smollm2: RunSummary) -> None:
    note = "losses per token cannot be compared between models on either side of that."
    assert note in render_page(smollm2)
    shorter = smollm2.model_copy(update={"models": smollm2.models[:3]})
    assert note not in render_page(shorter)


def test_nothing_is_fetched_and_nothing_runs(smollm2: RunSummary) -> None:
    page = render_page(smollm2)
    assert "script" not in page
    assert "default-src 'none'" in page
    assert not re.search(r"(?i)https?://|\bsrc=|url\(|@import", page)
    assert {a.get("href") for t, a in Outline(page).tags if "href" in a} == {"data:,"}


def hostile(summary: RunSummary) -> RunSummary:
    """The same run with markup in every text."""

    def poison(value: object) -> object:
        if isinstance(value, str):
            return HOSTILE
        if isinstance(value, dict):
            return {key: poison(item) for key, item in value.items()}
        return [poison(item) for item in value] if isinstance(value, list | tuple) else value

    data = summary.model_dump()
    data["models"] = [
        {**row, "name": HOSTILE, "note": HOSTILE, "path": HOSTILE,
         "parameters_by_part": {HOSTILE: row["parameters"]},
         "after_recovery": {HOSTILE: {"loss": 2.0, "bits_per_byte": 0.9}},
         "after_cut": {HOSTILE: {"loss": 3.0, "bits_per_byte": 1.1}}}
        for row in data["models"]
    ]  # fmt: skip
    data["loading"] = {"path": HOSTILE, "is_encoder_decoder": True, "own_code": True}
    data["texts"] = [{**row, "name": HOSTILE, "sha256": HOSTILE} for row in data["texts"]]
    data["machine"] = {**data["machine"], "cpu": HOSTILE}
    data["versions"] = data["hashes"] = {HOSTILE: HOSTILE}
    for key in ("name", "command", "recipe_text", "evaluation"):
        data[key] = poison(data[key])
    data["samples"] = [{"prompt": HOSTILE, "answers": {HOSTILE: HOSTILE}}]
    for stage in data["stages"]:
        for key in ("name", "cut", "recovery", "warnings"):
            stage[key] = poison(stage[key])
        stage["heldout"] = {
            "unit": "bits per byte", "texts": {HOSTILE: [(0, 3.0), (9, 2.0)]},
        }  # fmt: skip
        points = [(0, {HOSTILE: 1.0}), (9, {HOSTILE: 1.0})]
        stage["mixtures"] = [
            {"of": HOSTILE, "shares": points, "losses": points, "references": {HOSTILE: 2.0}}
        ]
        for axis in stage["kept"]:
            axis["axis"] = HOSTILE
    return RunSummary.model_validate(data)


def test_a_text_without_bits_is_drawn_by_its_loss(smollm2: RunSummary) -> None:
    data = smollm2.model_dump()
    (first, *_) = smollm2.measured_texts
    for row in data["models"]:
        for scores in (row["after_cut"], row["after_recovery"]):
            if first in scores:
                scores[first]["bits_per_byte"] = None
    summary = RunSummary.model_validate(data)
    page = render_page(summary)
    assert f"{first}, loss, nats per token" in page
    for text in summary.measured_texts[1:]:
        assert f"{text}, bits per byte" in page


def test_every_text_is_escaped(smollm2: RunSummary) -> None:
    page = render_page(hostile(smollm2))
    found = {tag for tag, _ in Outline(page).tags}
    assert not found & {"script", "img"}
    assert "&lt;script&gt;" in page
    assert not [a for _, a in Outline(page).tags if "onerror" in a]
    assert page.count("</style>") == 1
    assert "{{ 7 * 7 }}" in page


def test_a_bare_summary_leaves_everything_else_out(bare: RunSummary) -> None:
    outline = Outline(render_page(bare))
    assert outline.titles(2) == ["To repeat it"]
    assert outline.titles(3) == []
    assert not [tag for tag, _ in outline.tags if tag in ("table", "svg", "figure", "ul")]


def test_a_refit_is_told_and_drawn(smollm2: RunSummary, bare: RunSummary) -> None:
    page = render_page(smollm2)
    assert "44 matrices; squared error of the residual stream 50% lower" in page
    assert "matrices or layers, first to last" in page
    assert "residual stream" not in render_page(bare)


def test_a_stage_with_nothing_but_a_name(bare: RunSummary) -> None:
    summary = bare.model_copy(update={"stages": (StageRow(name="depth", done=False),)})
    page = render_page(summary)
    assert "0 of 1 stages done" in words(page)
    assert Outline(page).titles(2) == ["depth", "To repeat it"]


def test_many_stages_and_texts(smollm2: RunSummary) -> None:
    texts = [f"text {number}" for number in range(7)]
    rows = [
        smollm2.models[1].model_copy(
            update={
                "name": f"stage {number}",
                "after_recovery": dict.fromkeys(texts, smollm2.models[1].after_recovery["prose"]),
            }
        )
        for number in range(12)
    ]
    stages = [stage.model_copy(update={"name": f"s{i}"}) for i, stage in enumerate(
        smollm2.stages * 4)]  # fmt: skip
    summary = smollm2.model_copy(
        update={"models": (smollm2.models[0], *rows), "stages": tuple(stages)}
    )
    outline = Outline(render_page(summary))
    tables = [a.get("class") for tag, a in outline.tags if tag == "table"]
    assert tables.count("models sizes") == 1
    assert tables.count("models losses") == 5 + 3  # two texts in a table, then four with nats
    assert len(set(outline.titles(2))) == 12 + 9


def test_encoder_decoder_axes_and_a_mixture(openba: RunSummary) -> None:
    page = render_page(openba)
    text = words(page)
    for told in ("encoder.layer 12 → to 9 kept", "decoder.ffn 2,048 → to 1,280 kept in each layer",
                 "hidden 768 → to 512 kept", "mixture of denoisers",
                 "each denoiser nats per token beyond its reference", "1 of 2 stages done",
                 "not done yet"):  # fmt: skip
        assert told in text
    assert 'aria-label="Kept 0 to 3, 5 to 6, 8, 10 to 11; dropped 4, 7, 9."' in page
    assert "bits per byte" not in text  # none was measured


def test_layers_are_numbered_boxes(smollm2: RunSummary) -> None:
    page = render_page(smollm2)
    axis = smollm2.stages[0].kept[0]
    assert re.findall(r'<span class="in">(\d+)', page) == [str(i) for i in axis.kept or ()]
    assert len(re.findall(r'<span class="out">', page)) == 8


def test_layers_keep_uneven_widths(bare: RunSummary) -> None:
    axis = KeptAxis(axis="decoder.ffn", before=8, kept_by_layer=((0, 1), (2, 3, 4)))
    summary = bare.model_copy(update={"stages": (StageRow(name="w", kept=(axis,)),)})
    assert "decoder.ffn 8 → to 2 to 3 kept in each layer" in words(render_page(summary))


def test_absent_and_diverged_values(bare: RunSummary) -> None:
    summary = bare.model_copy(
        update={
            "evaluation": (
                EvaluationRow(task="a", metric="acc", before=0.5),
                EvaluationRow(task="b", metric="ppl", before=12.0, after=float("inf")),
            ),
            "texts": (Text(name="one", role="heldout", documents=1),),
        }
    )
    text = words(render_page(summary))
    assert "a acc 0.500 \N{EN DASH}" in text
    assert "b ppl 12.0 diverged" in text
    assert "one held out, 1 document" in text


def test_the_quality_that_is_kept_comes_first(bare: RunSummary, smollm2: RunSummary) -> None:
    assert "quality kept" not in words(render_page(smollm2))
    scores = (
        EvaluationRow(task="piqa", metric="acc", before=0.7, after=0.6, low=-0.12, high=-0.08),
    )
    kept = QualityKept(share=0.834, interval=(0.78, 0.89))
    summary = smollm2.model_copy(update={"quality_kept": kept, "evaluation": scores})
    text = words(render_page(summary))
    assert "quality kept, above chance (piqa) 100%" in text
    assert "83.4% 95% interval: 78.0 to 89.0%" in text
    assert text.index("83.4%") < text.index("on disk")
    assert (
        "piqa acc 0.700 0.600 \N{MINUS SIGN}0.100 (\N{MINUS SIGN}0.120 to \N{MINUS SIGN}0.080)"
        in text
    )


def test_tables_name_their_headers_and_pictures_their_content(smollm2: RunSummary) -> None:
    outline = Outline(render_page(smollm2))
    assert all("scope" in a for tag, a in outline.tags if tag == "th")
    pictures = [a for tag, a in outline.tags if tag == "svg"]
    assert pictures
    assert all(a["role"] == "img" and a["aria-label"] for a in pictures)
    levels = [level for level, _ in outline.headings]
    assert all(b <= a + 1 for a, b in pairwise(levels))
    ids = [a["id"] for _, a in outline.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["aria-labelledby"] for _, a in outline.tags if "aria-labelledby" in a} <= set(ids)


def test_the_file_is_replaced_as_a_whole(
    smollm2: RunSummary, bare: RunSummary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    write_page(bare, path)
    write_page(smollm2, path)
    assert path.read_text(encoding="utf-8") == render_page(smollm2)

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_page(bare, path)
    assert path.read_text(encoding="utf-8") == render_page(smollm2)
    assert list(tmp_path.iterdir()) == [path]


def test_every_model_answers_and_is_found(smollm2: RunSummary) -> None:
    text = words(render_page(smollm2))
    assert "The main reason why bread rises is SmolLM2-135M 134.5M that the yeast produces" in text
    assert "width 84.3M nothing vocabulary 65.4M lived by the sea." in text
    assert "depth stages/depth/model 106.2M" in text
    assert text.count("stages/depth/model") == 1


WORSE = [
    "width: recovery made prose worse: 1.357 -> 1.401 bits per byte",
    "vocabulary: recovery made prose worse: 1.033 -> 1.041 bits per byte",
    "vocabulary: recovery did not help on average (0.888 -> 0.893 bits per byte), so the model has "
    "the weights from before; the trained weights are in stages/vocabulary/trained",
]


def test_a_recovery_that_made_it_worse_is_shown_as_a_loss(
    smollm2: RunSummary, mixed: RunSummary
) -> None:
    page = render_page(mixed)
    found = re.findall(r'<li class="loss"><b>(.*?)</b> (.*?)</li>', page)
    assert [f"{stage}: {text}" for stage, text in found] == [
        line.replace("->", "→") for line in WORSE
    ]
    text = words(page)
    assert "better on stories 1.106 → 0.739 ; worse on prose 1.357 → 1.401 bits per byte" in text
    assert "worse on prose 1.033 → 1.041 ; unchanged on stories 0.744 bits per byte;" in text
    assert text.count("not kept") == 1
    assert page.count("line regrown worse") == 1
    assert page.count('class="n end worse"') == 2  # in bits, and in nats
    assert page.count('class="n end better"') == 2
    for sign in ('class="loss"', "regrown worse", "n end worse", "recovery that made"):
        assert sign in page
        assert sign not in render_page(smollm2)
    assert "grew back" not in page


def test_how_the_model_is_loaded(smollm2: RunSummary, bare: RunSummary) -> None:
    page = html.unescape(words(render_page(smollm2)))
    assert "from transformers import AutoModelForCausalLM, AutoTokenizer" in page
    assert 'AutoModelForCausalLM.from_pretrained("runs/smollm2-65m/model")' in page
    assert "regrow generate runs/smollm2-65m/model 'Once upon a time there was" in page
    own = Loading(path="a 'b/model", is_encoder_decoder=True, own_code=True)
    other = html.unescape(words(render_page(bare.model_copy(update={"loading": own}))))
    assert (
        'AutoModelForSeq2SeqLM.from_pretrained("a \\u0027b/model", trust_remote_code=True)'
    ) in other
    assert "regrow generate 'a '\"'\"'b/model' 'What is a river?'" in other
    assert "Use the model" not in render_page(bare)


def test_an_answer_that_goes_on_is_explained(smollm2: RunSummary) -> None:
    note = "An answer that ends in … goes on"
    assert note not in render_page(smollm2)
    (first, *others) = smollm2.samples
    stopped = first.model_copy(update={"answers": {**first.answers, "depth": "was very …"}})
    assert note in render_page(smollm2.model_copy(update={"samples": (stopped, *others)}))


def test_a_heat_map_says_what_its_colours_are(smollm2: RunSummary) -> None:
    text = words(render_page(smollm2))
    assert "kept of the 16 in a cell: none all" in text
    assert "kept of the 512 in a cell: none all" in text
    assert text.count("kept dropped") == 1  # the boxes of the layers
    assert "neuron, before the cut" in text
    assert "token id, before the cut" in text


def test_no_arrow_of_a_terminal_is_on_the_page(smollm2: RunSummary) -> None:
    stages = tuple(
        stage.model_copy(
            update={"cut": "a -> b", "recovery": "c -> d", "warnings": ("e -> f",)}
        )
        for stage in smollm2.stages
    )  # fmt: skip
    page = render_page(smollm2.model_copy(update={"stages": stages}))
    assert "-&gt;" not in page
    for told in ("a → b", "c → d", "e → f"):
        assert told in page
