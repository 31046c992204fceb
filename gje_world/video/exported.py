"""A trained video model as a folder on disk: encoder, which agents can start from, predictor and decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gje_world.networks.decoder import Decoder
from gje_world.networks.exported import (
    DESCRIPTION,
    PretrainedError,
    read_description,
    read_module,
    write_modules,
)
from gje_world.pretrained import load_encoder, maker, mapping
from gje_world.video_model import PredictorConfig, VideoModel

DYNAMICS = "dynamics"  # predictor and head, beside the encoder
DECODER = "decoder"


def save_video_model(
    model: VideoModel, decoder: Decoder, path: Path | str, provenance: Mapping[str, Any]
) -> None:
    """Write the folder that `load_video_model` reads, `load_decoder`, and `load_encoder` too.

    Arguments:
        provenance: where it comes from, such as the training run: nested plain values.

    Raises:
        OSError: the folder cannot be written.
    """
    described = {
        "architecture": model.architecture,
        "embedding": {"offset": model.offset.tolist(), "spread": float(model.spread)},
        "calibration": model.calibration.told,
    }
    write_modules(
        path,
        {"encoder": model.encoder, DYNAMICS: dynamics(model), DECODER: decoder},
        {
            "encoder": model.encoder.description,
            "video": described,
            DECODER: decoder.architecture,
            "provenance": dict(provenance),
        },
    )


def load_video_model(path: Path | str) -> VideoModel:
    """The video model in a folder that `gje-video` wrote, on the CPU, in evaluation mode, its encoder frozen.

    Only weights and plain values are read: no code of whoever made the folder runs.

    Raises:
        PretrainedError: the folder holds no whole video model; the message says what is wrong, in one line.
    """
    description = read_description(path)
    described = mapping(path, description, "video")
    architecture, embedding, calibration = (
        mapping(path, described, name) for name in ("architecture", "embedding", "calibration")
    )
    encoder = load_encoder(path)

    def make(config: Mapping[str, Any], **options: Any) -> VideoModel:
        return VideoModel(encoder, PredictorConfig(**config), frozen=True, **options)

    build = maker(path, architecture, make)
    learnt = read_module(path, DYNAMICS, description, lambda: dynamics(build()))
    with torch.random.fork_rng():  # what is drawn at first is replaced
        model = build()
    model.predictor, model.head = learnt["predictor"], learnt["head"]
    try:
        model.offset.copy_(torch.tensor(embedding["offset"]).view(model.dim))
        model.spread.fill_(embedding["spread"])
        if not (model.offset.isfinite().all() and 0 < model.spread < math.inf):
            raise ValueError(f"offset must be finite and spread above 0, got spread={float(model.spread)}")
        model.calibration.set(**calibration)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise PretrainedError(f"{Path(path) / DESCRIPTION} tells of no video model: {reason}") from error
    return model.eval().requires_grad_(False)


def load_decoder(path: Path | str) -> Decoder:
    """What draws pictures of embeddings, from the folder of `gje-video`, on the CPU, in evaluation mode.

    Its `draw` gives the newest frame of what embeddings `[..., D]` are of, uint8 `[..., C, H, W]`.

    Raises:
        PretrainedError: the folder holds no whole decoder; the message says what is wrong, in one line.
    """
    description = read_description(path)
    make = maker(path, mapping(path, description, DECODER), Decoder)
    return read_module(path, DECODER, description, make).requires_grad_(False)


def dynamics(model: VideoModel) -> nn.ModuleDict:
    """What of a model predicts."""
    return nn.ModuleDict({"predictor": model.predictor, "head": model.head})
