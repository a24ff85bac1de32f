import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.encoded import EncodedByBytes, EncodedWithOffsets
from qlora_studio.data.row_encoder import RowEncoder
from qlora_studio.data.template import find_template
from qlora_studio.data.tokenizer import ModelTokenizer, load_tokenizer
from tests.data.tiny_tokenizer import SPECIAL, byte_level, model_folder, sentencepiece_like

WORDS = Regex(r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+")


def llama3_like():
    """Words are split by a pattern of its own, and a text begins with BOS."""
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(WORDS, "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    bos = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[bos]),
        ]
    )
    return tokenizer


def qwen_like():
    """As Llama 3's, of texts in NFC."""
    tokenizer = llama3_like()
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def smollm2_like():
    """Digits stand alone, and some bytes have no token."""
    model = json.loads(byte_level().to_str())["model"]
    kept = [token for token in model["vocab"] if token not in "ĄēñÀ"]  # bytes 0x04, 0x13, 0xF1 and 0xC0
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(kept)}, merges))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    return tokenizer


def unigram():
    """As T5 and XLM-R have it: ▁ for spaces, unknown characters as one token."""
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁hello", -3.0), *((letter, -5.0) for letter in "helo<|_>:123日")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    return tokenizer


def word_piece():
    """As BERT has it: lower case without accents, blanks are lost."""
    pieces = ["[UNK]", "hello", "##llo", "he", *"helo<|_>:123日", *(f"##{letter}" for letter in "helo")]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    return tokenizer


BY_BYTES = {"gpt-2": byte_level, "llama 3": llama3_like, "qwen": qwen_like, "smollm2": smollm2_like}
BY_OFFSETS = {"sentencepiece": sentencepiece_like, "unigram": unigram, "word piece": word_piece}
KINDS = BY_BYTES | BY_OFFSETS

SIGNS = ["ñþ", "e\u0301", "é", "\u212b", "\u1112\u1161\u11ab", "👩\u200d👧", "日本", "\x00\x13\x7f\x9f"]
pieces = st.sampled_from(["hello", " ", "\r\n", "12345", *SIGNS, *SPECIAL])
texts = st.lists(pieces | st.text(max_size=8), max_size=8).map("".join)


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("model"), KINDS[request.param]())


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def with_offsets(tokenizer):
    return placed_by_library(tokenizer)


def placed_by_library(tokenizer):
    return ModelTokenizer(tokenizer._tokenizer, tokenizer.special, tokenizer.sha256, placing=None)


@settings(deadline=None)
@given(st.lists(texts, max_size=3))
def test_tokens_and_their_places_are_those_of_the_library(tokenizer, with_offsets, batch):
    found = tokenizer.encode_rendered(batch)

    expected = with_offsets.encode_rendered(batch)
    assert [item.ids.tolist() for item in found] == [item.ids.tolist() for item in expected]
    assert [item.spans() for item in found] == [item.spans() for item in expected]
    assert {item.ids.dtype for item in found} <= {np.dtype(np.int32)}


@settings(deadline=None)
@given(texts, st.data())
def test_tokens_of_any_characters_are_those_of_the_library(tokenizer, with_offsets, text, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))

    ((found,), (expected,)) = tokenizer.encode_rendered([text]), with_offsets.encode_rendered([text])

    ids = found.ids.tolist()
    assert ids[found.tokens_of(start, end)] == ids[expected.tokens_of(start, end)]


@settings(deadline=None)
@given(st.lists(texts, min_size=2, max_size=6))
def test_what_is_learned_and_shown_is_the_same_either_way(folder, tokenizer, with_offsets, turns):  # D4
    roles = ("user", "assistant") * len(turns)
    row = Row(row=0, line=1, messages=tuple(map(Message, roles, turns)))
    template = find_template(folder, tokenizer.special.names)
    ours, theirs = (RowEncoder(each, template, train_on="answers") for each in (tokenizer, with_offsets))

    ((found,), (expected,)) = ours.encode([row]), theirs.encode([row])

    assert found.ids.tolist() == expected.ids.tolist()
    assert found.weights.tolist() == expected.weights.tolist()
    shown = ours.tokens_of(found, 10_000, "drop")
    assert shown == theirs.tokens_of(expected, 10_000, "drop")
    assert [token.id for token in shown] == found.ids.tolist()
    assert [token.fate == "learned" for token in shown] == (found.weights > 0).tolist()


@settings(deadline=None)
@given(texts)
def test_a_plain_text_is_the_tokens_of_the_library(tokenizer, text):
    (found,) = tokenizer.encode_texts([text])

    expected = tokenizer._as_text.tokenizer.encode(text)
    assert found.ids.tolist() == expected.ids
    assert found.spans() == expected.offsets


@pytest.mark.parametrize("kind", BY_BYTES)
@pytest.mark.parametrize("text", ["", "<|im_start|>user\nhello\r\n", "日本 👩\u200d👧 é <|im_end|>"])
def test_byte_level_tokens_are_placed_by_their_bytes(tmp_path, kind, text):
    (found,) = load_tokenizer(model_folder(tmp_path, BY_BYTES[kind]())).encode_rendered([text])

    assert isinstance(found, EncodedByBytes)


@pytest.mark.parametrize("kind", BY_OFFSETS)
def test_other_tokens_are_placed_by_the_library(tmp_path, kind):
    (found,) = load_tokenizer(model_folder(tmp_path, BY_OFFSETS[kind]())).encode_rendered(["hello"])

    assert isinstance(found, EncodedWithOffsets)


@pytest.mark.parametrize(("kind", "text"), [("qwen", "cafe\u0301"), ("smollm2", "\x13 ok")])
def test_a_text_whose_bytes_are_not_all_there_is_placed_by_the_library(tmp_path, kind, text):
    tokenizer = load_tokenizer(model_folder(tmp_path, BY_BYTES[kind]()))

    first, found, last = tokenizer.encode_rendered(["hello", text, "hello hello"])

    assert isinstance(found, EncodedWithOffsets)
    assert isinstance(first, EncodedByBytes)
    assert first.ids.tolist() == last.ids[:1].tolist()
    assert len(last.ids) > 1


def prefixed():
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def dropping():
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(False)]
    )
    return tokenizer


def lower_case():
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def taking_blanks():
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("<sep>", rstrip=True, normalized=False)])
    return tokenizer


def named_like_letters():
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("é", normalized=False)])  # also the letter of byte 0xE9
    return tokenizer


def with_stand_in():
    definition = json.loads(byte_level().to_str())
    definition["model"]["unk_token"] = "h"
    del definition["model"]["vocab"]["ñ"]
    return Tokenizer.from_str(json.dumps(definition))


UNSURE = (prefixed, dropping, lower_case, taking_blanks, named_like_letters, with_stand_in)


@pytest.mark.parametrize("kind", UNSURE)
def test_where_tokens_may_not_be_the_texts_bytes_the_library_places_them(tmp_path, kind):
    tokenizer = load_tokenizer(model_folder(tmp_path, kind()))

    (found,) = tokenizer.encode_rendered(["hello"])

    assert isinstance(found, EncodedWithOffsets)


def test_ids_beyond_any_vocabulary_take_no_memory(tmp_path):  # S7
    definition = json.loads(byte_level().to_str())
    definition["model"]["vocab"]["hello"] = 2**32 - 1
    folder = model_folder(tmp_path)
    (folder / "tokenizer.json").write_text(json.dumps(definition))

    tokenizer = load_tokenizer(folder)

    assert isinstance(tokenizer.encode_rendered(["he"])[0], EncodedWithOffsets)


def test_a_tokenizer_that_left_merges_out_by_chance_has_all_of_them(tmp_path):  # D4
    bare = byte_level()
    bare.model.dropout = 0.9

    tokenizer = load_tokenizer(model_folder(tmp_path, bare))

    texts = ["hello hello"] * 20
    assert {len(item.ids) for item in tokenizer.encode_rendered(texts)} == {2}
    assert {len(item.ids) for item in tokenizer.encode_texts(texts)} == {2}
