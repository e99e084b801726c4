"""The networks: from RAW planes to RGB, or to planes with less noise. Apart from torch, nothing is imported."""

from darkprep.model.build import (
    MODELS,
    MOSAICS,
    TARGETS,
    CfaKind,
    Mosaic,
    Network,
    Target,
    build_model,
)
from darkprep.model.errors import ModelError
from darkprep.model.export import ExportedOnnx, export_onnx
from darkprep.model.inference import Precision, ReadyNetwork, ready_for_inference
from darkprep.model.input_form import PLANE_ORDERS, InputForm, PlaneOrder
from darkprep.model.own import own_network
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
    "PLANE_ORDERS",
    "PUBLISHED_LICENCE",
    "TARGETS",
    "CfaKind",
    "ExportedOnnx",
    "InputForm",
    "ModelError",
    "Mosaic",
    "Network",
    "PlaneOrder",
    "Precision",
    "ReadyNetwork",
    "Target",
    "build_model",
    "export_onnx",
    "import_published",
    "load_model",
    "load_weights",
    "own_network",
    "ready_for_inference",
    "save_weights",
]
