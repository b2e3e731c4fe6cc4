"""A toy federation: every vehicle adds its own number to the model, so that results are arithmetic."""

import time

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.messages import (
    Arrays,
    EvaluateReply,
    Hello,
    TrainReply,
    decode_request,
    encode_evaluate_reply,
    encode_hello,
    encode_train_reply,
)

HANG_S = 3.0


def model() -> Arrays:
    return {"w": np.full((4, 3), 10, np.float32), "b": np.full(5, 10, np.float32), "steps": np.array(7, np.int64)}


def moved(arrays: Arrays, by: float) -> Arrays:
    return {name: np.asarray(values + np.asarray(by).astype(values.dtype)) for name, values in arrays.items()}


def misbehave(fault: str, arrays: Arrays, good: TrainReply) -> TrainReply:
    """What a vehicle with a fault answers instead of `good`."""
    if fault == "raises":
        raise RuntimeError("sensor unplugged")
    if fault == "hangs":
        time.sleep(HANG_S)
        return good
    if fault == "nan":
        return TrainReply({**good.arrays, "b": np.full(5, np.nan, np.float32)}, good.num_examples)
    if fault == "shape":
        return TrainReply({**good.arrays, "b": np.zeros(6, np.float32)}, good.num_examples)
    if fault == "extra-key":
        return TrainReply({**good.arrays, "backdoor": np.zeros(2, np.float32)}, good.num_examples)
    if fault == "scaled":
        return TrainReply(moved(arrays, 100.0 * 2), good.num_examples)
    if fault in ("heavy", "negative"):
        return TrainReply(good.arrays, 10**9 if fault == "heavy" else -9)
    raise AssertionError(fault)


def client_app(faults: dict[int, str] | None = None, mods: list | None = None) -> ClientApp:
    """Vehicle i (partition id) of region i % 2 holds i + 1 examples and adds i + 1 to every element."""
    app, faults = ClientApp(mods=mods), faults or {}

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        i = int(context.node_config["partition-id"])
        return encode_hello(Hello(f"v{i}", f"region-{i % 2}", i + 1), message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        i = int(context.node_config["partition-id"])
        request = decode_request(message)
        good = TrainReply(moved(request.arrays, i + 1), i + 1, {"loss-total": 1.0})
        return encode_train_reply(misbehave(faults[i], request.arrays, good) if i in faults else good, message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        mean = float(decode_request(message).arrays["w"].mean())
        return encode_evaluate_reply(EvaluateReply(1, {"mean": mean}), message)

    return app
