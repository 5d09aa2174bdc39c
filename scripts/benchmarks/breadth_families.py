"""Families of transformers with more than one input or with settings of their own, built small."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.breadth_models import DECODER, GPT, PICTURE, TEXT, Built, Sample, torch_built

IDS = {"input_ids": (1, 32)}
PAIR = {"input_ids": (1, 32), "decoder_input_ids": (1, 12)}
PIXELS = {"pixel_values": (1, 3, 64, 64)}
BOTH = {"input_ids": (1, 16), "pixel_values": (1, 3, 64, 64)}
WAVE = {"input_values": (1, 4000)}
BOXES = {"pixel_values": (1, 3, 96, 96)}

LAYERED = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128,
           "vocab_size": 200, "max_position_embeddings": 64, "use_cache": False, "pad_token_id": 0,
           "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
           "forced_eos_token_id": 2}  # fmt: skip
T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 2,
      "num_heads": 4, "vocab_size": 200, "use_cache": False}  # fmt: skip
EXPERTS = {**DECODER, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
           "moe_intermediate_size": 64, "n_routed_experts": 4}  # fmt: skip
SPEECH = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
          "intermediate_size": 128, "conv_dim": (32, 32), "conv_stride": (5, 4),
          "conv_kernel": (10, 8), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16,
          "num_conv_pos_embedding_groups": 4, "vocab_size": 40}  # fmt: skip
STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
BACKBONE = {"model_type": "resnet", "embedding_size": 16, **STAGES, "layer_type": "basic",
            "out_features": ["stage2", "stage3", "stage4"]}  # fmt: skip
LAST = {**BACKBONE, "out_features": ["stage4"]}
DETR = {"backbone_config": LAST, "use_timm_backbone": False, "d_model": 64, "encoder_layers": 1,
        "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_queries": 20,
        "num_labels": 6}  # fmt: skip
SERIES = {"prediction_length": 8, "context_length": 24, "lags_sequence": [1, 2, 3], "d_model": 32,
          "encoder_layers": 1, "decoder_layers": 1, "num_time_features": 2}  # fmt: skip
TOWERS = {"text_config": {**TEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
          "vision_config": PICTURE, "projection_dim": 32}  # fmt: skip

FAMILIES: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {
    # text
    "XLNetModel": ({"d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128, "vocab_size": 200},
                   IDS),
    "LongformerModel": ({**TEXT, "attention_window": 8, "max_position_embeddings": 70},
                        IDS),
    "BigBirdModel": ({**TEXT, "attention_type": "block_sparse", "block_size": 4,
                      "num_random_blocks": 1}, {"input_ids": (1, 48)}),
    "FunnelModel": ({"d_model": 64, "block_sizes": [1, 1], "num_decoder_layers": 1, "n_head": 4,
                     "d_head": 16, "d_inner": 128, "vocab_size": 200}, IDS),
    "CanineModel": ({**TEXT, "num_hash_buckets": 64, "max_position_embeddings": 128,
                     "local_transformer_stride": 16}, {"input_ids": (1, 64)}),
    "LukeModel": ({**TEXT, "entity_vocab_size": 50, "entity_emb_size": 16}, IDS),
    "IBertModel": ({**TEXT, "quant_mode": False}, IDS),
    "YosoModel": ({**TEXT, "use_expectation": True}, IDS),
    "ReformerModel": ({"hidden_size": 64, "num_attention_heads": 2, "attention_head_size": 32,
                       "feed_forward_size": 128, "attn_layers": ["local", "local"],
                       "axial_pos_shape": [4, 8], "axial_pos_embds_dim": [32, 32],
                       "vocab_size": 200, "local_attn_chunk_length": 8,
                       "max_position_embeddings": 32}, IDS),
    "EsmModel": ({**TEXT, "position_embedding_type": "rotary", "token_dropout": True,
                  "mask_token_id": 3, "pad_token_id": 1}, IDS),
    "ElectraForPreTraining": ({**TEXT, "embedding_size": 32}, IDS),
    "BertForQuestionAnswering": (TEXT, IDS),
    "TapasModel": ({**TEXT, "type_vocab_sizes": [3, 20, 20, 2, 20, 20, 4]},
                   {**IDS, "token_type_ids": (1, 32, 7)}),
    "MambaModel": ({"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 200,
                    "use_cache": False}, IDS),
    "Mamba2Model": ({"hidden_size": 64, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 16,
                     "n_groups": 2, "state_size": 8, "chunk_size": 16, "vocab_size": 200,
                     "use_cache": False}, IDS),
    "RwkvModel": ({"hidden_size": 64, "num_hidden_layers": 2, "attention_hidden_size": 64,
                   "context_length": 64, "vocab_size": 200, "use_cache": False},
                  {"input_ids": (1, 12)}),
    "xLSTMModel": ({"hidden_size": 64, "num_hidden_layers": 2, "num_blocks": 2, "num_heads": 2,
                    "vocab_size": 200, "use_cache": False, "chunk_size": 16}, IDS),
    "RecurrentGemmaModel": ({**DECODER, "lru_width": 64, "attention_window_size": 16,
                             "block_types": ("recurrent", "attention"), "conv1d_width": 4}, IDS),
    "Gemma3TextModel": ({**DECODER, "sliding_window": 8}, IDS),
    "Qwen3MoeModel": ({**EXPERTS, "decoder_sparse_step": 1}, IDS),
    "MixtralModel": (EXPERTS, IDS),
    "OlmoeModel": (EXPERTS, IDS),
    "GptOssModel": (EXPERTS, IDS),
    "DeepseekV3Model": ({**EXPERTS, "n_group": 2, "topk_group": 1, "q_lora_rank": 32,
                         "kv_lora_rank": 16, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16,
                         "v_head_dim": 16, "first_k_dense_replace": 1, "num_key_value_heads": 4,
                         "head_dim": 16}, IDS),
    "GraniteMoeModel": (EXPERTS, IDS),
    "JambaModel": ({**EXPERTS, "mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1,
                    "expert_layer_period": 2, "expert_layer_offset": 1,
                    "use_mamba_kernels": False}, IDS),
    "Qwen3NextModel": ({**EXPERTS, "num_hidden_layers": 4, "linear_num_key_heads": 2,
                        "linear_num_value_heads": 4, "linear_key_head_dim": 16,
                        "linear_value_head_dim": 16, "shared_expert_intermediate_size": 64}, IDS),
    "Lfm2Model": ({**DECODER, "layer_types": ["conv", "full_attention"]}, IDS),
    "Phi3Model": (DECODER, IDS),
    "FalconModel": ({**TEXT, "alibi": True, "use_cache": False}, IDS),
    "GPTJModel": ({**GPT, "rotary_dim": 8}, IDS),
    "GPTNeoModel": ({"hidden_size": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 200,
                     "attention_types": [[["global", "local"], 1]], "window_size": 8,
                     "max_position_embeddings": 64, "use_cache": False}, IDS),
    "MptModel": ({"d_model": 64, "n_heads": 4, "n_layers": 2, "vocab_size": 200, "max_seq_len": 64,
                  "use_cache": False}, IDS),
    "FalconMambaModel": ({"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8,
                          "vocab_size": 200, "use_cache": False}, IDS),
    "BambaModel": ({**DECODER, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8,
                    "mamba_chunk_size": 16, "attn_layer_indices": [1]}, IDS),
    "BertForMaskedLM": (TEXT, IDS),
    "LiltModel": ({**TEXT, "hidden_size": 48, "max_2d_position_embeddings": 256,
                   "channel_shrink_ratio": 4},
                  {"input_ids": (1, 16), "bbox_ids": (1, 16, 4)}),
    "BrosModel": ({**TEXT, "dim_bbox": 8}, {"input_ids": (1, 16), "bbox": (1, 16, 8)}),
    "XmodModel": ({**TEXT, "languages": ("en",), "default_language": "en"}, IDS),
    "Gemma3nTextModel": ({**DECODER, "vocab_size_per_layer_input": 200, "laurel_rank": 8,
                          "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 0,
                          "layer_types": ["sliding_attention", "full_attention"],
                          "activation_sparsity_pattern": [0.5, 0.0], "sliding_window": 8}, IDS),
    "NemotronHModel": ({**DECODER, "mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 2,
                        "ssm_state_size": 8, "chunk_size": 16,
                        "hybrid_override_pattern": "M*"}, IDS),
    "Zamba2Model": ({**DECODER, "mamba_d_state": 8, "mamba_headdim": 16, "n_mamba_heads": 8,
                     "mamba_ngroups": 1, "chunk_size": 16, "num_mem_blocks": 1,
                     "layers_block_type": ["mamba", "hybrid"], "use_mamba_kernels": False,
                     "attention_head_dim": 32, "adapter_rank": 8}, IDS),
    "DogeModel": (DECODER, IDS),
    "DiffLlamaModel": (DECODER, IDS),
    "NemotronModel": (DECODER, IDS),
    "Glm4Model": (DECODER, IDS),
    "T5Model": (T5, PAIR),
    "LongT5Model": ({**T5, "local_radius": 7, "encoder_attention_type": "transient-global",
                     "global_block_size": 8},
                    {**PAIR, "attention_mask": (1, 32)}),
    "SwitchTransformersModel": ({**T5, "num_experts": 4, "expert_capacity": 16,
                                 "num_sparse_encoder_layers": 1,
                                 "num_sparse_decoder_layers": 1},
                                {**PAIR, "attention_mask": (1, 32),
                                 "decoder_attention_mask": (1, 12)}),
    "BartModel": (LAYERED, PAIR),
    "PegasusXModel": ({**LAYERED, "block_size": 8, "num_global_tokens": 4}, PAIR),
    "MarianModel": (LAYERED, PAIR),
    "LEDModel": ({**LAYERED, "attention_window": 8, "max_encoder_position_embeddings": 64,
                  "max_decoder_position_embeddings": 64}, PAIR),
    "ProphetNetModel": ({"hidden_size": 64, "num_encoder_layers": 1, "num_decoder_layers": 1,
                         "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4,
                         "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": 200,
                         "max_position_embeddings": 64, "use_cache": False}, PAIR),
    # pictures and text
    "CLIPModel": (TOWERS, BOTH),
    "SiglipModel": (TOWERS, BOTH),
    "BlipForImageTextRetrieval": ({**TOWERS, "image_text_hidden_size": 32}, BOTH),
    "GroupViTModel": ({**TOWERS, "vision_config": {
        "hidden_size": 64, "depths": [1, 1, 1], "num_hidden_layers": 3,
        "num_group_tokens": [8, 4, 0], "num_output_groups": [8, 4, 4], "num_attention_heads": 4,
        "intermediate_size": 128, "image_size": 64, "patch_size": 16}}, BOTH),
    "CLIPSegForImageSegmentation": ({**TOWERS, "vision_config": {
        **PICTURE, "num_hidden_layers": 3}, "extract_layers": [0, 1], "reduce_dim": 32,
        "decoder_num_attention_heads": 4, "decoder_intermediate_size": 64}, BOTH),
    "OwlViTForObjectDetection": ({**TOWERS, "projection_dim": 64}, BOTH),
    "GitModel": ({**TEXT, "vision_config": PICTURE}, BOTH),
    "Blip2QFormerModel": ({**TEXT, "encoder_hidden_size": 48},
                          {"query_embeds": (1, 8, 64), "encoder_hidden_states": (1, 20, 48)}),
    "UdopEncoderModel": ({**T5, "image_size": 64, "patch_size": 16,
                          "max_2d_position_embeddings": 128},
                         {**BOTH, "bbox": (1, 16, 4)}),
    "GroundingDinoForObjectDetection": ({
        "backbone_config": BACKBONE, "text_config": TEXT, "d_model": 64, "encoder_layers": 1,
        "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 12,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_feature_levels": 3,
        "max_text_len": 16}, {**BOXES, "input_ids": (1, 16)}),
    "Idefics3VisionTransformer": (PICTURE, PIXELS),
    "XCLIPVisionModel": ({**PICTURE, "num_frames": 2, "mit_hidden_size": 32,
                          "mit_intermediate_size": 64, "mit_num_hidden_layers": 1,
                          "mit_num_attention_heads": 2}, {"pixel_values": (2, 3, 64, 64)}),
    "ViltModel": ({**TEXT, **PICTURE, "max_image_length": -1}, BOTH),
    "BridgeTowerModel": ({"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                          "text_config": TEXT, "vision_config": PICTURE}, BOTH),
    "VisualBertModel": ({**TEXT, "visual_embedding_dim": 32},
                        {"input_ids": (1, 16), "visual_embeds": (1, 8, 32)}),
    "LxmertModel": ({**TEXT, "l_layers": 1, "x_layers": 1, "r_layers": 1, "visual_feat_dim": 32},
                    {"input_ids": (1, 16), "visual_feats": (1, 8, 32), "visual_pos": (1, 8, 4)}),
    "LayoutLMModel": ({**TEXT, "max_2d_position_embeddings": 256},
                      {"input_ids": (1, 16), "bbox_ids": (1, 16, 4)}),
    "LayoutLMv3Model": ({**TEXT, "coordinate_size": 11, "shape_size": 10, "input_size": 64,
                         "max_2d_position_embeddings": 256},
                        {**BOTH, "bbox_ids": (1, 16, 4)}),
    "LlavaForConditionalGeneration": ({
        "text_config": {**DECODER, "model_type": "llama"}, "image_token_index": 199,
        "vision_config": {**PICTURE, "model_type": "clip_vision_model"}},
        {"picture_ids": (1, 24), **PIXELS}),
    "TrOCRForCausalLM": ({**LAYERED, "is_decoder": True, "cross_attention_hidden_size": 32},
                         {"input_ids": (1, 12), "encoder_hidden_states": (1, 20, 32)}),
    "Pix2StructVisionModel": ({"hidden_size": 64, "d_kv": 16, "d_ff": 128, "num_hidden_layers": 2,
                               "num_attention_heads": 4, "patch_embed_hidden_size": 48},
                              {"patches": (1, 16, 50), "attention_mask": (1, 16)}),
    "MgpstrForSceneTextRecognition": ({"hidden_size": 64, "num_hidden_layers": 2,
                                       "num_attention_heads": 4, "image_size": [32, 64],
                                       "patch_size": 4},
                                      {"pixel_values": (1, 3, 32, 64)}),
    "ClapAudioModel": ({"hidden_size": 128, "patch_embeds_hidden_size": 16, "depths": [1, 1, 1, 1],
                        "num_attention_heads": [2, 2, 4, 4], "spec_size": 256, "num_mel_bins": 64,
                        "window_size": 8}, {"input_features": (1, 1, 200, 64)}),
    # sound
    "WavLMModel": (SPEECH, WAVE),
    "SEWModel": ({**SPEECH, "squeeze_factor": 2}, WAVE),
    "SEWDModel": ({**SPEECH, "squeeze_factor": 2, "max_position_embeddings": 64,
                   "position_buckets": 16}, WAVE),
    "UniSpeechForCTC": (SPEECH, WAVE),
    "Data2VecAudioModel": ({**SPEECH, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5},
                           WAVE),
    "Wav2Vec2ConformerModel": ({**SPEECH, "conv_depthwise_kernel_size": 7,
                                "position_embeddings_type": "relative"}, WAVE),
    "Wav2Vec2BertModel": ({**SPEECH, "feature_projection_input_dim": 32,
                           "position_embeddings_type": "relative_key",
                           "conv_depthwise_kernel_size": 7}, {"input_features": (1, 40, 32)}),
    "ASTModel": ({**PICTURE, "max_length": 64, "num_mel_bins": 32},
                 {"input_values": (1, 64, 32)}),
    "MoonshineModel": ({"hidden_size": 64, "intermediate_size": 128, "encoder_num_hidden_layers": 1,
                        "decoder_num_hidden_layers": 1, "encoder_num_attention_heads": 4,
                        "decoder_num_attention_heads": 4, "vocab_size": 200, "use_cache": False},
                       {"input_values": (1, 4000), "decoder_input_ids": (1, 8)}),
    "WhisperModel": ({**LAYERED, "num_mel_bins": 16, "max_source_positions": 40,
                      "max_target_positions": 32}, {"input_features": (1, 16, 80),
                                                    "decoder_input_ids": (1, 8)}),
    "Speech2TextModel": ({**LAYERED, "input_feat_per_channel": 16, "conv_channels": 32},
                         {"input_features": (1, 64, 16), "decoder_input_ids": (1, 8)}),
    "SpeechT5ForSpeechToText": ({
        **SPEECH, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128,
        "vocab_size": 200, "use_cache": False, "encoder_max_relative_position": 20},
        {"input_values": (1, 4000), "decoder_input_ids": (1, 8)}),
    "SpeechT5HifiGan": ({"model_in_dim": 16, "upsample_initial_channel": 32,
                         "upsample_rates": [4, 4], "upsample_kernel_sizes": [8, 8],
                         "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]]},
                        {"spectrogram": (1, 20, 16)}),
    "VitsModel": ({"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1,
                   "num_attention_heads": 2, "ffn_dim": 64, "flow_size": 32,
                   "upsample_initial_channel": 32, "upsample_rates": [4, 4],
                   "upsample_kernel_sizes": [8, 8], "prior_encoder_num_flows": 2},
                  {"input_ids": (1, 12)}),
    "EncodecModel": ({"num_filters": 8, "hidden_size": 32, "codebook_dim": 32, "codebook_size": 32,
                      "upsampling_ratios": [4, 2], "num_lstm_layers": 1},
                     {"input_values": (1, 1, 1600)}),
    "DacModel": ({"encoder_hidden_size": 8, "downsampling_ratios": [2, 4],
                  "decoder_hidden_size": 32, "n_codebooks": 2, "codebook_size": 32,
                  "codebook_dim": 4, "upsampling_ratios": [4, 2], "hidden_size": 32},
                 {"input_values": (1, 1, 800)}),
    "MimiModel": ({"num_filters": 8, "hidden_size": 32, "codebook_dim": 16, "codebook_size": 32,
                   "upsampling_ratios": [4, 2], "num_hidden_layers": 1, "num_attention_heads": 2,
                   "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 64,
                   "num_quantizers": 4, "num_semantic_quantizers": 1,
                   "vector_quantization_hidden_dimension": 16,
                   "upsample_groups": 32, "use_cache": False}, {"input_values": (1, 1, 1600)}),
    "MusicgenForCausalLM": ({"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                             "ffn_dim": 128, "vocab_size": 200, "num_codebooks": 4,
                             "max_position_embeddings": 64, "use_cache": False},
                            {"input_ids": (4, 12)}),
    "ParakeetEncoder": ({"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
                         "intermediate_size": 128, "subsampling_conv_channels": 16,
                         "num_mel_bins": 32}, {"input_features": (1, 64, 32)}),
    "UnivNetModel": ({"model_in_channels": 8, "model_hidden_channels": 8, "num_mel_bins": 16,
                      "resblock_kernel_sizes": [3], "resblock_stride_sizes": [4],
                      "resblock_dilation_sizes": [[1, 3]], "kernel_predictor_hidden_channels": 8},
                     {"input_features": (1, 10, 16), "noise_sequence": (1, 10, 8)}),
    # pictures
    "DetrForObjectDetection": (DETR, BOXES),
    "ConditionalDetrForObjectDetection": (DETR, BOXES),
    "DabDetrForObjectDetection": ({**DETR, "hidden_size": 64}, BOXES),
    "DeformableDetrForObjectDetection": ({**DETR, "backbone_config": BACKBONE,
                                          "num_feature_levels": 3}, BOXES),
    "RTDetrForObjectDetection": ({
        "backbone_config": {"model_type": "rt_detr_resnet", "embedding_size": 16, **STAGES,
                            "layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"]},
        "encoder_hidden_dim": 32, "encoder_in_channels": [32, 48, 64], "encoder_ffn_dim": 64,
        "encoder_attention_heads": 4, "d_model": 32, "num_queries": 20, "decoder_layers": 2,
        "decoder_in_channels": [32, 32, 32], "decoder_ffn_dim": 64, "decoder_attention_heads": 4,
        "num_labels": 6, "num_denoising": 0, "eval_size": None,
        "use_pretrained_backbone": False}, {"pixel_values": (1, 3, 128, 128)}),
    "DFineForObjectDetection": ({
        "backbone_config": {"model_type": "hgnet_v2", "stem_channels": [3, 8, 16],
                            "stage_in_channels": [16, 32, 48, 64],
                            "stage_mid_channels": [8, 8, 16, 16],
                            "stage_out_channels": [32, 48, 64, 64],
                            "stage_num_blocks": [1, 1, 1, 1],
                            "stage_numb_of_layers": [2, 2, 2, 2], "hidden_sizes": [32, 48, 64, 64],
                            "out_features": ["stage2", "stage3", "stage4"]},
        "encoder_hidden_dim": 32, "encoder_in_channels": [48, 64, 64], "encoder_ffn_dim": 64,
        "encoder_attention_heads": 4, "d_model": 32, "num_queries": 20, "decoder_layers": 2,
        "decoder_in_channels": [32, 32, 32], "decoder_ffn_dim": 64, "decoder_attention_heads": 4,
        "num_labels": 6, "num_denoising": 0, "eval_size": None},
        {"pixel_values": (1, 3, 128, 128)}),
    "YolosForObjectDetection": ({**PICTURE, "image_size": [64, 64],
                                 "num_detection_tokens": 10}, PIXELS),
    "Mask2FormerForUniversalSegmentation": ({
        "backbone_config": {"model_type": "swin", "image_size": 96, "patch_size": 4,
                            "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4],
                            "window_size": 3,
                            "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_layers": 1,
        "encoder_feedforward_dim": 64, "dim_feedforward": 64, "decoder_layers": 3,
        "num_attention_heads": 4, "num_queries": 10, "num_labels": 5}, BOXES),
    "MaskFormerForInstanceSegmentation": ({
        "backbone_config": {"model_type": "swin", "image_size": 96, "patch_size": 4,
                            "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4],
                            "window_size": 3,
                            "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        "decoder_config": {"model_type": "detr", "d_model": 32, "decoder_layers": 1,
                           "decoder_attention_heads": 4, "encoder_attention_heads": 4,
                           "decoder_ffn_dim": 64, "num_queries": 10},
        "fpn_feature_size": 32, "mask_feature_size": 32, "num_labels": 5}, BOXES),
    "DPTForDepthEstimation": ({**PICTURE, "num_hidden_layers": 4,
                               "backbone_out_indices": [0, 1, 2, 3],
                               "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 32},
                              PIXELS),
    "DepthAnythingForDepthEstimation": ({
        "backbone_config": {**PICTURE, "model_type": "dinov2", "num_hidden_layers": 4,
                            "reshape_hidden_states": False, "patch_size": 14, "image_size": 70,
                            "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        "reassemble_hidden_size": 64, "neck_hidden_sizes": [16, 16, 32, 32],
        "fusion_hidden_size": 32}, {"pixel_values": (1, 3, 70, 70)}),
    "GLPNForDepthEstimation": ({"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1],
                                "num_attention_heads": [1, 2, 4, 4],
                                "decoder_hidden_size": 16}, PIXELS),
    "Dinov2WithRegistersModel": (PICTURE, PIXELS),
    "DINOv3ViTModel": (PICTURE, PIXELS),
    "BeitForSemanticSegmentation": ({**PICTURE, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4],
                                     "use_relative_position_bias": True, "num_labels": 5,
                                     "pool_scales": [1, 2, 3, 4]}, PIXELS),
    "ConvNextV2Model": (STAGES, PIXELS),
    "LevitForImageClassification": ({"image_size": 64, "hidden_sizes": [32, 48, 64],
                                     "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1],
                                     "key_dim": [8, 8, 8]}, PIXELS),
    "CvtModel": ({"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
                 PIXELS),
    "PvtV2Model": ({"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1],
                    "num_attention_heads": [1, 2, 4, 4], "linear_attention": True,
                    "image_size": 64}, PIXELS),
    "Swinv2Model": ({"image_size": 64, "patch_size": 4, "embed_dim": 24, "depths": [2, 2],
                     "num_heads": [2, 4], "window_size": 4}, PIXELS),
    "Swin2SRForImageSuperResolution": ({"image_size": 32, "patch_size": 1, "embed_dim": 24,
                                        "depths": [2, 2], "num_heads": [2, 2], "window_size": 4,
                                        "upscale": 2}, {"pixel_values": (1, 3, 24, 24)}),
    "SwiftFormerModel": ({"embed_dims": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}, PIXELS),
    "FocalNetModel": ({"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1]}, PIXELS),
    "HieraModel": ({"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 1, 1],
                    "num_heads": [1, 2, 4, 4]}, PIXELS),
    "BitModel": ({"embedding_size": 32, "num_groups": 8, **STAGES}, PIXELS),
    "MobileViTV2ForSemanticSegmentation": ({"image_size": 64, "width_multiplier": 0.5}, PIXELS),
    "VitDetModel": ({**PICTURE, "window_block_indices": [0], "window_size": 3,
                     "use_relative_position_embeddings": True,
                     "residual_block_indices": [1]}, PIXELS),
    "UperNetForSemanticSegmentation": ({"backbone_config": {
        **BACKBONE, "out_features": ["stage1", "stage2", "stage3", "stage4"]}, "hidden_size": 32,
        "num_labels": 5, "auxiliary_in_channels": 48, "auxiliary_channels": 16}, PIXELS),
    "SegGptModel": ({"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                     "image_size": [64, 32], "patch_size": 8, "mlp_dim": 128, "merge_index": 0,
                     "intermediate_hidden_state_indices": [1], "decoder_hidden_size": 16,
                     "pretrain_image_size": 32},
                    {"pixel_values": (1, 3, 32, 32), "prompt_pixel_values": (1, 3, 32, 32),
                     "prompt_masks": (1, 3, 32, 32)}),
    "SamModel": ({"vision_config": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
        "patch_size": 8, "window_size": 3, "global_attn_indexes": [1], "output_channels": 32,
        "mlp_dim": 64, "num_pos_feats": 16},
        "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "patch_size": 8,
                                  "mask_input_channels": 8},
        "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 64, "num_hidden_layers": 2,
                                "num_attention_heads": 2, "iou_head_hidden_dim": 32}},
        {"pixel_values": (1, 3, 64, 64), "input_points": (1, 1, 2, 2)}),
    "SuperPointForKeypointDetection": ({"encoder_hidden_sizes": [8, 8, 16, 16],
                                        "decoder_hidden_size": 16, "descriptor_decoder_dim": 16,
                                        "max_keypoints": 10}, PIXELS),
    "ViTMAEForPreTraining": ({**PICTURE, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1,
                              "decoder_num_attention_heads": 2, "decoder_intermediate_size": 64},
                             {**PIXELS, "noise": (1, 16)}),
    "ImageGPTModel": ({**GPT, "n_positions": 64}, IDS),
    "PerceiverForImageClassificationLearned": ({"num_latents": 8, "d_latents": 32, "d_model": 32,
                                                "num_blocks": 1, "num_self_attends_per_block": 1,
                                                "num_self_attention_heads": 2,
                                                "num_cross_attention_heads": 1, "image_size": 32},
                                               {"inputs": (1, 3, 32, 32)}),
    "VitPoseForPoseEstimation": ({"backbone_config": {
        **{k: v for k, v in PICTURE.items() if k != "intermediate_size"}, "mlp_ratio": 2,
        "model_type": "vitpose_backbone", "image_size": [64, 48], "patch_size": [16, 16],
        "out_indices": [2], "num_experts": 1, "part_features": 0}},
        {"pixel_values": (1, 3, 64, 48)}),
    "VitMatteForImageMatting": ({"backbone_config": {
        **PICTURE, "model_type": "vitdet", "num_channels": 4, "out_features": ["stage2"]},
        "hidden_size": 64, "convstream_hidden_sizes": [8, 16, 16],
        "fusion_hidden_sizes": [32, 16, 16, 8]}, {"pixel_values": (1, 4, 64, 64)}),
    "ZoeDepthForDepthEstimation": ({"backbone_config": {
        **PICTURE, "model_type": "beit", "num_hidden_layers": 4, "use_relative_position_bias": True,
        "reshape_hidden_states": False, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 32,
        "bottleneck_features": 32, "num_attractors": [4, 2, 2, 1], "bin_embedding_dim": 16,
        "bin_configurations": [{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0,
                                "name": "nyu"}]}, PIXELS),
    "PvtModel": ({**STAGES, "image_size": 64, "num_attention_heads": [1, 2, 3, 4]}, PIXELS),
    "TextNetModel": ({}, PIXELS),
    "HGNetV2ForImageClassification": ({}, PIXELS),
    "EfficientNetModel": ({"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.25,
                           "hidden_dim": 320}, PIXELS),
    "Aimv2VisionModel": (PICTURE, PIXELS),
    "MobileNetV1Model": ({"depth_multiplier": 0.25}, PIXELS),
    "Florence2VisionBackbone": ({"embed_dim": [16, 32, 48, 64], "depths": [1, 1, 1, 1],
                                 "num_heads": [2, 2, 4, 4], "num_groups": [2, 2, 4, 4],
                                 "window_size": 4, "projection_dim": 32},
                                {"hidden_states": (1, 3, 64, 64)}),
    "Sam2VisionModel": ({"backbone_config": {"model_type": "sam2_hiera_det_model",
        "hidden_size": 16, "num_attention_heads": 1, "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [16, 32, 64, 128],
        "num_attention_heads_per_stage": [1, 2, 4, 8], "window_size_per_stage": [4, 2, 4, 2],
        "global_attention_blocks": [3], "window_positional_embedding_background_size": [4, 4]},
        "backbone_channel_list": [128, 64, 32, 16], "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}, PIXELS),
    "EomtForUniversalSegmentation": ({**PICTURE, "num_queries": 8, "num_blocks": 1,
                                      "num_labels": 5}, PIXELS),
    "OneFormerForUniversalSegmentation": ({
        "backbone_config": {"model_type": "swin", "image_size": 96, "patch_size": 4,
                            "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4],
                            "window_size": 3,
                            "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        "conv_dim": 32, "mask_dim": 32, "hidden_dim": 32, "encoder_layers": 1, "decoder_layers": 3,
        "encoder_feedforward_dim": 64, "dim_feedforward": 64, "num_attention_heads": 4,
        "num_queries": 10, "query_dec_layers": 1, "task_seq_len": 16, "text_encoder_width": 32,
        "text_encoder_context_length": 16, "text_encoder_num_layers": 1},
        {**BOXES, "task_ids": (1, 16)}),
    "Qwen2AudioEncoder": ({"num_mel_bins": 16, "d_model": 64, "encoder_layers": 1,
                           "encoder_attention_heads": 4, "encoder_ffn_dim": 128,
                           "max_source_positions": 40}, {"input_features": (1, 16, 80)}),
    # films
    "VideoMAEModel": ({**PICTURE, "num_frames": 4, "image_size": 32},
                      {"pixel_values": (1, 4, 3, 32, 32)}),
    "TimesformerModel": ({**PICTURE, "num_frames": 4, "image_size": 32},
                         {"pixel_values": (1, 4, 3, 32, 32)}),
    "VivitModel": ({**PICTURE, "num_frames": 4, "image_size": 32, "tubelet_size": [2, 8, 8]},
                   {"pixel_values": (1, 4, 3, 32, 32)}),
    "VJEPA2Model": ({"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "crop_size": 32, "patch_size": 8, "frames_per_clip": 4,
                     "pred_hidden_size": 24, "pred_num_attention_heads": 2,
                     "pred_num_hidden_layers": 1, "pred_num_mask_tokens": 2},
                    {"pixel_values_videos": (1, 4, 3, 32, 32)}),
    # time series
    "PatchTSTForPrediction": ({"num_input_channels": 3, "context_length": 32, "patch_length": 8,
                               "patch_stride": 4, "prediction_length": 8, "d_model": 32,
                               "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64},
                              {"past_values": (1, 32, 3)}),
    "PatchTSMixerForPrediction": ({"num_input_channels": 3, "context_length": 32,
                                   "patch_length": 8, "patch_stride": 8, "prediction_length": 8,
                                   "d_model": 16, "num_layers": 2}, {"past_values": (1, 32, 3)}),
    "TimeSeriesTransformerModel": (SERIES, {
        "past_values": (1, 27), "past_time_features": (1, 27, 2), "past_observed_mask": (1, 27),
        "future_values": (1, 8), "future_time_features": (1, 8, 2)}),
    "InformerModel": (SERIES, {
        "past_values": (1, 27), "past_time_features": (1, 27, 2), "past_observed_mask": (1, 27),
        "future_values": (1, 8), "future_time_features": (1, 8, 2)}),
    "AutoformerModel": ({**SERIES, "label_length": 8, "moving_average": 5}, {
        "past_values": (1, 27), "past_time_features": (1, 27, 2), "past_observed_mask": (1, 27),
        "future_values": (1, 8), "future_time_features": (1, 8, 2)}),
    "TimesFmModelForPrediction": ({"patch_length": 8, "context_length": 32, "horizon_length": 8,
                                   "num_hidden_layers": 1, "hidden_size": 32, "head_dim": 16,
                                   "intermediate_size": 64, "num_attention_heads": 2},
                                  {"past_values": (1, 32)}),
    "DecisionTransformerModel": ({"hidden_size": 64, "n_layer": 2, "n_head": 4, "state_dim": 6,
                                  "act_dim": 3, "max_ep_len": 200}, {
        "states": (1, 8, 6), "actions": (1, 8, 3), "rewards": (1, 8, 1),
        "returns_to_go": (1, 8, 1), "timestep_ids": (1, 8), "attention_mask": (1, 8)}),
}  # fmt: skip
"""Settings and the shapes of the inputs, by the class. What is called ids is of whole numbers."""

MAIN = ("logits", "pred_boxes", "pred_masks", "masks_queries_logits", "class_queries_logits",
        "audio_values", "text_embeds", "image_embeds", "predicted_depth", "reconstruction",
        "prediction_outputs")  # fmt: skip
"""The outputs that are read, of those that have them; of others the first."""

RENAMED = {"bbox_ids": "bbox", "timestep_ids": "timesteps", "picture_ids": "input_ids",
           "patches": "flattened_patches", "task_ids": "task_inputs"}  # fmt: skip


def family(name: str) -> Built:
    """The model of a class of transformers, with its main outputs.

    Raises:
        ImportError: transformers is not installed.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    settings, shapes = FAMILIES[name]
    kind = getattr(transformers, name)
    found = _uneven(kind(kind.config_class(**settings)))
    keywords = [RENAMED.get(n, n) for n in shapes]

    class Answers(torch.nn.Module):
        """The main outputs alone."""

        def __init__(self) -> None:
            super().__init__()
            self.model = found

        def forward(self, *given: Any) -> Any:
            made = self.model(**dict(zip(keywords, given, strict=True)))
            if isinstance(made, torch.Tensor):
                return made
            named = [made[n] for n in MAIN if made.get(n) is not None]
            return tuple(named) or made[0]

    def draw(random: np.random.Generator) -> Sample:
        return tuple(_input(name, shape, random) for name, shape in shapes.items())

    return torch_built(Answers(), draw)


def _uneven(module: Any) -> Any:
    """A module through which signals pass, as through a trained one.

    Weights that start small leave rows alike, whose scores tie in `topk`; so do constant ones.
    """
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for layer in module.modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv1d | torch.nn.Conv2d):
                gain = 1 if isinstance(layer, torch.nn.Linear) else 2
                layer.weight.mul_((gain / layer.weight[0].numel()) ** 0.5 / layer.weight.std())
    return module


def _input(name: str, shape: tuple[int, ...], random: np.random.Generator) -> Any:
    if name == "bbox_ids":
        return np.sort(random.integers(0, 100, shape), -1)
    if name == "picture_ids":
        return np.concatenate(
            [np.full((1, 16), 199), random.integers(3, 40, (1, shape[1] - 16))], 1
        )
    if name == "patches":
        rows, columns = np.divmod(np.arange(shape[1]), 4)
        places = np.stack([rows, columns], -1)[None] + 1
        values = random.normal(size=(*shape[:2], shape[2] - 2))
        return np.concatenate([places, values], -1).astype(np.float32)
    if name == "token_type_ids":
        return random.integers(0, 2, shape)
    if name.endswith("_ids"):
        return random.integers(3, 40, shape)
    if name.endswith("mask"):
        return np.ones(shape, np.int64)
    if name == "input_points":
        return random.uniform(0, 64, shape).astype(np.float32)
    return random.normal(size=shape).astype(np.float32)
