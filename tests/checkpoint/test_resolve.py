"""A path, a GGUF file or a hub id leads to a local directory."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

import regrow.checkpoint.gguf
from regrow.checkpoint.resolve import resolve_model
from regrow.common.errors import UserError


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("the hub was contacted")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)


def test_a_directory_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_model(str(tmp_path), None) == tmp_path
    assert resolve_model("owner/name", None) == Path("owner/name")  # before the hub is contacted
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model("~/owner", None) == tmp_path / "owner"


def test_the_directory_of_a_run_stands_for_its_model(tmp_path: Path) -> None:
    (tmp_path / "run/stages/half/model").mkdir(parents=True)
    (tmp_path / "run/ledger.jsonl").touch()
    said: list[str] = []
    with pytest.raises(UserError, match="not finished"):
        resolve_model(str(tmp_path / "run"), None, said.append)
    (tmp_path / "run/model").symlink_to("stages/half/model")
    assert resolve_model(str(tmp_path / "run"), None, said.append) == tmp_path / "run/model"
    assert said == [f"{tmp_path / 'run'} is a run; its model is {tmp_path / 'run/model'}"]


@pytest.mark.parametrize(
    "model",
    [
        "./model",
        "/no/such/model",
        "../model",
        "~/no-such",
        "gpt2",
        "a/b/c",
        "model.gguf",
        "a/b.gguf",
        "a/b@",
        "@main",
        "a b/c",
        "a/b.safetensors",
        "a\\b",
    ],
)
def test_what_does_not_exist_is_said_without_asking_the_hub(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such directory; give one"):
        resolve_model(model, None)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="is a file; give the directory"):
        resolve_model(str(tmp_path / "model.safetensors"), None)


def test_a_gguf_is_converted_once_for_each_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: list[bytes] = []

    def convert(gguf: Path, directory: Path, notify: Callable[[str], None]) -> None:
        converted.append(gguf.read_bytes())
        directory.mkdir(parents=True)

    monkeypatch.setattr(regrow.checkpoint.gguf, "convert_gguf", convert)
    notes: list[str] = []
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"one")
    first = resolve_model(str(file), tmp_path / "cache", notes.append)
    assert first.parent == tmp_path / "cache" / "gguf"
    assert hashlib.sha256(b"one").hexdigest()[:16] in first.name
    assert resolve_model(str(file), tmp_path / "cache", notes.append) == first
    assert len(notes) == 1
    assert "converting" in notes[0]
    file.write_bytes(b"two")
    second = resolve_model(str(file), tmp_path / "cache", notes.append)
    assert second != first
    assert converted == [b"one", b"two"]
    monkeypatch.setattr(regrow.checkpoint.gguf, "CONVERSION", 99)
    assert resolve_model(str(file), tmp_path / "cache", notes.append) != second
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tmp_path / "xdg" / "regrow" in resolve_model(str(file), None).parents


def test_a_gguf_that_cannot_be_converted_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"no GGUF")
    with pytest.raises(UserError, match="not a GGUF file"):
        resolve_model(str(file), tmp_path / "cache")
    (tmp_path / "taken").touch()
    monkeypatch.setattr(
        regrow.checkpoint.gguf, "convert_gguf", lambda gguf, out, notify: out.mkdir(parents=True)
    )
    with pytest.raises(UserError, match=r"taken.*Not a directory"):
        resolve_model(str(file), tmp_path / "taken")


def test_a_hub_id_is_downloaded_without_pickles_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def download(repo: str, **options: Any) -> str:
        calls.append((repo, options))
        (tmp_path / "model.safetensors").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model("owner/name-1.5", None) == tmp_path
    assert resolve_model("owner/name@refs/pr/1", tmp_path / "c") == tmp_path
    assert [(repo, o["revision"], o["cache_dir"]) for repo, o in calls] == [
        ("owner/name-1.5", None, None),
        ("owner/name", "refs/pr/1", tmp_path / "c"),
    ]
    options = calls[0][1]

    def wanted(name: str) -> bool:
        allowed = any(fnmatch(name, pattern) for pattern in options["allow_patterns"])
        return allowed and not any(fnmatch(name, pattern) for pattern in options["ignore_patterns"])

    for name in (
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "spiece.model",
        "merges.txt",
        "chat_template.jinja",
        "additional_chat_templates/rag.jinja",
        "README.md",
        "LICENSE",
    ):
        assert wanted(name), name
    for name in (
        "pytorch_model.bin",
        "modeling_x.py",
        "training_args.bin",
        "consolidated.safetensors",
        "original/params.json",
        "model.pt",
        "tf_model.h5",
        "docs/README.md",
    ):
        assert not wanted(name), name


def test_a_repository_without_safetensors_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **options: str(tmp_path))
    with pytest.raises(UserError, match=r"no model\*.safetensors.*hf download owner/name"):
        resolve_model("owner/name", None)
    (tmp_path / "adapter_config.json").touch()  # refused when it is opened, which says how to merge
    assert resolve_model("owner/name", None) == tmp_path


def http_error(kind: Callable[..., Exception]) -> Exception:
    return kind("first\nsecond", response=SimpleNamespace(headers={}, request=None))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (http_error(errors.RepositoryNotFoundError), "no such repository.*start with ./ or /"),
        (http_error(errors.GatedRepoError), "gated; accept its terms"),
        (http_error(errors.RevisionNotFoundError), "no revision 'v2'"),
        (http_error(errors.HfHubHTTPError), "download failed .first second"),
        (errors.HFValidationError("x"), "not a valid hub id"),
        (errors.LocalEntryNotFoundError("x"), "HF_HUB_OFFLINE"),
        (errors.OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE"),
        (errors.HfHubHTTPError.__bases__[0]("timed out"), "download failed .timed out"),
        (OSError(28, "No space left on device"), "No space left"),
    ],
)
def test_what_the_hub_says_becomes_one_line(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(repo: str, **options: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=message) as caught:
        resolve_model("owner/name@v2", None)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("owner/name@v2: ")


def test_light_and_offline(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from regrow.checkpoint.resolve import resolve_model\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
        "try: resolve_model('owner/name', Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.stdout.startswith("UserError owner/name: is not in the hub's cache")
