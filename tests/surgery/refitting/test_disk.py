"""The bytes that a refit needs on disk are those that it then writes."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from regrow.architectures.t5 import T5
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.progress import QUIET
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.prepared_cut import PreparedCut
from regrow.surgery.prune import prepare_cut
from regrow.surgery.refitting.disk import refit_bytes
from regrow.surgery.refitting.layer_training import Trained
from tests.tiny import sentences, write_model, write_seq2seq


def planned(source: Path, **options: Any) -> PreparedCut:
    spec = CutSpec(**{"calibration_tokens": 128, **options})
    return prepare_cut(ModelDirectory(source), spec, documents=lambda: iter(sentences(400)))


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {"ffn": 40, "layers": 3}),
        ("llama", {"hidden": 28}),
        ("llama", {"hidden": 28, "layers": 3, "vocab_size": 300}),
        ("t5", {"hidden": 12, "layers": {"decoder": 1}}),
        ("llama", {"ffn": 40, "layers": 3, "refit_passes": 1, "calibration_tokens": 4_096}),
    ],
)
def test_what_a_refit_writes_is_known_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, options: dict[str, Any]
) -> None:
    source = tmp_path / "m"
    _ = write_model(source) if family == "llama" else write_seq2seq(source, T5)
    found = planned(source, **options)
    assert found.calibration is not None
    copies: list[int] = []

    def removed(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        copies.append(sum(tensor.nbytes for tensor in tensors.values()))

    monkeypatch.setattr("regrow.surgery.prepared_cut.shutil.rmtree", removed)
    # Each layer counts as trained, also where a training is no better and its weights stay.
    monkeypatch.setattr(
        "regrow.surgery.refitting.refit.train_layer",
        lambda _fit, _streams, behind, *_: Trained(behind, 1.0, 0.0),
    )
    (tmp_path / "place").mkdir()
    rotation = found._rotation(found.calibration, QUIET)
    found._refit(tmp_path / "place", found.calibration, QUIET, rotation)
    corrections = sum(
        tensor.nbytes
        for file in (tmp_path / "place/weights").glob("*.safetensors")
        for tensor in load_file(file).values()
    )
    result = found.carving.nbytes
    assert corrections > 0
    assert found.disk_bytes == corrections + max(copies[0], result)
    huge = 10**9
    needed = refit_bytes(
        found.source.layout, found.cut.sizes, 4, huge, every="refit_passes" in options
    )
    assert needed == corrections + huge


def test_without_a_refit_only_the_result_is_written(tmp_path: Path) -> None:
    found = planned(write_model(tmp_path / "m"), hidden=28, refit=False)
    assert found.disk_bytes == found.carving.nbytes
