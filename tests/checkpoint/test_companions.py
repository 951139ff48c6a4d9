"""What of a model directory is passed on."""

from pathlib import Path

from regrow.checkpoint.companions import companion_files

PASSED_ON = (
    "LICENSE", "chat_template.jinja", "generation_config.json", "regrow_origin.json",
    "special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
)  # fmt: skip
LEFT = (
    "README.md", "config.json", "consolidated.00.pth", "model.safetensors", "modeling_own.py",
    "pytorch_model.bin", "training_args.bin",
)  # fmt: skip


def test_no_code_no_pickle_no_second_weights(tmp_path: Path) -> None:
    for name in (*PASSED_ON, *LEFT):
        (tmp_path / name).write_text("x")
    (tmp_path / "tokenizer_dir").mkdir()
    assert [path.name for path in companion_files(tmp_path)] == sorted(PASSED_ON)
