"""`convoy offload`: which vehicles fuse their views at which RSU; one slot, a run, or policies side by side."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import track

from edge.offload.controller import Tick
from edge.offload.mobility import PREDICTORS
from edge.offload.model import UNIT_BITS
from edge.offload.picture import save_animation, save_picture
from edge.offload.policies import POLICIES
from edge.offload.scenario import AREAS, PARTICIPANTS
from fl_app.cli_recon_show import scene_errors_as_exit
from fl_app.console import console, say
from fl_app.flags import command_with, number_option
from fl_app.offload_families import ORACLE, RANDOM, SCENES, UNION, decider_of, open_any
from fl_app.offload_report import comparison_table, rsu_table, save_bars, user_rows, value_words, words
from fl_app.offload_run import FUSION_TIMEOUT_S, Wish, means, simulate, solve, tracked, write_csv
from fl_app.tracking import TrackingError
from perception.datasets.base import DataError

offload_app = typer.Typer(
    help="Which vehicles fuse their views at which roadside unit: decide, simulate, compare.", no_args_is_help=True
)

_POLICIES: Final = ", ".join([*POLICIES, UNION])
COMPARED: Final = "ours,union,algorithm1,go,cpto,random"
_PREDICTORS: Final = ", ".join([*PREDICTORS, ORACLE])
_SCENES: Final = ", ".join(SCENES)


DEADLINE: Final = "say --deadline-ms, in milliseconds: 400 for 0.4 s"
OffloadCommand = command_with(
    {"--start": "--start-s", "--reach": "--reach-m", "--gps-noise": "--gps-noise-m", "--bound": "--bound-s"},
    {"--deadline": DEADLINE, "--deadline-s": DEADLINE},
)
DAY_S, HOUR_S, FAR_M = 86_400.0, 3_600.0, 100_000.0
MANY: Final = 100_000

SceneArgument = Annotated[str, typer.Argument(help=f"Vehicles and RSUs: {_SCENES}.")]
Policy = Annotated[str, typer.Option("--policy", help=f"Who decides: {_POLICIES}.")]
Predictor = Annotated[str, typer.Option("--predictor", help=f"Who tells of turns: {_PREDICTORS}.")]
Start = Annotated[float | None, number_option("--start-s", "Time of the first slot; none for the scene's.", most=1e9)]
Seconds = Annotated[float, number_option("--seconds", "How long; a slot is decided every second.", 1, DAY_S)]
Vehicles = Annotated[
    int, typer.Option("--vehicles", min=0, max=MANY, help="Look at the first so many alone; 0 looks at all.")
]
Who = Annotated[str, typer.Option("--who", help=f"Who takes part: {' or '.join(PARTICIPANTS)}.")]
Deadline = Annotated[
    float,
    number_option("--deadline-ms", "Of every task, from sending to fused.", most=1000 * FUSION_TIMEOUT_S, above=True),
]
Size = Annotated[str, typer.Option("--size", help=f"Of a vehicle's features, in {', '.join(UNIT_BITS)}.")]
Ghz = Annotated[float, number_option("--ghz", "c of the paper: RSUs compute at 1, 2 or 3 GHz more.", most=1e6)]
Rsus = Annotated[int, typer.Option("--rsus", min=0, max=MANY, help="How many RSUs; 0 for the scene's own.")]
RsuAt = Annotated[list[str] | None, typer.Option("--rsu-at", help="EAST,NORTH of an RSU, m; once for each.")]
Reach = Annotated[float, number_option("--reach-m", "Of an RSU's radio.", most=FAR_M, above=True, endless=True)]
Area = Annotated[str, typer.Option("--area", help=f"How views are measured: {' or '.join(AREAS)} (the paper's).")]
Noise = Annotated[float, number_option("--gps-noise-m", "Standard deviation of positions.", most=FAR_M)]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Decides traffic, RSUs and everything random.")]
Bound = Annotated[
    float, number_option("--bound-s", "Time to spend on a bound on the value; 0 for none.", most=HOUR_S, endless=True)
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for tables and pictures.")]
Tracking = Annotated[str, typer.Option(help="MLflow: a URI, none, or nothing for a sqlite file beside --out.")]
Experiment = Annotated[str, typer.Option(help="MLflow experiment.")]


@offload_app.command("solve", cls=OffloadCommand)
def solve_command(
    scene: Annotated[str, typer.Argument(help=f"Vehicles and RSUs: {_SCENES}, or {RANDOM}:VEHICLES.")] = "crossing",
    policy: Policy = "ours",
    predictor: Predictor = "indicator",
    start: Start = None,
    vehicles: Vehicles = 0,
    who: Who = "turners",
    deadline_ms: Deadline = 400.0,
    size: Size = "200kbit",
    ghz: Ghz = 2.0,
    rsus: Rsus = 0,
    rsu_at: RsuAt = None,
    reach: Reach = 200.0,
    area: Area = "exact",
    gps_noise: Noise = 0.0,
    seed: Seed = 0,
    bound: Bound = 1.0,
    picture: Annotated[Path | None, typer.Option(help="FILE.png, .svg or .pdf to write.")] = None,
    table: Annotated[Path | None, typer.Option(help="FILE.csv to write: each user's RSU, or why it has none.")] = None,
) -> None:
    """Decide one slot: who offloads to which RSU, and what each then knows of its region of interest.

    SCENE is crossing, bologna, town:PRESET, an FCD file of SUMO, or random:VEHICLES.
    """
    wish = _wish(locals())
    with _errors_as_exit(), ThreadPoolExecutor(1) as executor:
        tick, opened = solve(wish, decider_of(policy, seed), executor)
        say(f"{scene} at {tick.situation.slot.time_s:g} s, {policy}: {words(tick.metrics())}")
        if tick.served.any():
            console.print(rsu_table(tick))
            if bound:
                say(value_words(tick, bound))
        if table is not None:
            write_csv(table, user_rows(tick))
            say(f"{table}: one line a user")
        if picture is not None:
            save_picture(picture, tick, opened.roads if opened else None)
            say(f"{picture}: a colour for each RSU, dotted regions of interest, north up")


@offload_app.command("simulate", cls=OffloadCommand)
def simulate_command(
    scene: SceneArgument = "crossing",
    policy: Policy = "ours",
    predictor: Predictor = "indicator",
    start: Start = None,
    seconds: Seconds = 60.0,
    vehicles: Vehicles = 0,
    who: Who = "turners",
    deadline_ms: Deadline = 400.0,
    size: Size = "200kbit",
    ghz: Ghz = 2.0,
    rsus: Rsus = 0,
    rsu_at: RsuAt = None,
    reach: Reach = 200.0,
    area: Area = "exact",
    gps_noise: Noise = 0.0,
    seed: Seed = 0,
    live: Annotated[bool, typer.Option("--live", help="Decide while SUMO runs; turn recall is then unknown.")] = False,
    animation: Annotated[bool, typer.Option("--animation", help="Write an animation, too: run.gif.")] = False,
    out: Out = Path("runs/offload"),
    tracking_uri: Tracking = "",
    experiment: Experiment = "convoy-offload",
) -> None:
    """Run the controller over a scene: a decision every second, a line for each in a table, and the means.

    SCENE is crossing, bologna, town:PRESET, or an FCD file of SUMO.
    """
    wish = _wish(locals())
    with _errors_as_exit(), ThreadPoolExecutor(1) as executor:
        made = decider_of(policy, seed)
        opened = open_any(scene, wish.request(), live)
        out.mkdir(parents=True, exist_ok=True)
        with tracked(tracking_uri, experiment, _run_name(scene, policy), asdict(wish) | {"policy": policy}, out) as log:
            ticks = []
            for tick in _progress(simulate(wish, opened, made, executor), int(seconds), "deciding"):
                ticks.append(tick)
                if log is not None:
                    log.metrics(len(ticks), {f"offload/{name}": value for name, value in tick.metrics().items()})
            files = _write_run(out, ticks, opened.roads, animation)
            for file in files if log is not None else []:
                log.file(file)  # type: ignore[union-attr]
        say(f"{scene}, {policy}, {len(ticks)} slots: {words(means(ticks))}")
        say(f"{', '.join(map(str, files))}: written")


@offload_app.command("compare", cls=OffloadCommand)
def compare_command(
    scene: SceneArgument = "crossing",
    policies: Annotated[str, typer.Option(help=f"Comma between them: {_POLICIES}.")] = COMPARED,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="How many seeds, from --seed on.")] = 3,
    predictor: Predictor = "indicator",
    start: Start = None,
    seconds: Seconds = 30.0,
    vehicles: Vehicles = 0,
    who: Who = "turners",
    deadline_ms: Deadline = 400.0,
    size: Size = "200kbit",
    ghz: Ghz = 2.0,
    rsus: Rsus = 0,
    rsu_at: RsuAt = None,
    reach: Reach = 200.0,
    area: Area = "exact",
    gps_noise: Noise = 0.0,
    seed: Seed = 0,
    out: Out = Path("runs/offload"),
    tracking_uri: Tracking = "",
    experiment: Experiment = "convoy-offload",
) -> None:
    """Let several policies decide the same slots, over several seeds; means with 95 % intervals.

    SCENE is crossing, bologna, town:PRESET, or an FCD file of SUMO.
    """
    wish = _wish(locals())
    with _errors_as_exit(), ThreadPoolExecutor(1) as executor:
        names = [name.strip() for name in policies.split(",")]
        for name in names:
            decider_of(name, seed)  # refuses what it does not know before anything is recorded
        out.mkdir(parents=True, exist_ok=True)
        rows: list[dict[str, Any]] = []
        for number in _progress(range(seed, seed + seeds), seeds, "comparing"):
            seeded = replace(wish, seed=number)
            opened = open_any(scene, seeded.request())
            for name in names:
                ticks = list(simulate(seeded, opened, decider_of(name, number), executor))
                rows.append({"policy": name, "seed": number} | means(ticks))
        for name in names:
            params = asdict(wish) | {"policy": name, "seeds": seeds}
            with tracked(tracking_uri, experiment, _run_name(scene, name), params, out) as log:
                for row in (row for row in rows if row["policy"] == name) if log is not None else ():
                    values = {f"offload/{key}": value for key, value in row.items() if key not in ("policy", "seed")}
                    log.metrics(row["seed"], values)  # type: ignore[union-attr]
        table, bars = out / "compare.csv", out / "compare.png"
        write_csv(table, rows)
        save_bars(bars, rows)
        console.print(comparison_table(rows, f"{scene}, {seconds:g} slots, {seeds} seeds"))
        say(f"{table}, {bars}: written")


def _wish(options: dict[str, Any]) -> Wish:
    """The options of a command that describe what is decided."""
    known = {name: options[name] for name in Wish.__dataclass_fields__ if name in options}
    return Wish(**known | {"rsu_at": tuple(options["rsu_at"] or ())})


def _run_name(scene: str, policy: str) -> str:
    return f"{Path(scene).name}-{policy}-{datetime.now():%m%d-%H%M%S}"


def _write_run(out: Path, ticks: Sequence[Tick], roads: Any, animation: bool) -> list[Path]:
    """A line for each tick, a picture of the one with the most users, an animation if it is wanted."""
    table, picture, movie = out / "ticks.csv", out / "slot.png", out / "run.gif"
    write_csv(table, [{"time-s": tick.situation.slot.time_s} | tick.metrics() for tick in ticks])
    save_picture(picture, max(ticks, key=lambda tick: len(tick.served)), roads)
    if animation:
        save_animation(movie, ticks, roads, progress=lambda shown: _progress(shown, len(shown), "drawing"))
    return [table, picture, *([movie] if animation else [])]


def _progress(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """A bar on stderr, which a file or a pipe does not get."""
    screen = Console(stderr=True)
    return track(items, what, total=total, console=screen, transient=True, disable=not screen.is_terminal)


@contextmanager
def _errors_as_exit() -> Iterator[None]:
    """A user's mistake ends the command with one line on stderr and code 2, Ctrl-C with code 130."""
    with scene_errors_as_exit():
        try:
            yield
        except TrackingError as error:
            raise DataError(str(error)) from error
