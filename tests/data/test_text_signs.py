import pyarrow as pa
import pyarrow.compute as pc
import pytest

from qlora_studio.data.text_signs import (
    ADDRESS,
    CUT,
    ENCODING,
    KEY,
    REFUSAL,
    TEMPLATE_MARKS,
    Sign,
    mended_encoding,
)

PROSE = "The house by the river was built long ago. " * 6

SHOW = [
    (REFUSAL, "I'm sorry, but I can't help with that request."),
    (REFUSAL, "I’m sorry, but I cannot assist with that."),
    (REFUSAL, "Sorry, I am not able to provide medical advice."),
    (REFUSAL, "I cannot fulfill this request."),
    (REFUSAL, "I apologize, but I am unable to generate such content."),
    (REFUSAL, "As an AI language model, I don't have personal opinions."),
    (REFUSAL, "As an artificial intelligence, I do not have feelings."),
    (REFUSAL, "I'm just an AI and I cannot browse the internet."),
    (KEY, "aws_access_key_id = AKIAQ7RT2MNOPX5WZ3LB"),
    (KEY, "token: ghp_Zk4tQm8RvW2xYb6NcJd9LfGhSpT1aUe3oKi7"),
    (KEY, "export OPENAI_API_KEY=sk-proj-Zk4tQm8RvW2xYb6NcJd9LfGhSpT1aUe3oKi7"),
    (KEY, "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEAxq2hD5Wv" * 4),
    (ADDRESS, "Write to jane.smith+news@gmail.com today."),
    (ENCODING, "It doesnâ€™t work, she said."),
    (ENCODING, "Un cafÃ© Ã  Paris"),
    (ENCODING, "Grüße aus MÃ¼nchen"),
    (CUT, PROSE + "Then the old man went down the stairs and into the"),
    (CUT, PROSE + "On the table there were apples, pears,"),
    (TEMPLATE_MARKS, "[INST] Why? [/INST] So."),
    (TEMPLATE_MARKS, "### Instruction:\nWhy?\n\n### Response:\nSo."),
]
SHOW_NOT = [
    (REFUSAL, "I'm sorry, but I can't make it to the party on Friday."),
    (REFUSAL, "Dear Ms Lee, I am sorry that I cannot attend the meeting."),
    (REFUSAL, "I can't believe how good this is!"),
    (REFUSAL, "As an AI researcher, she worked on language models."),
    (REFUSAL, "You can't divide by zero, so there is no answer."),
    (REFUSAL, "Sorry is a word that people use to apologize."),
    (REFUSAL, "He said: I won't go there again. " + PROSE),
    (KEY, "aws_access_key_id = AKIAIOSFODNN7EXAMPLE"),
    (KEY, "Set OPENAI_API_KEY=sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
    (KEY, "token = ghp_your_token_here"),
    (KEY, "the class sk-loading-spinner"),
    (KEY, "A file that begins with -----BEGIN PRIVATE KEY----- holds a key."),
    (ADDRESS, "Write to john.doe@example.com or user@test.example.org."),
    (ADDRESS, "@app.route decorates a function; icon@2x.png is an image"),
    (ENCODING, "Ça coûte 5 € – vraiment ? “Oui”, dit-il. Ärger, Öl, naïve"),
    (ENCODING, "NÃO é possível, SÃO PAULO"),
    (ENCODING, "Đây là tiếng Việt; ÂU LẠC"),
    (ENCODING, "Русский текст и 日本語"),
    (CUT, PROSE),
    (CUT, PROSE + "The answer is 42"),
    (CUT, PROSE + "\n- apples\n- pears\n- what I came for"),
    (CUT, "The quick brown fox and the"),
    (CUT, PROSE + "\n| a | b | c | d | e | f | the"),
    (CUT, PROSE + "What is it made of"),
    (TEMPLATE_MARKS, "Templates write <|im_start|> before each turn."),
    (TEMPLATE_MARKS, "<s>gone</s> and a | b |> c"),
]


def shows(sign: Sign, text: str) -> bool:
    """As rows are looked through: the pattern first, then the judgement."""
    hit = pc.match_substring_regex(pa.array([text]), pattern=sign.pattern)[0].as_py()
    return hit and sign.judge(text)


@pytest.mark.parametrize(("sign", "text"), SHOW)
def test_what_shows_a_sign_is_found(sign: Sign, text: str):
    assert shows(sign, text)


@pytest.mark.parametrize(("sign", "text"), SHOW_NOT)
def test_what_only_looks_like_it_is_left_alone(sign: Sign, text: str):
    assert not shows(sign, text)


def test_a_text_read_in_a_wrong_encoding_is_mended():
    assert mended_encoding("It doesnâ€™t work") == "It doesn’t work"
    assert mended_encoding("Un cafÃ© noir") == "Un café noir"


def test_mending_twice_changes_nothing_more():
    once = mended_encoding("It doesnâ€™t work, naïve cafÃ©")

    assert mended_encoding(once) == once
