"""Tiny random models of any family that the installed transformers knows, from its configuration class alone.

Every size of the default configuration is cut down by its name, in nested configurations too. A family whose sizes
depend on each other in ways that this does not find does not build, and says why.
"""

import re
from copy import deepcopy
from pathlib import Path

import pytest
import torch

DOCUMENT = Path(__file__).parents[3] / "docs" / "families.md"
WIDTH = 32
SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "word_embed_proj_dim"), WIDTH),
    **dict.fromkeys(("emb_dim", "rotary_emb_dim", "lru_width", "attention_hidden_size", "dim_model"), WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "dff", "moe_intermediate_size"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "shared_expert_intermediate_size", "dim_ff"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers", "num_sparse_encoder_layers", "num_blocks"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads", "num_encoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "multi_query_group_num", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_dim", "kv_channels", "global_head_dim"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_sequence_length", "context_length"), 64),
    **dict.fromkeys(("max_encoder_position_embeddings", "max_decoder_position_embeddings", "max_seq_len"), 64),
    **dict.fromkeys(("max_source_positions", "max_target_positions"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "n_group", "topk_group"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "index_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "qk_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size", "mamba_state_dim"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 64),
    **dict.fromkeys(("sliding_window", "window_size", "attention_window", "attention_chunk_size", "window"), 8),
    "hidden_size_per_layer_input": 8,
}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 1}
OWN = {
    "bamba": {"attn_layer_indices": [1]},
    "big_bird": {"block_size": 4, "num_random_blocks": 1},
    "bigbird_pegasus": {"block_size": 4, "num_random_blocks": 1},
    "dots1": {"n_routed_experts": 4},
    "esm": {"vocab_size": 64, "mask_token_id": 3, "pad_token_id": 0},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_d_head": 8},
    "funnel": {"d_head": 8},
    "fsmt": {"src_vocab_size": 64, "tgt_vocab_size": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "kimi_linear": {"num_nextn_predict_layers": 0},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4, "visual_embed": False},
    "lilt": {"hidden_size": 48},
    "luke": {"entity_vocab_size": 64, "entity_emb_size": 8},
    "mamba2": {"head_dim": 16, "n_groups": 1},
    "ministral": {"head_dim": 8},
    "mistral4": {"num_key_value_heads": 4},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {"n_groups": 1, "layers_block_type": ["mamba", "attention"], "mamba_num_heads": 4},
    "reformer": {
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [8, 8],
        "attn_layers": ["local", "lsh"],
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
    },
    "roc_bert": {"pronunciation_vocab_size": 64, "shape_vocab_size": 64},
    "zamba2": {"layer_types": ["mamba", "hybrid"], "hybrid_layer_ids": [1], "mamba_headdim": 16, "n_mamba_heads": 4},
}
"""Settings that the names of sizes do not give."""
ATTEMPTS = ({}, {"num_key_value_heads": 4}, {"num_hidden_layers": 4}, {"num_hidden_layers": 8})
"""Heads of multi-head latent attention share nothing; hybrid families have one layer of attention among many."""
FACTORIES = {
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "classifier": "AutoModelForSequenceClassification",
}
MOST_WEIGHTS = 5_000_000


def tiny_settings(klass, sizes):
    """Settings that make a configuration of a class tiny, those of nested configurations included."""
    from transformers import PreTrainedConfig

    settings = {}
    for name, value in vars(klass()).items():
        if isinstance(value, PreTrainedConfig):
            settings[name] = tiny_settings(type(value), sizes)
        elif isinstance(value, int) and not isinstance(value, bool):
            if name in sizes:
                settings[name] = sizes[name] if value else value
            elif name in SPECIAL:
                settings[name] = SPECIAL[name]
    return settings


@pytest.fixture(scope="session")
def families_page():
    """The version of transformers that the document is of, and a function that gives the text of one section."""
    text = DOCUMENT.read_text()

    def section(title):
        return re.search(rf"^## .*\({title}\)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE).group(1)

    return re.search(r"transformers (\d+\.\d+\.\d+)", text).group(1), section


@pytest.fixture(scope="session")
def tiny_model():
    """Makes a random model of a family, `causal`, `seq2seq` or `classifier`, that tells tokens and positions apart.

    Where none can be built, the reason instead of it.
    """

    def make(kind, name):
        failures = []
        for attempt in ATTEMPTS:
            try:
                return _scaled(_built(kind, name, attempt), kind)
            except Exception as error:  # configurations and models refuse in many ways
                failures.append(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
        return failures[0]

    return make


def _built(kind, name, attempt):
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    factory = getattr(transformers, FACTORIES[kind])
    klass = CONFIG_MAPPING[name]
    config = klass(**tiny_settings(klass, SIZES | attempt) | OWN.get(name, {}))
    if kind == "causal" and hasattr(config, "is_decoder"):
        config.is_decoder, config.is_encoder_decoder = True, False
    if kind == "classifier":
        config.num_labels = 2
    if config.is_encoder_decoder:
        config.decoder_start_token_id = 1
    if kind == "seq2seq" and not config.is_encoder_decoder:
        raise ValueError("it is no encoder-decoder")
    with torch.device("meta"):
        n_weights = sum(parameter.numel() for parameter in factory.from_config(config).parameters())
    if n_weights > MOST_WEIGHTS:
        raise ValueError(f"{n_weights:,} weights are left of it")
    torch.manual_seed(0)
    return factory.from_config(config).eval()


@torch.no_grad()
def _scaled(model, kind):
    """The model with weights so large that tokens and places matter; as they are drawn, they hardly do."""
    for parameter in model.parameters():
        if parameter.dim() > 1 and parameter.std() > 0:
            parameter.mul_(0.2 / parameter.std())
    ids = torch.arange(2, 12).unsqueeze(0)
    asked = deepcopy(model)  # a short text makes BigBird another model, for good
    if kind == "classifier":
        # Begin and end are the same, so that what stands between them must matter.
        texts = [torch.tensor([[2, *order, 1]]) for order in (range(3, 12), range(11, 2, -1))]
        logits = torch.stack([asked(input_ids=text).logits for text in texts])
        spread = logits.std(0).max()
    else:
        logits = asked(input_ids=ids, **({"decoder_input_ids": ids} if kind == "seq2seq" else {})).logits
        spread = logits.std()
    if not logits.isfinite().all() or spread < 0.01:
        raise ValueError("its logits say nothing")
    return model
