"""The wire contract: arrays that are handed over without copying, and what is refused."""

import copy
import pickle
from collections.abc import Callable

import flwr.app as flower
import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto, recorddict_from_proto, recorddict_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from hypothesis.extra.numpy import arrays as any_array
from numpy import ndarray

from clients.messages import (
    Array,
    EvaluateReply,
    Hello,
    MessageError,
    TrainReply,
    TrainRequest,
    count_bytes,
    decode_evaluate_reply,
    decode_hello,
    decode_request,
    decode_train_reply,
    encode_evaluate_reply,
    encode_hello,
    encode_request,
    encode_train_reply,
    from_record,
    to_record,
)
from tests.fakes import EVALUATE, HELLO, TRAIN, train_reply, train_request

EXAMPLES: dict[str, ndarray] = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "float16": np.array([1.5, -2], np.float16),
    "int64": np.array([1, 2**62]),
    "bool": np.array([True, False]),
    "no axes": np.array(3.5),
    "empty": np.zeros((0, 4), np.float32),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(10)[::3],
    "big endian": np.array([1, 2], ">f4"),
    "complex": np.array([1 + 2j]),
    "text": np.array(["a", "bc"]),
}
examples = pytest.mark.parametrize("values", EXAMPLES.values(), ids=EXAMPLES)


def same(first: ndarray, second: ndarray) -> None:
    assert (first.dtype, first.shape) == (second.dtype, second.shape)
    np.testing.assert_array_equal(first, second)


# Array


@examples
def test_the_array_itself_is_handed_on_read_only(values: ndarray) -> None:
    shared = Array(values).numpy()
    same(shared, values)
    assert not shared.flags.writeable
    assert values.flags.writeable
    if values.size:
        assert np.shares_memory(shared, values)


def test_writing_to_a_shared_array_is_an_error() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Array(np.zeros(3)).numpy()[0] = 1


@examples
def test_bytes_and_header_are_flowers(values: ndarray) -> None:
    ours, theirs = Array(values), flower.Array(values)
    assert (ours.data, ours.dtype, ours.shape, ours.stype) == (theirs.data, theirs.dtype, theirs.shape, theirs.stype)
    assert ours.object_id == theirs.object_id


@settings(max_examples=50, deadline=None)
@given(any_array(st.sampled_from([np.float32, np.float64, np.int32, np.uint8]), array_shapes(min_dims=0, min_side=0)))
def test_bytes_are_flowers_for_any_array(values: ndarray) -> None:
    assert Array(values).data == flower.Array(values).data


@examples
def test_an_array_survives_pickle_and_copies(values: ndarray) -> None:
    array = Array(values)
    for copied in (pickle.loads(pickle.dumps(array, protocol=5)), copy.copy(array), copy.deepcopy(array)):
        same(copied.numpy(), values)
        assert copied.data == flower.Array(values).data


def test_objects_are_refused() -> None:
    with pytest.raises(MessageError, match="Python objects"):
        Array(np.array([{}, None]))


# Records


MODEL = {"b": np.arange(4, dtype=np.float32), "a": np.ones((2, 2)), "n": np.array(7)}


def test_records_keep_order_and_memory() -> None:
    back = from_record(to_record(MODEL))
    assert list(back) == ["b", "a", "n"]
    assert all(np.shares_memory(back[name], values) for name, values in MODEL.items())


def test_payload_in_bytes() -> None:
    assert count_bytes(MODEL) == 4 * 4 + 4 * 8 + 8
    assert count_bytes({}) == 0


def content() -> RecordDict:
    return RecordDict({"arrays": to_record(EXAMPLES), "config": ConfigRecord({"round": 3})})


def check(record: ArrayRecord) -> None:
    for name, values in from_record(record).items():
        same(values, EXAMPLES[name])
    assert list(record) == list(EXAMPLES)


def test_records_survive_flowers_protocol_buffers() -> None:
    back = recorddict_from_proto(recorddict_to_proto(content()))
    check(back["arrays"])
    assert dict(back["config"]) == {"round": 3}


def test_messages_survive_flowers_protocol_buffers() -> None:
    message = Message(content(), 4, TRAIN)
    message.metadata.__dict__["_message_id"] = "1"
    check(message_from_proto(message_to_proto(message)).content["arrays"])


def test_messages_survive_flowers_object_store() -> None:
    """What SuperLink and SuperNode do: an object a chunk, found by its hash, put together again on the other side."""
    message = Message(content(), 4, TRAIN)
    contents = {object_id: obj.deflate() for object_id, obj in get_all_nested_objects(message).items()}
    back = inflate_object_from_contents(message.object_id, contents)
    assert isinstance(back, Message)
    check(back.content["arrays"])
    assert type(back.content["arrays"]["float32"]) is flower.Array


def test_our_records_and_flowers_hash_alike() -> None:
    theirs = ArrayRecord({name: flower.Array(values) for name, values in EXAMPLES.items()})
    assert to_record(EXAMPLES).object_id == theirs.object_id


def test_records_survive_pickle() -> None:
    check(pickle.loads(pickle.dumps(content(), protocol=5))["arrays"])


# Requests and replies


def request(message_type: str = TRAIN, **config: int | float | str | bool) -> Message:
    return Message(encode_request(to_record(MODEL), config), 4, message_type)


def test_request_there_and_back() -> None:
    decoded = decode_request(request(lr=0.1, rsu="rsu-1", epochs=2, last=True))
    assert decoded.config == {"lr": 0.1, "rsu": "rsu-1", "epochs": 2, "last": True}
    assert all(np.shares_memory(decoded.arrays[name], values) for name, values in MODEL.items())


def test_a_request_without_config_has_an_empty_one() -> None:
    message = Message(RecordDict({"arrays": to_record(MODEL)}), 4, TRAIN)
    assert decode_request(message).config == {}
    assert TrainRequest(MODEL).config == {}


@pytest.mark.parametrize("records", [{}, {"arrays": ConfigRecord()}, {"model": ArrayRecord()}])
@pytest.mark.parametrize("message_type", [TRAIN, EVALUATE])
def test_a_request_without_arrays_says_what_is_missing(records: dict, message_type: str) -> None:
    with pytest.raises(MessageError, match=f"a {message_type} message needs an ArrayRecord named 'arrays'"):
        decode_request(Message(RecordDict(records), 4, message_type))


def test_train_reply_there_and_back() -> None:
    message = encode_train_reply(TrainReply(MODEL, 12, {"loss": 0.5, "steps": 3}), request())
    reply = decode_train_reply(message)
    assert (reply.num_examples, reply.metrics) == (12, {"loss": 0.5, "steps": 3})
    assert list(reply.arrays) == list(MODEL)
    assert all(np.shares_memory(reply.arrays[name], values) for name, values in MODEL.items())
    assert message.metadata.src_node_id == 4


def test_evaluate_reply_there_and_back() -> None:
    reply = EvaluateReply(5, {"map": 0.25})
    assert decode_evaluate_reply(encode_evaluate_reply(reply, request(EVALUATE))) == reply


def test_hello_there_and_back() -> None:
    hello = Hello("vehicle-3", "Kärntner Straße", 40)
    assert decode_hello(encode_hello(hello, Message(RecordDict(), 4, HELLO))) == hello


def test_metrics_that_are_lists_are_left_out() -> None:
    metrics = MetricRecord({"num-examples": 2, "loss": 0.5, "losses": [0.4, 0.6]})
    message = Message(RecordDict({"metrics": metrics}), reply_to=train_request(1))
    assert decode_evaluate_reply(message) == EvaluateReply(2, {"loss": 0.5})


def test_a_metric_cannot_overwrite_the_weight() -> None:
    message = encode_train_reply(TrainReply(MODEL, 12, {"num-examples": 10**6}), request())
    assert decode_train_reply(message).num_examples == 12


ARRAYS, METRICS = ArrayRecord([np.zeros(2)]), MetricRecord({"num-examples": 1})


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ({}, "exactly one ArrayRecord, got 0"),
        ({"m": METRICS}, "exactly one ArrayRecord, got 0"),
        ({"a": ARRAYS, "b": ARRAYS, "m": METRICS}, "exactly one ArrayRecord, got 2"),
        ({"a": ARRAYS}, "exactly one MetricRecord, got 0"),
        ({"a": ARRAYS, "m": METRICS, "n": METRICS}, "exactly one MetricRecord, got 2"),
        ({"a": ARRAYS, "m": MetricRecord()}, "'num-examples' must be a whole number, got None"),
        ({"a": ARRAYS, "m": MetricRecord({"num-examples": 1.5})}, "whole number, got 1.5"),
        ({"a": ARRAYS, "m": MetricRecord({"num-examples": float("nan")})}, "whole number, got nan"),
        ({"a": ARRAYS, "m": MetricRecord({"num-examples": [3]})}, r"whole number, got \[3\]"),
    ],
)
def test_malformed_train_replies(records: dict, text: str) -> None:
    with pytest.raises(MessageError, match=text):
        decode_train_reply(Message(RecordDict(records), reply_to=train_request(1)))


def test_malformed_evaluate_replies() -> None:
    for records in ({}, {"m": MetricRecord()}, {"a": ARRAYS}):
        with pytest.raises(MessageError):
            decode_evaluate_reply(Message(RecordDict(records), reply_to=train_request(1)))


GOOD = {"vehicle": "a", "region": "north", "num-examples": 3}


@pytest.mark.parametrize(
    "fields",
    [
        *({name: value for name, value in GOOD.items() if name != gone} for gone in GOOD),
        {**GOOD, "vehicle": 7},
        {**GOOD, "region": b"north"},
        {**GOOD, "num-examples": 3.0},
        {**GOOD, "num-examples": True},
        {**GOOD, "num-examples": "3"},
    ],
)
def test_malformed_hellos(fields: dict) -> None:
    message = Message(RecordDict({"config": ConfigRecord(fields)}), reply_to=train_request(1))
    with pytest.raises(MessageError, match=r"vehicle \(text\), region \(text\) and num-examples \(whole\)"):
        decode_hello(message)


def test_a_hello_has_one_record() -> None:
    with pytest.raises(MessageError, match="exactly one ConfigRecord, got 0"):
        decode_hello(Message(RecordDict(), reply_to=train_request(1)))


@pytest.mark.parametrize("name", ["arrays", "model"])
def test_a_reply_in_flowers_own_words_is_understood(name: str) -> None:
    """Whatever its records are called, as Flower's strategies hold it."""
    records = RecordDict({name: ArrayRecord([np.arange(3.0)]), "train": MetricRecord({"num-examples": 2, "loss": 1.0})})
    reply = decode_train_reply(Message(records, reply_to=train_request(1)))
    np.testing.assert_array_equal(reply.arrays["0"], np.arange(3.0))
    assert (reply.num_examples, reply.metrics) == (2, {"loss": 1.0})


# Names from outside


@pytest.mark.parametrize(
    "name", ["[/x]", "v;0", "", " v", "-v", "../evil", "v/0", "v" * 65, "v\n", "v\x1b[31m", "ü", "v,0", "$v$", "v=1"]
)
def test_a_hello_with_a_name_that_is_markup_a_key_or_a_path_is_refused(name: str) -> None:
    with pytest.raises(MessageError, match=r"vehicle .* is no name"):
        decode_hello(encode_hello(Hello(name, "r", 1), Message(RecordDict(), 4, HELLO)))


@pytest.mark.parametrize("region", ["r" * 65, "r\n", "r\x1b[31m"])
def test_a_region_is_short_and_printable(region: str) -> None:
    with pytest.raises(MessageError, match=r"region .* is no name"):
        decode_hello(encode_hello(Hello("v", region, 1), Message(RecordDict(), 4, HELLO)))


@pytest.mark.parametrize("decode", [decode_train_reply, decode_evaluate_reply])
@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["x" * 300], "is no name"),
        (["a;b"], "is no name"),
        (["[/x]"], "is no name"),
        (["a/../b"], "is no name"),
        (["accepted"], "server's own"),
        (["unplaced"], "server's own"),
        ([f"m{i}" for i in range(257)], "257 metrics, at most 256"),
    ],
)
def test_metrics_that_would_break_a_log_are_refused(decode: Callable, names: list[str], text: str) -> None:
    reply = train_reply(1, {"w": np.ones(1, np.float32)}, 1, **dict.fromkeys(names, 0.5))
    if decode is decode_evaluate_reply:
        del reply.content["arrays"]
    with pytest.raises(MessageError, match=text):
        decode(reply)
    most = {f"m{i}": 0.5 for i in range(256)}
    assert len(decode(train_reply(1, {"w": np.ones(1, np.float32)}, 1, **most)).metrics) == 256
