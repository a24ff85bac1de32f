"""A whole tiny model folder: weights, config, tokenizer and template."""

import json

import numpy as np
from safetensors.numpy import save_file

from qlora_studio.models.clean_config import clean_values
from qlora_studio.models.tensor_plan import tensor_plan
from tests.data.tiny_tokenizer import CHATML, byte_level, model_folder

CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 272,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "eos_token_id": 263,
}


def whole_model(folder, template=CHATML, tokenizer=None):
    model_folder(folder, tokenizer or byte_level(), template)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    model_type, values = clean_values(CONFIG, folder)
    random = np.random.default_rng(0)
    tensors = {
        name: random.standard_normal(shape).astype(np.float32) / 8
        for name, shape in tensor_plan(model_type, values).tensors()
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


def chats_file(file, count=40, **texts):
    """`count` chats as JSON lines; `texts`: question and answer of them all, with {i} for the number."""
    question, answer = texts.get("question", "hello {i}?"), texts.get("answer", "answer {i}")
    lines = [
        json.dumps({"question": question.format(i=i), "answer": answer.format(i=i)}) for i in range(count)
    ]
    file.write_text("".join(f"{line}\n" for line in lines))
    return file
