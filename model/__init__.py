"""The networks: RAW planes to RGB. This package imports torch, and nothing else of darkprep."""

from darkprep.model.build import MODELS, MOSAICS, CfaKind, Mosaic, Network, build_model
from darkprep.model.errors import ModelError
from darkprep.model.inference import Precision, ReadyNetwork, ready_for_inference
from darkprep.model.weights import (
    PUBLISHED_LICENCE,
    import_published,
    load_model,
    load_weights,
    save_weights,
)

__all__ = [
    "MODELS",
    "MOSAICS",
    "PUBLISHED_LICENCE",
    "CfaKind",
    "ModelError",
    "Mosaic",
    "Network",
    "Precision",
    "ReadyNetwork",
    "build_model",
    "import_published",
    "load_model",
    "load_weights",
    "ready_for_inference",
    "save_weights",
]
