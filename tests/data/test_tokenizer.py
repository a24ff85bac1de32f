import json
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlora_studio.data.tokenizer import load_tokenizer
from qlora_studio.errors import StudioError
from tests.data.tiny_tokenizer import SPECIAL, byte_level, model_folder, sentencepiece_like, t5_like

KINDS = {"byte level": byte_level, "sentencepiece": sentencepiece_like}
texts = st.text(alphabet="hello abcxyz\n:<|>_é😀", max_size=40)


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tmp_path_factory):
    return load_tokenizer(model_folder(tmp_path_factory.mktemp("model"), KINDS[request.param]()))


@pytest.fixture(scope="module")
def bytes_tokenizer(tmp_path_factory):
    return load_tokenizer(model_folder(tmp_path_factory.mktemp("model")))


def ids_of(tokenizer, text, foreign=()):
    (encoded,) = tokenizer.encode_rendered([text], [foreign])
    return encoded.ids.tolist()


def test_a_rendered_chat_is_encoded_as_the_bare_library_does():
    import tempfile
    from pathlib import Path

    bare = byte_level()
    text = "<|im_start|>user\nhello there<|im_end|>\n"
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load_tokenizer(model_folder(Path(folder) / "model", bare))

    assert ids_of(tokenizer, text) == bare.encode(text, add_special_tokens=False).ids


def test_special_tokens_come_from_the_folders_files(tmp_path):
    folder = model_folder(tmp_path / "model", pad_token={"content": "<s>"})
    (folder / "generation_config.json").write_text('{"eos_token_id": [256, 3]}')
    tokenizer = load_tokenizer(folder)
    end = tokenizer.id_of("<|im_end|>")

    assert tokenizer.special.names == {"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<s>"}
    assert tokenizer.special.eos_id == end
    assert tokenizer.special.pad_id == tokenizer.id_of("<s>")
    assert tokenizer.special.stop_ids == tuple(sorted({end, 256, 3}))
    assert tokenizer.vocab_size == end + 1


def test_a_folder_without_an_end_token_is_refused(tmp_path):  # S4
    folder = model_folder(tmp_path / "model", eos_token=None)

    with pytest.raises(StudioError, match="no token that ends"):
        load_tokenizer(folder)


def test_tokens_listed_only_in_the_config_are_added(tmp_path):
    next_id = byte_level().get_vocab_size()
    listed = {str(next_id): {"content": "<tool>", "special": True}}

    tokenizer = load_tokenizer(model_folder(tmp_path / "model", added_tokens_decoder=listed))

    assert tokenizer.id_of("<tool>") == next_id
    assert tokenizer.is_special(next_id)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    folder = model_folder(tmp_path / "model", added_tokens_decoder={"9000": {"content": "<tool>"}})

    with pytest.raises(StudioError, match=r"'<tool>' the id 9000"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not valid JSON"),
        (b"[1]", "no JSON object"),
        (b'{"model": {"type": "Nonsense"}}', "no tokenizer that can be used"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
    ],
)
def test_a_broken_tokenizer_file_is_named(tmp_path, content, reason):  # S7
    folder = model_folder(tmp_path / "model")
    (folder / "tokenizer.json").write_bytes(content)

    with pytest.raises(StudioError, match=reason) as refused:
        load_tokenizer(folder)
    assert "tokenizer.json" in refused.value.message


@pytest.mark.skipif(sys.platform == "win32", reason="no FIFOs there")
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    folder = model_folder(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")

    with pytest.raises(StudioError, match="no regular file"):
        load_tokenizer(folder)


def test_vocabulary_and_merges_make_the_same_tokenizer_as_tokenizer_json(tmp_path):
    whole = byte_level()
    parts = json.loads(whole.to_str())["model"]
    vocab = parts["vocab"] | {"<|endoftext|>": len(parts["vocab"])}
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in parts["merges"])
    )
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    tokenizer = load_tokenizer(folder)

    text = "hello there, hello"

    assert ids_of(tokenizer, text) == whole.encode(text).ids
    assert ids_of(tokenizer, "<|endoftext|>") == [len(parts["vocab"])]


def test_a_sentencepiece_file_alone_is_refused_with_the_reason(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e")

    with pytest.raises(StudioError, match="SentencePiece"):
        load_tokenizer(tmp_path)


@given(texts)
def test_names_of_special_tokens_in_data_are_encoded_as_text(bytes_tokenizer, around):  # D9
    text = f"{around}<|im_end|>{around}"
    spans = [(len(around), len(around) + len("<|im_end|>"))]

    ids = ids_of(bytes_tokenizer, text, spans)

    assert bytes_tokenizer.id_of("<|im_end|>") not in ids
    assert bytes_tokenizer.decode(ids) == text


def test_only_the_templates_own_special_tokens_are_special(tokenizer):  # D9
    text = "<|im_start|>hello <|im_end|> hello<|im_end|>"
    inside = text.index("<|im_end|>")

    ids = ids_of(tokenizer, text, [(inside, inside + len("<|im_end|>"))])

    assert ids[0] == tokenizer.id_of("<|im_start|>")
    assert ids[-1] == tokenizer.id_of("<|im_end|>")
    assert ids.count(tokenizer.id_of("<|im_end|>")) == 1
    assert tokenizer.decode(ids).strip() == "hello <|im_end|> hello"


@given(texts, texts)
def test_guarding_changes_nothing_but_the_names(bytes_tokenizer, before, after):  # D9
    """A guarded text is encoded as the text that would stand there if its name were no special token."""
    name = "<|im_end|>"
    text = f"<s>{before}{name}{after}<|im_start|>{after}"
    at = len("<s>") + len(before)

    ids = ids_of(bytes_tokenizer, text, [(at, at + len(name))])

    plain = byte_level()
    plain.encode_special_tokens = True
    expected = [
        bytes_tokenizer.id_of("<s>"),
        *plain.encode(before + name + after).ids,
        bytes_tokenizer.id_of("<|im_start|>"),
        *plain.encode(after).ids,
    ]
    assert ids == expected


def test_a_text_is_foreign_from_end_to_end(tokenizer):  # D9
    (encoded,) = tokenizer.encode_texts(["hello <|im_end|> hello"])

    assert tokenizer.id_of("<|im_end|>") not in encoded.ids.tolist()
    assert tokenizer.decode(encoded.ids.tolist()).strip() == "hello <|im_end|> hello"


def test_pieces_of_a_unigram_model_that_are_special_are_made_of_no_text(tmp_path):  # D9
    names = {"bos_token": None, "eos_token": "</s>"}
    tokenizer = load_tokenizer(model_folder(tmp_path / "model", t5_like(), None, **names))
    text = "hello</s> <pad> <unk> A <extra_id_0>"
    foreign = tokenizer.special_in(text)
    assert len(foreign) == 4

    (whole,) = tokenizer.encode_texts([text])

    ids = ids_of(tokenizer, text, foreign)
    assert not any(map(tokenizer.is_special, ids))
    assert tokenizer.decode(ids) == text
    assert whole.ids.tolist() == [*ids, tokenizer.special.eos_id]  # what the tokenizer itself puts there
    (own,) = tokenizer.encode_rendered(["hello</s> <pad>"], [[tokenizer.special_in("hello</s> <pad>")[1]]])
    assert own.ids[1] == tokenizer.special.eos_id  # of a template's own
    assert not any(map(tokenizer.is_special, own.ids.tolist()[2:]))


def test_a_text_gets_the_beginning_its_tokenizer_puts_there(tmp_path):
    tokenizer = load_tokenizer(model_folder(tmp_path / "model", sentencepiece_like()))

    (encoded,) = tokenizer.encode_texts(["hello"])

    assert encoded.ids.tolist() == [tokenizer.id_of("<s>"), tokenizer.id_of("▁hello")]


@given(st.data())
def test_tokens_of_a_span_are_those_that_touch_it(tokenizer, data):
    text = data.draw(texts.filter(bool))
    foreign = data.draw(st.booleans())
    name = "<|im_end|>"
    whole = f"<|im_start|>{text}{name}{text}"
    at = len("<|im_start|>") + len(text)
    (encoded,) = tokenizer.encode_rendered([whole], [[(at, at + len(name))] if foreign else []])
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))

    found = encoded.tokens_of(start, end)

    touching = [i for i, (first, last) in enumerate(encoded.spans()) if first < end and last > start]
    if start == end:
        touching = []
    assert list(range(len(encoded.ids)))[found] == touching


def test_every_special_name_is_found(bytes_tokenizer):
    text = "a".join(SPECIAL)

    assert [text[start:end] for start, end in bytes_tokenizer.special_in(text)] == list(SPECIAL)


def test_an_added_token_beyond_the_embedding_is_text(tmp_path):
    folder = model_folder(tmp_path / "model")
    known = load_tokenizer(folder).vocab_size
    (folder / "config.json").write_text(json.dumps({"vocab_size": known}))
    definition = json.loads((folder / "tokenizer.json").read_text())
    definition["added_tokens"].append({**definition["added_tokens"][0], "id": known, "content": "<image>"})
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    entry = {"content": "<later>", "special": True}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "added_tokens_decoder": {str(known + 1): entry}})
    )

    tokenizer = load_tokenizer(folder)

    (encoded,) = tokenizer.encode_rendered(["<image> <later>"])
    assert tokenizer.vocab_size == known
    assert tokenizer.decode(encoded.ids.tolist()) == "<image> <later>"
