"""The ClientApp: decodes a message, picks the client, encodes its answer. One app for every engine and vehicle."""

from collections.abc import Mapping

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.gaussian_client import GaussianClient
from clients.gaussian_wire import MISSING
from clients.messages import Scalar, decode_request, encode_evaluate_reply, encode_hello, encode_train_reply
from clients.perception_client import PerceptionClient, PerceptionTask
from fl_app.holdings import held_by
from fl_app.node_config import read_node_config
from fl_app.run_config import RunConfig, parse_at_vehicle
from perception.datasets import DataError

app = ClientApp()
torch.set_num_threads(1)  # workers share the machine: parallelism is across vehicles


def task_of(config: RunConfig) -> PerceptionTask:
    """The learning task that a run config describes."""
    return PerceptionTask(
        data=config.data,
        request=config.fleet_request,
        size_px=config.size_px,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        final_learning_rate=config.final_learning_rate,
        warmup_steps=config.warmup_steps,
        proximal_mu=config.proximal_mu if config.strategy == "fedprox" else 0.0,
        num_rounds=config.num_rounds,
        seed=config.seed,
    )


def client_of(context: Context) -> PerceptionClient:
    """The vehicle that a node stands for: its node config says which data are its own."""
    return PerceptionClient(task_of(parse_at_vehicle(context.run_config)), read_node_config(context.node_config))


def surveyor_of(context: Context, settings: Mapping[str, Scalar] | None = None) -> GaussianClient:
    """The vehicle that a node stands for in a reconstruction; a message's settings say who is missing."""
    request, own = parse_at_vehicle(context.run_config).survey, read_node_config(context.node_config)
    if own.path is not None:
        raise DataError(
            "node config: data-path: vehicles of a reconstruction are planned on one route, which the run's data-path "
            "names; start this SuperNode with its partition-id alone"
        )
    missing = str((settings or {}).get(MISSING, ""))
    return GaussianClient(*held_by(request, own.index, tuple(missing.split(",")) if missing else ()))


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Who are you?"""
    client = surveyor_of(context) if rebuilds(context) else client_of(context)
    return encode_hello(client.hello(), message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on your own frames, or do a job of a reconstruction."""
    request = decode_request(message)
    reply = surveyor_of(context, request.config).work(request) if rebuilds(context) else client_of(context).fit(request)
    return encode_train_reply(reply, message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Judge on your own frames."""
    request = decode_request(message)
    client = surveyor_of(context, request.config) if rebuilds(context) else client_of(context)
    return encode_evaluate_reply(client.judge(request), message)


def rebuilds(context: Context) -> bool:
    """Whether the run is a reconstruction."""
    return context.run_config.get("task") == "reconstruction"
