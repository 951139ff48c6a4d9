"""A small trained model in which some neurons and one layer do nothing."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from regrow.checkpoint.model_directory import ModelDirectory
from tests.tiny import sentences, write_model

LIVE_NEURONS, NEURONS = 15, 48
LIVE_LAYERS, DEAD_LAYER = 3, 1


def trained_model(directory: Path) -> Path:
    """A Llama of 3 layers with 15 neurons each, trained for a moment, as one of 4 and 48.

    The further neurons have no weights, and the further layer writes nothing to the stream.
    """
    small = directory.with_name("small")
    write_model(small, num_hidden_layers=LIVE_LAYERS, intermediate_size=LIVE_NEURONS)
    source = ModelDirectory(small)
    model = source.load()
    _train(model, source.tokenizer)
    state = model.state_dict()
    write_model(directory)
    path = directory / "model.safetensors"
    planted = load_file(path)
    for name, tensor in planted.items():
        place = name.split(".")
        if place[1] != "layers":
            planted[name] = state[name].clone()
            continue
        layer = int(place[2])
        if layer == DEAD_LAYER:
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                planted[name] = torch.zeros_like(tensor)
            continue
        place[2] = str(layer - (layer > DEAD_LAYER))
        values = state[".".join(place)]
        planted[name] = torch.zeros_like(tensor)
        planted[name][tuple(slice(size) for size in values.shape)] = values
    save_file(planted, path, metadata={"format": "pt"})
    assert json.loads((directory / "config.json").read_text())["intermediate_size"] == NEURONS
    return directory


def _train(model: torch.nn.Module, tokenizer: object) -> None:
    texts = [" ".join(sentences(6, seed=100 + number)) for number in range(8)]
    rows = [torch.tensor(tokenizer(text)["input_ids"][:96]) for text in texts]  # type: ignore[operator]
    batch = torch.stack([row for row in rows if len(row) == 96])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with torch.enable_grad():
        for _ in range(40):
            loss = model(input_ids=batch, labels=batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
