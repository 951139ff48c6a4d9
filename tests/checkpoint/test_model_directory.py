"""What a model directory says of itself."""

from pathlib import Path

from regrow.checkpoint.model_directory import ModelDirectory
from tests.tiny import write_model


def test_other_forms_of_the_weights_are_not_counted(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    (model / "README.md").write_text("# A model\n")
    files = [path for path in model.iterdir() if path.is_file()]
    before = ModelDirectory(model).facts()["bytes"]
    assert before == sum(path.stat().st_size for path in files)
    (model / "pytorch_model.bin").write_bytes(bytes(1 << 20))
    (model / "onnx").mkdir()
    (model / "onnx/model.onnx").write_bytes(bytes(1 << 20))
    (model / "consolidated.safetensors").write_bytes(bytes(1 << 20))
    assert ModelDirectory(model).facts()["bytes"] == before
