"""Architectures that a person will try and that do not work here, each with its reason."""

_LATENTS = (
    "makes a fixed number of latents of an image, each of them from all of it: no visual token has a place of its own "
    "that a mask could cover"
)
_CROSS_ATTENTION = (
    "looks at the image through cross-attention: its decoder has no visual tokens in the sequence, whose attention is "
    "what is scored"
)
_FUSED = "computes queries, keys and values in one projection: there are no q_proj, k_proj and v_proj to adapt"
_EXPERTS = "has a decoder with a mixture of experts, and none was tested"
_HYBRID = (
    "has a decoder in which most layers are something else than attention: no head looks at the image there, and "
    "conversations packed into one sequence would see each other"
)
_STREAMS = (
    "hands several streams of hidden states from layer to layer (AltUp), where the engine keeps and hands on one; nor "
    "do servers take adapters of it"
)

REASONS = {
    "idefics2": _LATENTS,
    "blip-2": _LATENTS,
    "instructblip": _LATENTS,
    "kosmos-2": _LATENTS,
    "kosmos-2.5": _LATENTS,
    "minicpmv": _LATENTS,
    "aria": _LATENTS,
    "mllama": _CROSS_ATTENTION,
    "idefics": _CROSS_ATTENTION,
    "florence2": _CROSS_ATTENTION,
    "phi4_multimodal": _FUSED,
    "phi4mm": _FUSED,
    "phi3_v": _FUSED,
    "fuyu": _FUSED,
    "qwen3_vl_moe": _EXPERTS,
    "glm4v_moe": _EXPERTS,
    "ernie4_5_vl_moe": _EXPERTS,
    "kimi_k25": _EXPERTS,
    "llama4": _EXPERTS,
    "qwen3_5_moe": _EXPERTS,
    "minicpmv4_6": _HYBRID,
    "lfm2_vl": _HYBRID,
    "gemma3n": _STREAMS,
}
"""By ``model_type`` of config.json: what a model of that type does, and why that does not work. docs/models.md has it
as a table."""
