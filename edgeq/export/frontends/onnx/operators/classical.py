"""Ops of classical machine learning (`ai.onnx.ml`) that are sums and products."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgeq.export.frontends.onnx.op_table import Node, op

_DOMAIN = "ai.onnx.ml"


@op("Scaler", domain=_DOMAIN)
def scaler(node: Node, values: Tensor) -> Tensor:
    offset, scale = (torch.tensor(node.get(name, [])) for name in ("offset", "scale"))
    made = values.float()
    made = made - offset if offset.numel() else made
    return made * scale if scale.numel() else made


@op("Normalizer", domain=_DOMAIN)
def normalizer(node: Node, values: Tensor) -> Tensor:
    values = values.float()
    if node.get("norm", "MAX") == "MAX":
        return values / values.amax(-1, keepdim=True)
    return functional.normalize(values, 1 if node.get("norm") == "L1" else 2, -1, 1e-30)


@op("Binarizer", domain=_DOMAIN)
def binarizer(node: Node, values: Tensor) -> Tensor:
    return (values > node.get("threshold", 0.0)).to(values.dtype)


@op("Imputer", domain=_DOMAIN)
def imputer(node: Node, values: Tensor) -> Tensor:
    """Numbers of one value, such as NaN, are replaced."""
    kind = "floats" if values.is_floating_point() else "int64s"
    new = torch.tensor(node.get(f"imputed_value_{kind}"), dtype=values.dtype)
    old = node.get(f"replaced_value_{kind[:-1]}", 0)
    return torch.where(torch.isnan(values) if old != old else values == old, new, values)


@op("ArrayFeatureExtractor", domain=_DOMAIN)
def array_feature_extractor(node: Node, values: Tensor, columns: Tensor) -> Tensor:
    rows = values.reshape(1, -1) if values.ndim == 1 else values
    return torch.index_select(rows, -1, columns.reshape(-1))


@op("FeatureVectorizer", domain=_DOMAIN)
def feature_vectorizer(node: Node, *values: Tensor) -> Tensor:
    return torch.cat([one.float().reshape(one.shape[0], -1) for one in values], 1)


@op("LinearRegressor", domain=_DOMAIN)
def linear_regressor(node: Node, values: Tensor) -> Tensor:
    return _transformed(node, _linear(node, values, node.get("targets", 1)))


@op("LinearClassifier", domain=_DOMAIN)
def linear_classifier(node: Node, values: Tensor) -> tuple[Tensor, Tensor]:
    """Labels, which are whole numbers, and scores."""
    labels = node.get("classlabels_ints")
    if not labels:
        raise node.refused("gives its labels as text; convert the model with numbers for classes")
    weights = len(node.get("coefficients"))
    scores = _linear(node, values, weights // values.shape[-1])
    if scores.shape[1] == 1 and len(labels) == 2:
        raise node.refused("has the scores of one of two classes; convert it with those of both")
    places = scores.argmax(1)
    return torch.tensor(labels)[places], _transformed(node, scores)


def _linear(node: Node, values: Tensor, rows: int) -> Tensor:
    weight = torch.tensor(node.get("coefficients")).reshape(rows, -1)
    bias = node.get("intercepts")
    return functional.linear(values.float(), weight, torch.tensor(bias) if bias else None)


def _transformed(node: Node, scores: Tensor) -> Tensor:
    how = node.get("post_transform", "NONE")
    if how == "LOGISTIC":
        return torch.sigmoid(scores)
    if how == "SOFTMAX":
        return torch.softmax(scores, -1)
    if how != "NONE":
        raise node.refused(f"ends in {how}, where NONE, LOGISTIC and SOFTMAX have forms")
    return scores
