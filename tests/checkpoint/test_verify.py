"""Each check of `verify` passes on sound directories and finds its own kind of damage."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from regrow import api
from regrow.architectures.openba import OPENBA
from regrow.checkpoint.verify import VerifyResult, verify, verify_all
from regrow.common.errors import UserError
from tests.models.openba_files import PIECES, write_tokenizer
from tests.tiny import write_tiny

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCAB = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", *ALPHABET])}
ROWS = len(VOCAB) + 1  # one more than the tokenizer needs


def save_tokenizer(directory: Path) -> None:
    backend = Tokenizer(models.BPE(vocab=VOCAB, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(directory)


def save_llama(directory: Path) -> None:
    config = LlamaConfig(
        vocab_size=ROWS,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    save_tokenizer(directory)


def save_t5(directory: Path) -> None:
    config = T5Config(
        vocab_size=ROWS,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(directory)


def save_openba(directory: Path) -> None:
    """A cut OpenBA in the published layout."""
    source = directory.with_name("openba-whole")
    write_tiny(OPENBA, source, vocab_size=PIECES + 110)
    write_tokenizer(source)
    api.prune(source, directory, hidden=18, heads=3, by="random")


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        file = directory / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})

    return apply


def edit_json(name: str, **changes: object) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        path = directory / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return apply


def grow_tokenizer(directory: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    tokenizer.add_tokens([f"<extra_{index}>" for index in range(5)])
    tokenizer.save_pretrained(directory)


def lose_letters(directory: Path) -> None:
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["pre_tokenizer"] = {"type": "Digits", "individual_digits": True}
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}
    path.write_text(json.dumps(tokenizer))


def poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")


def append(name: str, text: str) -> Callable[[Path], None]:
    """`{marker}` in the text becomes the path of a file that exists only if the code has run."""

    def apply(directory: Path) -> None:
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            file.write(text.format(marker=_marker(directory)))

    return apply


def _marker(directory: Path) -> Path:
    return directory.with_name(f"{directory.name} has run")


RUN = "\nopen('{marker}', 'w').close()\n"

# What is broken, how, and the checks that must fail: these and no others.
BROKEN: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], set[str]]] = {
    "missing tensor": (
        save_llama,
        edit_weights(lambda t: t.pop("model.norm.weight")),
        {"keys", "no warnings"},
    ),
    "extra tensor": (
        save_llama,
        edit_weights(lambda t: t.update(extra=torch.ones(2))),
        {"keys", "no warnings"},
    ),
    "wrong shape": (
        save_llama,
        edit_weights(lambda t: t.update({"model.norm.weight": torch.ones(3)})),
        {"model loads"},
    ),
    "NaN": (save_llama, edit_weights(poison), {"weights are finite", "forward"}),
    "eos outside": (
        save_llama,
        edit_json("generation_config.json", eos_token_id=[2, ROWS]),
        {"ids lie in the vocabulary"},
    ),
    "eos of another token": (
        save_llama,
        edit_json("config.json", eos_token_id=5),
        {"ids agree with the tokenizer"},
    ),
    "tokenizer too large": (save_llama, grow_tokenizer, {"tokenizer fits the embedding"}),
    "tokenizer loses text": (save_llama, lose_letters, {"tokenizer round trip"}),
    "no config": (save_llama, lambda d: (d / "config.json").unlink(), {"config loads"}),
    "altered-code": (save_openba, append("modeling_openba.py", RUN), {"config loads"}),
    "added code": (save_openba, append("custom_generate/generate.py", RUN), {"config loads"}),
    "code elsewhere": (
        save_openba,
        edit_json("config.json", auto_map={"AutoConfig": "other--configuration.Config"}),
        {"config loads"},
    ),
    "tokenizer elsewhere": (
        save_openba,
        edit_json("tokenizer_config.json", auto_map={"AutoTokenizer": [None, "other--a.B"]}),
        {"config loads"},
    ),
    "forced id outside": (
        save_t5,
        edit_json("config.json", decoder_start_token_id=ROWS + 7),
        {"ids lie in the vocabulary", "no warnings"},
    ),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VerifyResult]:
    """All directories are verified in one process, since starting it takes long."""
    root = tmp_path_factory.mktemp("verify")
    torch.manual_seed(0)
    sources: dict[Callable[[Path], None], Path] = {
        save_llama: root / "llama",
        save_t5: root / "t5",
        save_openba: root / "openba",
    }
    for save, directory in sources.items():
        save(directory)
    names = ["llama", "t5", "openba", *BROKEN]
    for name, (kind, breakage, _) in BROKEN.items():
        shutil.copytree(sources[kind], root / name)
        breakage(root / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFORMERS_VERBOSITY", "error")  # as the command line sets it
        return dict(zip(names, verify_all([root / name for name in names]), strict=True))


@pytest.mark.parametrize("name", ["llama", "t5", "openba"])
def test_a_good_directory_passes(results: dict[str, VerifyResult], name: str) -> None:
    result = results[name]
    assert [check for check in result.checks if not check.ok] == []
    assert result.ok
    assert result.directory.name == name
    details = {check.name: check.detail for check in result.checks}
    assert ("no tokenizer" in details["tokenizer loads"]) == (name == "t5")
    assert ("tokenizer round trip" in details) == (name != "t5")
    assert ("decoder start" in details) == (name != "llama")
    assert details["greedy generation"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_directory_fails_where_it_is_broken(
    results: dict[str, VerifyResult], name: str
) -> None:
    failed = {check.name: check.detail for check in results[name].checks if not check.ok}
    assert set(failed) == BROKEN[name][2]
    assert all(failed.values())
    assert not results[name].ok


def test_details_name_the_culprit(results: dict[str, VerifyResult]) -> None:
    details = {(n, c.name): c.detail for n, r in results.items() for c in r.checks}
    assert "model.norm.weight" in details["missing tensor", "keys"]
    assert "extra" in details["extra tensor", "keys"]
    assert "model.layers.1.mlp.up_proj.weight" in details["NaN", "weights are finite"]
    assert str(ROWS) in details["eos outside", "ids lie in the vocabulary"]
    assert "the tokenizer's is 2" in details["eos of another token", "ids agree with the tokenizer"]


def test_code_that_is_not_regrows_own_runs_only_when_asked(
    results: dict[str, VerifyResult],
) -> None:
    reasons = {
        "altered-code": "modeling_openba.py is not regrow's own",
        "added code": "custom_generate/generate.py is not regrow's own",
        "code elsewhere": "config.json: auto_map names other code than regrow's own",
        "tokenizer elsewhere": "tokenizer_config.json: auto_map names other code than regrow's own",
    }
    for name, reason in reasons.items():
        (check,) = results[name].checks
        assert check.detail == (
            f"the directory's own code, not run: {reason}; read it, then ask for trust_remote_code"
        )
    altered = results["altered-code"].directory
    assert not _marker(altered).exists()
    trusted = verify(altered, trust_remote_code=True)
    assert _marker(altered).exists()
    assert trusted.ok, trusted.checks


def test_a_directory_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        verify(tmp_path / "nowhere")


def test_code_behind_a_link_to_a_directory_is_not_run(tmp_path: Path) -> None:
    save_openba(tmp_path / "model")
    marker = tmp_path / "has run"
    code = tmp_path / "elsewhere"
    code.mkdir()
    (code / "generate.py").write_text(
        f"open({str(marker)!r}, 'w')\ndef generate(*_, **__):\n    raise SystemExit\n"
    )
    (tmp_path / "model" / "custom_generate").symlink_to("../elsewhere")
    (check,) = verify(tmp_path / "model").checks
    assert "custom_generate is a link to a directory" in check.detail
    assert not marker.exists()


def test_a_process_that_ends_without_results_is_said(tmp_path: Path) -> None:
    """The code of a model can end it, also with the code of success."""
    save_openba(tmp_path / "model")
    with (tmp_path / "model" / "modeling_openba.py").open("a") as file:
        file.write("import os\nos._exit(0)\n")
    with pytest.raises(UserError, match="model: the verifying process ended with code 0: "):
        verify(tmp_path / "model", trust_remote_code=True)
