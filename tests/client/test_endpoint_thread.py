"""The local endpoint over real sockets: for whoever knows the token, and for nobody after its end."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from qlora_studio.client.endpoint_thread import HOST, LARGEST_BODY, MOST_AT_ONCE, EndpointThread
from qlora_studio.data.conversation import Message
from qlora_studio.protocol import lines, openai, reading

TOKEN = "known-to-the-test"
QUESTION = {"model": "base", "messages": [{"role": "user", "content": "Why?"}]}


@pytest.fixture
def endpoint(loopback, qapp):
    endpoint = EndpointThread(TOKEN, ("base", "support"))
    endpoint.start()
    yield endpoint
    if endpoint.isRunning():
        endpoint.end()


@pytest.fixture
def exchanges(endpoint):
    """What was asked so far."""
    found = []
    endpoint.asked.connect(found.append)
    return found


@pytest.fixture
def ask(endpoint, qtbot):
    """A client on a thread of its own. Returns: status, body; `begin` returns the future of them."""
    pool = ThreadPoolExecutor(4)

    def request(method="GET", path="/v1/models", body=None, token=TOKEN, **headers):
        connection = http.client.HTTPConnection(HOST, endpoint.port, timeout=20)
        data = json.dumps(body) if isinstance(body, dict) else body
        connection.request(method, path, data, {"Authorization": f"Bearer {token}"} | headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def wait(*words, **named):
        future = pool.submit(request, *words, **named)
        qtbot.waitUntil(future.done, timeout=20_000)
        return future.result()

    wait.begin = lambda body: pool.submit(request, "POST", "/v1/chat/completions", body)
    yield wait
    pool.shutdown(wait=False)


def test_it_listens_at_this_machine_s_own_address_alone(endpoint):  # S10
    assert endpoint._server.server_address == (HOST, endpoint.port)
    assert HOST == "127.0.0.1"


def test_the_models_are_listed_for_whoever_knows_the_token(ask):
    status, body = ask()
    assert status == 200
    assert [model["id"] for model in json.loads(body)["data"]] == ["base", "support"]


@pytest.mark.parametrize(
    ("named", "status", "words"),
    [
        ({"token": "another"}, 401, "token is missing or another"),
        ({"token": ""}, 401, "token is missing or another"),
        ({"Host": "evil.example"}, 403, "alone"),
        ({"path": "/v1/files"}, 404, "/v1/models"),
        ({"method": "POST", "path": "/v1/embeddings", "body": "{}"}, 404, "/v1/chat/completions"),
        ({"method": "POST", "path": "/v1/chat/completions", "body": "{"}, 400, "can't be read"),
        (
            {"method": "POST", "path": "/v1/chat/completions", "body": QUESTION | {"model": "gpt-4"}},
            404,
            "base, support can be asked",
        ),
    ],
    ids=["another token", "no token", "another host", "path", "post elsewhere", "no JSON", "unknown model"],
)
def test_what_is_not_answered_says_why(ask, exchanges, named, status, words):
    found, body = ask(**named)
    assert found == status
    assert words in json.loads(body)["error"]["message"]
    assert exchanges == []


@pytest.mark.parametrize("length", [str(LARGEST_BODY + 1), "9" * 5_000], ids=["one more", "5,000 digits"])
def test_a_body_without_end_is_not_read(ask, length):
    headers = {"Content-Length": length}
    status, body = ask("POST", "/v1/chat/completions", "{}", **headers)
    assert (status, "longer than" in json.loads(body)["error"]["message"]) == (413, True)


def test_lists_in_lists_without_end_are_refused(ask):
    status, body = ask("POST", "/v1/chat/completions", '{"metadata": ' + "[" * 100_000)
    assert (status, "can't be read" in json.loads(body)["error"]["message"]) == (400, True)


@pytest.mark.parametrize("messages", [1, openai.MOST_MESSAGES])
def test_the_largest_body_is_a_line_that_the_reader_takes(messages):
    shell = msgspec.json.encode({"model": "base", "messages": [{"role": "user", "content": ""}] * messages})
    each = (LARGEST_BODY - len(shell)) // messages
    said = [{"role": "user", "content": "x" * each}] * messages
    body = msgspec.json.encode({"model": "base", "messages": said})
    assert LARGEST_BODY - messages < len(body) <= LARGEST_BODY
    request = openai.chat_request(body)
    line = lines.REQUESTS.encode(
        reading.EncodeChat(
            id=2**31,
            model="/" + "m" * 4_000,
            messages=tuple(Message(item.role, item.text) for item in request.messages),
            run="/" + "r" * 4_000,
            trained=True,
        )
    )
    assert len(line) <= lines.LONGEST_LINE


def test_a_reply_is_answered_whole(ask, exchanges, qtbot):
    future = ask.begin(QUESTION)
    qtbot.waitUntil(lambda: len(exchanges) == 1)
    exchanges[0].say("Because ")
    exchanges[0].say("of it.")
    exchanges[0].finish("length", prompt_tokens=12, tokens=5)
    qtbot.waitUntil(future.done)
    status, body = future.result()
    said = json.loads(body)
    assert (status, said["object"], said["model"]) == (200, "chat.completion", "base")
    assert said["choices"] == [
        {
            "message": {"role": "assistant", "content": "Because of it."},
            "finish_reason": "length",
            "index": 0,
        }
    ]
    assert said["usage"] == {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}


def test_a_reply_is_streamed_as_it_is_written(ask, exchanges, qtbot):
    future = ask.begin(QUESTION | {"stream": True})
    qtbot.waitUntil(lambda: len(exchanges) == 1)
    exchanges[0].say("Because ")
    exchanges[0].say("of it.")
    exchanges[0].finish("stop", prompt_tokens=12, tokens=5)
    qtbot.waitUntil(future.done)
    status, body = future.result()
    lines = body.decode().split("\n\n")
    assert (status, lines[-2:]) == (200, ["data: [DONE]", ""])
    chunks = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-2]]
    assert [chunk["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Because "},
        {"content": "of it."},
        {},
    ]
    assert [chunk["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]


def test_what_fails_has_its_status_and_in_a_stream_its_words(ask, exchanges, qtbot):
    whole, streamed = ask.begin(QUESTION), ask.begin(QUESTION | {"stream": True})
    qtbot.waitUntil(lambda: len(exchanges) == 2)
    for exchange in exchanges:
        if exchange.request.stream:
            exchange.say("Be")
        exchange.fail(503, "A run is training and holds the device.")
    qtbot.waitUntil(lambda: whole.done() and streamed.done())
    assert whole.result()[0] == 503
    assert streamed.result()[0] == 200
    assert b"holds the device" in streamed.result()[1]
    assert b"[DONE]" not in streamed.result()[1]


def test_a_client_that_hangs_up_is_told_of(endpoint, exchanges, qtbot):
    connection = http.client.HTTPConnection(HOST, endpoint.port, timeout=20)
    connection.request(
        "POST", "/v1/chat/completions", json.dumps(QUESTION), {"Authorization": f"Bearer {TOKEN}"}
    )
    qtbot.waitUntil(lambda: len(exchanges) == 1)
    with qtbot.waitSignal(endpoint.left) as left:
        connection.close()
    assert left.args == exchanges
    assert exchanges[0].gone.is_set()


def test_after_its_end_nobody_is_heard_and_who_waited_is_told(endpoint, ask, exchanges, qtbot):  # S10
    future = ask.begin(QUESTION)
    qtbot.waitUntil(lambda: len(exchanges) == 1)
    port = endpoint.port
    endpoint.end()
    qtbot.waitUntil(future.done)
    assert future.result()[0] == 503
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection(HOST, port, timeout=5).request("GET", "/v1/models")


def test_more_clients_than_there_is_room_for_are_turned_away(endpoint, qtbot):
    silent = [http.client.HTTPConnection(HOST, endpoint.port, timeout=20) for _ in range(MOST_AT_ONCE)]
    for connection in silent:
        connection.connect()
    one_more = http.client.HTTPConnection(HOST, endpoint.port, timeout=20)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)):
        one_more.request("GET", "/v1/models")
        one_more.getresponse()
    for connection in silent:
        connection.close()
