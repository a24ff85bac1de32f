"""Lines that are pasted as they stand: whatever the folder is called."""

from __future__ import annotations

import json
import shlex

from qlora_studio.models.elsewhere import Exported, ready_lines

AWKWARD = '/exports/it\'s $HOME "mine"'


def lines_of(*files, rank=24):
    exported = Exported(folder=AWKWARD, files=files, base="/models/a base", rank=rank, name="run one")
    return {line.program: line.text for line in ready_lines(exported)}


def test_an_adapter_is_loaded_by_peft_and_served_by_vllm_beside_its_base():
    lines = lines_of("adapter_config.json", "adapter_model.safetensors")
    words = shlex.split(lines["vLLM"])
    assert words[:3] == ["vllm", "serve", "/models/a base"]
    assert words[words.index("--max-lora-rank") + 1] == "32"  # 24 is none of its own
    assert words[-1] == f"run one={AWKWARD}"
    compile(lines["transformers + peft"], "pasted", "exec")
    assert json.dumps(AWKWARD) in lines["transformers + peft"]


def test_a_merged_model_is_loaded_by_transformers_and_served_by_vllm():
    lines = lines_of("config.json", "model.safetensors")
    assert shlex.split(lines["vLLM"]) == ["vllm", "serve", AWKWARD]
    compile(lines["transformers"], "pasted", "exec")


def test_a_gguf_is_run_by_llama_cpp_and_with_its_modelfile_by_ollama():
    lines = lines_of("run-Q8_0.gguf", "README.md")
    assert shlex.split(lines["llama.cpp"]) == ["llama-cli", "-m", f"{AWKWARD}/run-Q8_0.gguf"]
    assert "Ollama" not in lines
    ollama = lines_of("run-Q8_0.gguf", "Modelfile")["Ollama"]
    assert shlex.split(ollama)[:5] == ["ollama", "create", "run one", "-f", f"{AWKWARD}/Modelfile"]
