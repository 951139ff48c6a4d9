"""Which files of a model directory are copied with a model."""

from pathlib import Path

from regrow.checkpoint.companions import companion_files, write_files

PASSED_ON = (
    "LICENSE", "additional_chat_templates/rag.jinja", "chat_template.jinja",
    "generation_config.json", "regrow_origin.json",
    "special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
)  # fmt: skip
LEFT = (
    "README.md", "additional_chat_templates/code.py", "config.json",
    "consolidated.00.pth", "model.safetensors", "modeling_own.py", "pytorch_model.bin",
    "training_args.bin",
)  # fmt: skip


def test_no_code_no_pickle_no_second_weights(tmp_path: Path) -> None:
    write_files(tmp_path, dict.fromkeys((*PASSED_ON, *LEFT), b"x"))
    (tmp_path / "tokenizer_dir").mkdir()
    found = companion_files(tmp_path)
    assert list(found) == sorted(PASSED_ON)
    assert all(path == tmp_path / name for name, path in found.items())
