"""The wire contract between cloud, RSUs and vehicles: Flower's RecordDict on one side, dataclasses on the other.

The records are named as Flower's own strategies name them ("arrays", "config", "metrics", weight under
"num-examples"), so a Convoy vehicle also answers a stock Flower strategy, and the other way round.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeGuard, TypeVar

import flwr.app as flower
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy import ndarray

Scalar = int | float | str | bool
Arrays = dict[str, ndarray]
Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)

ARRAYS, CONFIG, METRICS, NUM_EXAMPLES = "arrays", "config", "metrics", "num-examples"
HELLO_ACTION = "query.hello"
LARGEST = 10**15  # of any count or measured number that is believed
# Names from outside become keys, file names and text on a terminal.
VEHICLE_NAME = re.compile(r"(?!node-\d)[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # "node-5" is one without a name
METRIC_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_. -]{0,63}")
LONGEST_REGION = 64  # of which only equality matters
MOST_METRICS = 256
RESERVED_METRICS = frozenset({"accepted", "examples", "lost", "protected", "unplaced", "seed-m", "error-m"})


class MessageError(ValueError):
    """A message does not keep to the contract; the text names the record and the field."""


class Array(flower.Array):
    """Flower's Array that turns into bytes only when something asks for them.

    Inside one process the ndarray itself is handed on, read-only; every other transport reads `data` and gets
    the bytes that `flwr.app.Array` would have made. The name is Flower's because its object header carries it.

    Args:
        values: any dtype that numpy's .npy format knows without pickling.
    """

    def __init__(self, values: ndarray) -> None:
        shared = _read_only(values)
        self.__dict__.update(dtype=_dtype_name(shared.dtype), shape=shared.shape, stype="numpy.ndarray", _values=shared)

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The array in .npy format, made at each call so that no second copy of a model stays in memory."""
        return flower.Array(self.__dict__["_values"]).data

    def numpy(self) -> ndarray:
        """The shared, read-only array."""
        return self.__dict__["_values"]


class _MadeOnSight(dict):
    """What an ArrayRecord stores: ndarrays by name, each of which becomes an `Array` when somebody looks at it."""

    def __getitem__(self, name: str) -> flower.Array:
        value = super().__getitem__(name)
        if isinstance(value, ndarray):
            value = self[name] = Array(value)
        return value

    def _look(self) -> "_MadeOnSight":
        for name in self:
            self[name]
        return self

    def items(self):
        return dict.items(self._look())

    def values(self):
        return dict.values(self._look())

    def copy(self) -> "_MadeOnSight":
        return _MadeOnSight(self)

    def __eq__(self, other: object) -> bool:
        return dict.__eq__(self._look(), other)

    def __repr__(self) -> str:
        return dict.__repr__(self._look())

    __hash__ = None


def _read_only(values: ndarray) -> ndarray:
    shared = np.asarray(values).view()  # a 0-d result of numpy's arithmetic is a scalar
    if shared.dtype.hasobject:
        raise MessageError(f"arrays of Python objects cannot be sent (dtype {shared.dtype})")
    shared.setflags(write=False)
    return shared


@lru_cache
def _dtype_name(dtype: np.dtype) -> str:
    return str(dtype)


def to_record(arrays: Mapping[str, ndarray]) -> ArrayRecord:
    """Wrap arrays without copying them; the caller must not write to them afterwards.

    Goes past the record's own `__setitem__`, whose checks cost more than all else that a message does in one process.
    """
    record = ArrayRecord()
    record.__dict__["_data"] = _MadeOnSight({name: _read_only(values) for name, values in arrays.items()})
    return record


def from_record(record: ArrayRecord) -> Arrays:
    """Arrays of a record, read-only where they are shared. Order of the keys is kept.

    Raises:
        MessageError: bytes that hold no array.
    """
    stored = dict(record.__dict__["_data"])
    return {name: value if isinstance(value, ndarray) else _loaded(name, value) for name, value in stored.items()}


def _loaded(name: str, value: flower.Array) -> ndarray:
    """The array that bytes from elsewhere hold; damaged ones make numpy raise errors of a dozen kinds."""
    try:
        values = value.numpy()
    except Exception as error:
        raise MessageError(f"array {name!r} cannot be read: {type(error).__name__}: {error}") from None
    if not isinstance(values, ndarray):
        raise MessageError(f"array {name!r} is a {type(values).__name__}, not one array in .npy format")
    return values


def count_bytes(arrays: Mapping[str, ndarray]) -> int:
    """Payload in bytes, without the headers that a transport adds."""
    return sum([values.nbytes for values in arrays.values()])


@dataclass(frozen=True)
class Hello:
    """What a vehicle says of itself when it joins: its name, the region it drives in, how many frames it holds."""

    vehicle: str
    region: str
    num_examples: int


@dataclass(frozen=True)
class TrainRequest:
    """A model to train on (`arrays`), the round it is for, and the settings of local training."""

    arrays: Arrays
    config: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainReply:
    """A trained model, how many examples stand behind it, and what the vehicle measured."""

    arrays: Arrays
    num_examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluateReply:
    """What a vehicle measured with the model on its own test frames."""

    num_examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)


def encode_request(record: ArrayRecord, config: Mapping[str, Scalar]) -> RecordDict:
    """Request content; `record` may be shared between the requests of a whole RSU."""
    return RecordDict({ARRAYS: record, CONFIG: ConfigRecord(dict(config))})


def copy_request(content: RecordDict) -> RecordDict:
    """The same request for another vehicle: the settings are copied, the model is shared."""
    config = ConfigRecord()
    config.__dict__["_data"] = dict(content[CONFIG].__dict__["_data"])
    return _checked_content({ARRAYS: content[ARRAYS], CONFIG: config})


def decode_request(message: Message) -> TrainRequest:
    """Request of a train or evaluate message.

    Raises:
        MessageError: the array record is missing or damaged.
    """
    record, config = message.content.get(ARRAYS), message.content.get(CONFIG)
    if not isinstance(record, ArrayRecord):
        raise MessageError(f"a {message.metadata.message_type} message needs an ArrayRecord named '{ARRAYS}'")
    return TrainRequest(from_record(record), dict(config) if isinstance(config, ConfigRecord) else {})  # type: ignore[arg-type]


def encode_train_reply(reply: TrainReply, to: Message) -> Message:
    """Message that carries a train reply back."""
    metrics = MetricRecord({**reply.metrics, NUM_EXAMPLES: reply.num_examples})
    return Message(_checked_content({ARRAYS: to_record(reply.arrays), METRICS: metrics}), reply_to=to)


def decode_train_reply(message: Message) -> TrainReply:
    """Train reply of a message that has content.

    Raises:
        MessageError: not exactly one ArrayRecord and one MetricRecord, a damaged array, no scalar "num-examples", or
            metrics that are too many or ill named.
    """
    arrays = _only(message.content, ArrayRecord)
    num_examples, metrics = _split_metrics(message)
    return TrainReply(from_record(arrays), num_examples, metrics)


def encode_evaluate_reply(reply: EvaluateReply, to: Message) -> Message:
    """Message that carries an evaluate reply back."""
    metrics = MetricRecord({**reply.metrics, NUM_EXAMPLES: reply.num_examples})
    return Message(RecordDict({METRICS: metrics}), reply_to=to)


def decode_evaluate_reply(message: Message) -> EvaluateReply:
    """Evaluate reply of a message that has content; raises MessageError as `decode_train_reply` does."""
    return EvaluateReply(*_split_metrics(message))


def encode_hello(hello: Hello, to: Message) -> Message:
    """Message that carries a vehicle's answer to "who are you?"."""
    fields = ConfigRecord({"vehicle": hello.vehicle, "region": hello.region, NUM_EXAMPLES: hello.num_examples})
    return Message(RecordDict({CONFIG: fields}), reply_to=to)


def decode_hello(message: Message) -> Hello:
    """Raises MessageError when a field is missing, of the wrong type, or a name that cannot be one."""
    fields = _only(message.content, ConfigRecord)
    vehicle, region, num_examples = fields.get("vehicle"), fields.get("region"), fields.get(NUM_EXAMPLES)
    if not (isinstance(vehicle, str) and isinstance(region, str) and type(num_examples) is int):
        raise MessageError(
            f"a hello needs vehicle (text), region (text) and {NUM_EXAMPLES} (whole), got {str(dict(fields))[:200]}"
        )
    if not VEHICLE_NAME.fullmatch(vehicle):
        raise MessageError(f"a hello's vehicle {vehicle[:80]!r} is no name: want {VEHICLE_NAME.pattern}")
    if len(region) > LONGEST_REGION or not region.isprintable():
        raise MessageError(
            f"a hello's region {region[:80]!r} is no name: want at most {LONGEST_REGION} printable signs"
        )
    return Hello(vehicle, region, num_examples)


def _checked_content(records: dict[str, ArrayRecord | ConfigRecord | MetricRecord]) -> RecordDict:
    """Content of records that are known to be such; what Flower checks again costs more than the message itself."""
    content = RecordDict()
    content.__dict__["_data"] = records
    return content


def _split_metrics(message: Message) -> tuple[int, dict[str, float]]:
    metrics = dict(_only(message.content, MetricRecord))
    num_examples = metrics.pop(NUM_EXAMPLES, None)
    if type(num_examples) is not int or abs(num_examples) > LARGEST:
        raise MessageError(f"'{NUM_EXAMPLES}' must be a whole number, got {num_examples!r}")
    _check_metric_names(metrics)
    return num_examples, {name: value for name, value in metrics.items() if _sane(value)}


def _check_metric_names(metrics: Mapping[str, object]) -> None:
    """Refuses names that would break or take the place of what others log.

    Raises:
        MessageError: names the first of them, or says that there are too many.
    """
    if len(metrics) > MOST_METRICS:
        raise MessageError(f"a reply carries {len(metrics)} metrics, at most {MOST_METRICS} are taken")
    for name in metrics:
        if not METRIC_NAME.fullmatch(name):
            raise MessageError(f"metric {name[:80]!r} is no name: want {METRIC_NAME.pattern}")
        if name in RESERVED_METRICS:
            raise MessageError(f"metric {name!r} is a name of the server's own: take another")


def _sane(value: object) -> TypeGuard[float]:
    """Whether it is a number that arithmetic bears; NaN, which says that nothing was measured, is one."""
    return isinstance(value, int | float) and not abs(value) > LARGEST


def _only(content: RecordDict, kind: type[Record]) -> Record:
    """The one record of a kind. Not through `content.array_records`: that view is a reference cycle."""
    records = [record for record in content.values() if isinstance(record, kind)]
    if len(records) != 1:
        raise MessageError(f"a reply holds exactly one {kind.__name__}, got {len(records)}")
    return records[0]
