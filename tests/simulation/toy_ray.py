"""Run as a script: the toy federation on Flower's Ray engine, where vehicle 1 kills its own process in round 2."""

import json
import os
import signal
import sys

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from clients.messages import decode_request, to_record
from fl_app.engines import run_local, run_ray
from strategies import Hierarchical, HierarchicalConfig
from strategies.rsu_round import Participation
from strategies.state import RunState
from tests.fl_app import toy

ROUNDS, VEHICLES = 4, 4


def deadly(message: Message, context: Context, call_next):
    """A Flower mod: the process of vehicle 1 dies in round 2."""
    its_turn = message.metadata.message_type == "train" and context.node_config["partition-id"] == 1
    if its_turn and decode_request(message).config["server-round"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return call_next(message, context)


def main(engine: str) -> None:
    """Print accepted updates per round, the losses and the final mean as JSON."""
    server, reports = ServerApp(), []
    client = toy.client_app(mods=[deadly] if engine == "ray-deadly" else [])

    @server.main()
    def run(grid: Grid, context: Context) -> None:
        settings = HierarchicalConfig(
            vehicles=VEHICLES, rsus=2, rsu_rounds=2, participation=Participation(deadline_s=60)
        )
        strategy = Hierarchical(settings, RunState(toy.model()), on_round=reports.append)
        strategy.start(grid, to_record(strategy.state.arrays), num_rounds=ROUNDS, timeout=60)
        result = {
            "accepted": [report.accepted for report in reports],
            "losses": strategy.state.losses,
            "w": strategy.state.arrays["w"].astype(float).ravel().tolist(),
        }
        print("RESULT " + json.dumps(result))

    (run_local if engine == "local" else run_ray)(server, client, VEHICLES, {}, {})


if __name__ == "__main__":
    main(sys.argv[1])
