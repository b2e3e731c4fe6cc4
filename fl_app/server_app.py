"""The ServerApp: reads the run config and runs it. The work is in `fl_app.run`, `scene_run` and in strategies."""

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_app.run import execute
from fl_app.run_config import parse
from fl_app.scene_run import execute_scene

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation on whichever grid Flower hands over."""
    torch.set_num_threads(1)
    config = parse(context.run_config)
    run = execute_scene if config.task == "reconstruction" else execute
    run(config, grid)
