"""The ClientApp: decodes a message, picks the client, encodes its answer. One app for every engine and vehicle."""

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.messages import decode_request, encode_evaluate_reply, encode_hello, encode_train_reply
from clients.perception_client import PerceptionClient, PerceptionTask
from fl_app.run_config import RunConfig, parse

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
    """The vehicle that a node stands for: its share of the data is its partition id."""
    return PerceptionClient(task_of(parse(context.run_config)), int(context.node_config["partition-id"]))


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Who are you?"""
    return encode_hello(client_of(context).hello(), message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on your own frames."""
    return encode_train_reply(client_of(context).fit(decode_request(message)), message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Judge on your own frames."""
    return encode_evaluate_reply(client_of(context).judge(decode_request(message)), message)
