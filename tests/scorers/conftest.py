"""Small classifiers of many families, as they come and alone: the oracle of every score."""

import inspect

import pytest

_DECODER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_ENCODER = _DECODER | {"max_position_embeddings": 64}
_LLAMA = _ENCODER | {"num_key_value_heads": 1}
_GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
_OPT = {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 16}
_NEO = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "window_size": 4, "max_position_embeddings": 64}
_DEBERTA = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["c2p", "p2c"]}
_BART = {f"{half}_{what}": 2 for half in ("encoder", "decoder") for what in ("layers", "attention_heads")}
_BART |= {"d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64}
FAMILIES = {
    "Bert": _ENCODER,
    "Roberta": _ENCODER | {"pad_token_id": 2},
    "MPNet": _ENCODER | {"pad_token_id": 2},
    "DistilBert": {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 64},
    "DebertaV2": _ENCODER | _DEBERTA,
    "BigBird": _ENCODER | {"block_size": 4, "num_random_blocks": 1},
    "Electra": _ENCODER | {"embedding_size": 16},
    "Albert": _ENCODER | {"embedding_size": 8},
    "XLNet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24},
    "FNet": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "max_position_embeddings": 64},
    "GPT2": _GPT,
    "GPTNeo": _NEO | {"attention_types": [[["global", "local"], 1]]},
    "GPTNeoX": _ENCODER,
    "Llama": _LLAMA,
    "Mistral": _LLAMA,
    "Qwen2": _LLAMA,
    "Gemma": _LLAMA | {"head_dim": 8},
    "OPT": _OPT | {"max_position_embeddings": 64},
    "Bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    "T5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
    "Bart": _BART,
}
LABELS = {0: "nothate", 1: "hate"}


@pytest.fixture(scope="session")
def classifier():
    """Makes a small classifier of a family whose logits tell texts clearly apart."""
    import torch
    import transformers

    def make(family, n_words, **config):
        settings = FAMILIES[family] | {"bos_token_id": 1, "eos_token_id": 1} | config
        settings |= {"vocab_size": n_words, "id2label": LABELS, "label2id": {name: i for i, name in LABELS.items()}}
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForSequenceClassification")(
            getattr(transformers, f"{family}Config")(**settings)
        )
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.3)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def margins_alone():
    """The margin of `hate` of each text by the model's bare forward: one text, nothing beside it, no padding."""
    import torch

    def margins(model, encoded):
        taken = inspect.signature(type(model).forward).parameters
        found = []
        for ids in encoded:
            inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
            with torch.no_grad():
                logits = model(**{name: column for name, column in inputs.items() if name in taken}).logits[0]
            found.append((logits[1] - logits[0]).item())
        return found

    return margins
