"""Chat templates and tokenizers that are odd but good, and some that harm: see odd_models."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.data.tiny_tokenizer import CHATML
from tests.faults.odd_models import (
    VOCAB,
    Change,
    Odd,
    all_of,
    config,
    file,
    json_changed,
    linked,
    removed,
    text_of,
)


def tokenizer(change: Callable[[dict[str, Any]], object]) -> Change:
    """tokenizer.json changed."""
    return json_changed("tokenizer.json", change)


def tokenizer_config(change: Callable[[dict[str, Any]], object]) -> Change:
    """tokenizer_config.json changed."""
    return json_changed("tokenizer_config.json", change)


def template(text: str) -> Change:
    """Another chat template."""
    return file("chat_template.jinja", text)


def _added(id: int, content: str, special: bool = True) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id, "content": content, **flags, "special": special}


# These meet text, in a process of their own.
TEXTS: Odd = {
    "no template": (removed("chat_template.jinja"), None),
    "template in the tokenizer's config": (
        all_of(
            removed("chat_template.jinja"), tokenizer_config(lambda said: said.update(chat_template=CHATML))
        ),
        None,
    ),
    "several templates": (
        all_of(
            removed("chat_template.jinja"),
            tokenizer_config(
                lambda said: said.update(
                    chat_template=[
                        {"name": "tool_use", "template": "{{"},
                        {"name": "default", "template": CHATML},
                    ]
                )
            ),
        ),
        None,
    ),
    "several templates, none the default": (
        all_of(
            removed("chat_template.jinja"),
            tokenizer_config(lambda said: said.update(chat_template=[{"name": "rag", "template": CHATML}])),
        ),
        None,
    ),
    "templates beside": (file("additional_chat_templates/tool_use.jinja", "{{"), None),
    "template of another line end": (template(CHATML.replace("{% if", "\r\n{% if")), None),
    "template with a byte order mark": (template("\ufeff" + CHATML), None),
    "template of today's date": (template("{{ strftime_now('%d %b %Y') }}" + CHATML), None),
    "template that takes no system message": (
        template("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML),
        None,
    ),
    "no tokenizer's config": (
        all_of(removed("tokenizer_config.json"), config(eos_token_id=263)),
        None,
    ),
    "tokenizer's config of numbers": (
        tokenizer_config(lambda said: said.update(model_max_length=10**30, x=float("inf"))),
        None,
    ),
    "added tokens beyond the embedding": (
        tokenizer(lambda said: said["added_tokens"].append(_added(VOCAB, "<image_soft_token>"))),
        None,
    ),
    "100,000 added tokens beyond the embedding": (
        tokenizer(
            lambda said: said["added_tokens"].extend(
                _added(VOCAB + number, f"<extra_{number}>") for number in range(100_000)
            )
        ),
        None,
    ),
    "padding and truncation": (
        tokenizer(
            lambda said: said.update(
                truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
            )
        ),
        None,
    ),
    "merges as lists": (
        tokenizer(
            lambda said: said["model"].update(
                merges=[m if isinstance(m, list) else m.split(" ") for m in said["model"]["merges"]]
            )
        ),
        None,
    ),
    "merges as text": (
        tokenizer(
            lambda said: said["model"].update(
                merges=[m if isinstance(m, str) else " ".join(m) for m in said["model"]["merges"]]
            )
        ),
        None,
    ),
    "special map of objects": (
        file("special_tokens_map.json", json.dumps({"eos_token": _added(263, "<|im_end|>")})),
        None,
    ),
    "byte order mark before the tokenizer": (
        text_of("tokenizer.json", lambda text: b"\xef\xbb\xbf" + text.encode()),
        None,
    ),
    "template broken": (template("{% for"), "can't be compiled"),
    "template without answers": (template("{{ messages[0]['content'] }}"), "leaves answers out"),
    "template that loops": (
        template("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
        "template",
    ),
    "template that multiplies": (template("{{ 'x' * 10**10 }}"), "template"),
    "template of a huge power": (template("{{ 9 ** 9 ** 9 }}"), "template"),
    "template that writes much": (
        template("{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}"),
        "template",
    ),
    "template that formats much": (template("{{ '%999999999d' % 1 }}"), "template"),
    "template that asks for Python": (
        template("{{ ''.__class__.__mro__[1].__subclasses__() }}" + CHATML),
        "template",
    ),
    "template that includes": (template("{% include '/etc/passwd' %}" + CHATML), "template"),
    "template that calls itself": (template("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"), "template"),
    "template of random text": (
        template("{{ [1,2,3]|random }}{{ range(10**6)|random }}" + CHATML),
        "template",
    ),
    "template of 1 MB": (template(" " * 10**6), "longer than"),
    "template not utf-8": (file("chat_template.jinja", b"\xff\xfe"), "UTF-8"),
    "template a device": (linked("chat_template.jinja", "/dev/zero"), "chat_template.jinja"),
    "pattern that never ends": (
        tokenizer(
            lambda said: said.update(
                pre_tokenizer={
                    "type": "Split",
                    "pattern": {"Regex": "(a+)+$|(7|77)+!"},
                    "behavior": "Isolated",
                    "invert": False,
                }
            )
        ),
        "tokenizer",
    ),
    "text that blows up": (
        tokenizer(
            lambda said: said.update(
                normalizer={
                    "type": "Sequence",
                    "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}]
                    * 6,
                }
            )
        ),
        "tokenizer",
    ),
    "tokenizer of another kind": (
        tokenizer(lambda said: said["model"].update(type="Evil")),
        "tokenizer.json",
    ),
    "tokenizer not utf-8": (
        text_of("tokenizer.json", lambda text: text.encode().replace(b"<|im_end|>", b"<|im_\xe1(|>")),
        "tokenizer.json",
    ),
    "tokenizer with ids that are too high": (
        tokenizer(lambda said: said["model"]["vocab"].update(evil=10**6)),
        "tokenizer.json",
    ),
    "tokenizer with ids below 0": (
        tokenizer(lambda said: said["model"]["vocab"].update(evil=-1)),
        "tokenizer.json",
    ),
    "tokenizer of nothing": (
        tokenizer(lambda said: (said["model"].update(vocab={}, merges=[]), said.update(added_tokens=[]))),
        "tokenizer",
    ),
    "tokenizer deep": (file("tokenizer.json", "[" * 10**6), "tokenizer.json"),
    "tokenizer a folder": (
        all_of(removed("tokenizer.json"), lambda folder: (folder.path / "tokenizer.json").mkdir()),
        "tokenizer.json",
    ),
    "sentencepiece alone": (
        all_of(removed("tokenizer.json"), file("tokenizer.model", b"\x0a\x0e")),
        "no tokenizer.json",
    ),
    "no end token": (
        all_of(
            tokenizer_config(lambda said: said.pop("eos_token")), config(eos_token_id=None, bos_token_id=None)
        ),
        "end token",
    ),
}
