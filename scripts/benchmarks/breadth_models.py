"""Architectures that no test names, built small from public packages, with random weights.

A name is `group:model`. Nothing is downloaded; models of packages that are not installed
are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Sample = tuple[Array, ...]


@dataclass(frozen=True)
class Built:
    """A model with inputs for it.

    Attributes:
        model: As `edgeq.export` takes it.
        sample: Draws the inputs of one run, by a generator.
        outputs: The framework's own outputs for a sample, in order.
        params: As `edgeq.export` takes them.
    """

    model: Any
    sample: Callable[[np.random.Generator], Sample]
    outputs: Callable[[Sample], list[Array]]
    params: Any = None


TIMM = {
    64: """resnet18 resnext50_32x4d seresnet18 resnest14d skresnet18 res2net50_14w_8s ecaresnet26t
        mobilenetv2_035 mobilenetv3_small_050 mobilenetv3_large_075 mobilenetv4_conv_small_050
        mobilenetv4_hybrid_medium mnasnet_small semnasnet_075 spnasnet_100 fbnetc_100 fbnetv3_b
        mixnet_s tinynet_e lcnet_035 hardcorenas_a efficientnet_lite0 tf_efficientnetv2_b0
        efficientnet_es gc_efficientnetv2_rw_t ghostnet_050 ghostnetv2_100 rexnet_100 rexnetr_200
        regnetx_002 regnety_002 regnetz_005 densenet121 dpn48b dla46_c hrnet_w18_small
        ese_vovnet19b_slim_dw selecsls42 cspresnet50 cspdarknet53 darknet53 repvgg_a0 mobileone_s0
        repghostnet_050 convnext_atto convnextv2_atto inception_next_atto edgenext_xx_small
        starnet_s1 fasternet_t0 repvit_m0_9 vgg11_bn nfnet_l0 dm_nfnet_f0 botnet26t_256 halonet26t
        gernet_s resnetv2_50 sknet50 legacy_seresnet18 xception41 poolformer_s12 caformer_s18
        efficientformerv2_s0 fastvit_t8 efficientvit_b0 mambaout_femto""",
    224: """vit_tiny_patch16_224 deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 levit_128s
        cait_xxs24_224 convit_tiny xcit_nano_12_p16_224 pit_ti_224 mixer_s32_224 gmlp_ti16_224
        resmlp_12_224 swin_tiny_patch4_window7_224 twins_svt_small pvt_v2_b0 coat_tiny
        tnt_s_legacy_patch16_224 efficientvit_m0 efficientformer_l1 mobilevit_xxs mobilevitv2_050
        visformer_tiny maxvit_rmlp_pico_rw_256 tiny_vit_5m_224 focalnet_tiny_srf
        crossvit_tiny_240""",
}
"""Names of timm by the height and width of their input, where the model takes it."""

FIXED_SIZES = {"crossvit_tiny_240": 240, "maxvit_rmlp_pico_rw_256": 256, "botnet26t_256": 256,
               "halonet26t": 256}  # fmt: skip

TEXT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 128, "vocab_size": 200, "max_position_embeddings": 64}  # fmt: skip
DECODER = {**TEXT, "num_key_value_heads": 2, "head_dim": 16, "use_cache": False, "pad_token_id": 0,
           "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 200, "n_positions": 64,
       "use_cache": False, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
PICTURE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
           "intermediate_size": 128, "image_size": 64, "patch_size": 16}  # fmt: skip

TRANSFORMERS: dict[str, dict[str, dict[str, Any]]] = {
    "ids": {
        "Bert": TEXT, "Roberta": TEXT, "Electra": {**TEXT, "embedding_size": 64},
        "Albert": {**TEXT, "embedding_size": 32}, "MobileBert": {
            **TEXT, "embedding_size": 32, "true_hidden_size": 32, "intra_bottleneck_size": 32},
        "DistilBert": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128,
                       "vocab_size": 200},
        "SqueezeBert": {**TEXT, "embedding_size": 64, "q_groups": 1, "k_groups": 1, "v_groups": 1},
        "MPNet": TEXT, "Camembert": TEXT, "XLMRoberta": TEXT, "Ernie": TEXT, "ConvBert": TEXT,
        "RoFormer": {**TEXT, "embedding_size": 64}, "Nystromformer": {
            **TEXT, "segment_means_seq_len": 32, "num_landmarks": 8},
        "DebertaV2": {**TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        "FNet": TEXT, "ModernBert": {**TEXT, "pad_token_id": 0},
        "GPT2": GPT, "OpenAIGPT": GPT, "GPTNeoX": {**TEXT, "use_cache": False},
        "Llama": DECODER, "Mistral": DECODER, "Qwen2": DECODER, "Qwen3": DECODER,
        "Gemma": DECODER, "Gemma2": DECODER, "Phi": DECODER, "Olmo": DECODER,
        "StableLm": DECODER, "Cohere": DECODER, "Granite": DECODER, "SmolLM3": DECODER,
        "OPT": {**TEXT, "ffn_dim": 128, "word_embed_proj_dim": 64, "use_cache": False},
        "Bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 200,
                  "use_cache": False},
        "T5Encoder": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4,
                      "vocab_size": 200},
    },
    "image": {
        "ViT": PICTURE, "DeiT": PICTURE, "Beit": PICTURE, "Dinov2": PICTURE,
        "Yolos": {**PICTURE, "image_size": [64, 64]},
        "SiglipVision": PICTURE, "CLIPVision": PICTURE, "ViTMSN": PICTURE,
        "Segformer": {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1],
                      "num_attention_heads": [1, 2, 4, 4]},
        "MobileViT": {"image_size": 64, "hidden_sizes": [32, 48, 64]},
        "MobileNetV2": {"image_size": 64}, "RegNet": {"hidden_sizes": [16, 32, 48, 64],
                                                      "depths": [1, 1, 1, 1], "groups_width": 16},
        "PoolFormer": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
        "Swin": {"image_size": 64, "patch_size": 4, "embed_dim": 24, "depths": [1, 1],
                 "num_heads": [2, 4], "window_size": 4},
    },
    "sound": {
        "Wav2Vec2": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                     "intermediate_size": 128, "conv_dim": (32, 32), "conv_stride": (5, 4),
                     "conv_kernel": (10, 8), "num_feat_extract_layers": 2,
                     "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
        "Hubert": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                   "intermediate_size": 128, "conv_dim": (32, 32), "conv_stride": (5, 4),
                   "conv_kernel": (10, 8), "num_feat_extract_layers": 2,
                   "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    },
}  # fmt: skip
"""Settings of transformers' models by what they read."""

KERAS = (
    "MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0",
    "NASNetMobile", "DenseNet121", "ResNet50", "ResNet50V2", "Xception", "InceptionV3",
    "ConvNeXtTiny", "VGG16",
)  # fmt: skip
KERAS_SIZES = {"Xception": 96, "InceptionV3": 96}

TORCHVISION = {
    "lraspp_mobilenet_v3_large": 96, "deeplabv3_mobilenet_v3_large": 96, "fcn_resnet50": 64,
    "googlenet": 64, "inception_v3": 96, "shufflenet_v2_x0_5": 64, "squeezenet1_0": 64,
    "mnasnet0_5": 64, "regnet_y_400mf": 64, "swin_v2_t": 64, "r3d_18": 32, "alexnet": 64,
}  # fmt: skip


def names() -> list[str]:
    """Every model, the quickest groups first."""
    from benchmarks.breadth_blocks import BLOCKS
    from benchmarks.breadth_families import FAMILIES

    made = [f"block:{name}" for name in BLOCKS]
    for kind, models in TRANSFORMERS.items():
        made += [f"transformers-{kind}:{name}" for name in models]
    made += [f"transformers:{name}" for name in FAMILIES]
    made += [f"timm:{name}" for models in TIMM.values() for name in models.split()]
    made += [f"torchvision:{name}" for name in TORCHVISION]
    return made + [f"keras:{name}" for name in KERAS]


def build(name: str) -> Built:
    """The model of a name.

    Raises:
        ImportError: Its package is not installed.
    """
    group, _, model = name.partition(":")
    if group == "block":
        from benchmarks.breadth_blocks import BLOCKS

        return BLOCKS[model]()
    if group == "transformers":
        from benchmarks.breadth_families import family

        _import_torchvision()
        return family(model)
    if group == "timm":
        return _timm(model)
    if group == "torchvision":
        return _torchvision(model)
    return _keras(model) if group == "keras" else _transformers(group.partition("-")[2], model)


def torch_built(module: Any, sample: Callable[[np.random.Generator], Sample]) -> Built:
    """A PyTorch module in evaluation mode."""
    import torch

    module = module.eval()

    def outputs(arrays: Sample) -> list[Array]:
        with torch.no_grad():
            found = module(*map(torch.from_numpy, arrays))
        leaves = torch.utils._pytree.tree_leaves(found)
        return [leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]

    return Built(module, sample, outputs)


def normal(*shape: int) -> Callable[[np.random.Generator], Sample]:
    """Draws one input from a normal distribution."""
    return lambda random: (random.normal(size=shape).astype(np.float32),)


def _import_torchvision() -> Any:
    """torchvision, also where it was built for other hardware: no model here uses its own ops."""
    import torch

    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        torchvision.own_ops = library  # they are gone once nothing holds them
    return torchvision


def _timm(model: str) -> Built:
    import torch

    _import_torchvision()
    import timm

    torch.manual_seed(0)
    size = FIXED_SIZES.get(model) or next(n for n, text in TIMM.items() if model in text.split())
    module = timm.create_model(model, pretrained=False, num_classes=10)
    return torch_built(module, normal(1, 3, size, size))


def _torchvision(model: str) -> Built:
    import torch

    vision = _import_torchvision()
    torch.manual_seed(0)
    size = TORCHVISION[model]
    known = {"weights": None, "num_classes": 10}
    if "_mobilenet_v3" in model or "_resnet50" in model:
        known["weights_backbone"] = None
    if model in ("googlenet", "inception_v3"):
        known["init_weights"] = True
    shape = (1, 3, 8, size, size) if model == "r3d_18" else (1, 3, size, size)
    return torch_built(vision.models.get_model(model, **known), normal(*shape))


def _transformers(kind: str, model: str) -> Built:
    import torch

    _import_torchvision()
    import transformers

    torch.manual_seed(0)
    name = model.removesuffix("Model")
    owner = name.removesuffix("Encoder") if name.endswith("Encoder") else name
    config = getattr(transformers, f"{owner}Config")(**TRANSFORMERS[kind][model])
    found = getattr(transformers, f"{name}Model")(config)

    class FirstOutput(torch.nn.Module):
        """Only the last hidden state, as most apps read it."""

        def __init__(self) -> None:
            super().__init__()
            self.model = found

        def forward(self, given: Any) -> Any:
            return self.model(given, return_dict=False)[0]

    draws = {
        "ids": lambda random: (random.integers(3, 200, (1, 32)),),
        "image": normal(1, 3, 64, 64),
        "sound": normal(1, 4000),
    }
    return torch_built(FirstOutput(), draws[kind])


def _keras(model: str) -> Built:
    import keras

    keras.utils.set_random_seed(0)
    size = KERAS_SIZES.get(model, 64)
    shape = (size, size, 3)
    module = getattr(keras.applications, model)(weights=None, input_shape=shape, classes=10)

    def outputs(arrays: Sample) -> list[Array]:
        return [np.asarray(module(arrays[0], training=False))]

    return Built(module, normal(1, *shape), outputs)
