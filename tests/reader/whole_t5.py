"""A whole tiny T5 folder: weights, config and a tokenizer of bytes; no chat template, as T5 has none."""

import json

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken

from qlora_studio.models.clean_config import clean_values
from qlora_studio.models.tensor_plan import tensor_plan
from tests.data.tiny_tokenizer import byte_level, model_folder, t5_like

PAD, END = 264, 265
CONFIG = {
    "model_type": "t5",
    "is_encoder_decoder": True,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "vocab_size": 272,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 32,
    "dropout_rate": 0.0,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "decoder_start_token_id": PAD,
}


def whole_t5(folder, **changes):
    """As Flan-T5; with `feed_forward_proj="relu", tie_word_embeddings=True` as the first T5."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in ("<pad>", "</s>")])
    assert (tokenizer.token_to_id("<pad>"), tokenizer.token_to_id("</s>")) == (PAD, END)
    return _folder(folder, tokenizer, CONFIG | changes)


def whole_t5_without_lines(folder, **changes):
    """The same with a tokenizer as T5's own, which has no token for a line's end."""
    ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    return _folder(folder, t5_like(), CONFIG | ids | changes)


def _folder(folder, tokenizer, config):
    names = {"bos_token": None, "eos_token": "</s>", "pad_token": "<pad>"}
    model_folder(folder, tokenizer, None, **names)
    (folder / "config.json").write_text(json.dumps(config))
    model_type, values = clean_values(config, folder)
    random = np.random.default_rng(0)
    louder = {"shared.weight": 1, "lm_head.weight": 2}  # the head is frozen: what it can't say isn't learned
    tensors = {
        name: np.ones(shape, np.float32)
        if len(shape) == 1
        else random.standard_normal(shape).astype(np.float32) / louder.get(name, 8)
        for name, shape in tensor_plan(model_type, values).tensors()
    }
    save_file(tensors, folder / "model.safetensors")
    return folder
