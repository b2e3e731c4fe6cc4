"""End-to-end completion time of four ways to reconstruct a city, from profiles and links alone.

It is a model: every figure that it takes stands in `Assumptions`, and nothing else is taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from recon.partition.levels import with_vehicles
from recon.partition.model import Problem, Worker
from recon.partition.voronoi_shift import nearest, shift_boundaries


@dataclass(frozen=True)
class Assumptions:
    """What the latency model takes for granted; `str` of it is a table.

    Args:
        steps_per_view: of optimisation that a view gets, wherever it is trained. 30 000 steps for 200 images.
        gpu_steps_per_s: of one cloud GPU. gsplat's documentation: 30 000 steps in 19.4 min on an A100.
        gpus: of the cloud's server that trains centrally.
        gpu_efficiency: of each further GPU. Grendel-GS reports 3.5 times on 4.
        image_bytes: of a view as it is sent, a JPEG of some 8 megapixels.
        model_bytes_per_view: of the Gaussians that a view adds, 10 000 of 48 bytes compressed.
        vehicle_bps: uplink of one vehicle to its RSU.
        radio_bps: what the vehicles of one RSU get together.
        backhaul_bps: of one RSU to the cloud.
        ingress_bps: of the cloud.
        merge_s_per_view: of fusing models, wherever it is done.
        border_share: of its views that an RSU's model is fused at in the cloud; inside, regions are not touched.
        start_s: of any training, to load and set up.

    Raises:
        ValueError: a value is not positive; the message names it.
    """

    steps_per_view: float = 150.0
    gpu_steps_per_s: float = 30_000 / (19.4 * 60)
    gpus: int = 1
    gpu_efficiency: float = 0.83
    image_bytes: float = 1.5e6
    model_bytes_per_view: float = 10_000 * 48
    vehicle_bps: float = 20e6
    radio_bps: float = 50e6
    backhaul_bps: float = 200e6
    ingress_bps: float = 10e9
    merge_s_per_view: float = 0.05
    border_share: float = 0.2
    start_s: float = 10.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"Assumptions.{name} must be positive, got {value}")

    def __str__(self) -> str:
        return "\n".join(f"{name:22}{value:.6g}" for name, value in asdict(self).items())

    def vehicle(self, name: str, position_m: tuple[float, float], steps_per_s: float) -> Worker:
        """A vehicle that trains its views and sends their Gaussians to its RSU."""
        return Worker(
            name,
            position_m,
            views_per_s=steps_per_s / self.steps_per_view,
            uplink_bps=self.vehicle_bps,
            fixed_s=self.start_s,
            upload_bytes_per_view=self.model_bytes_per_view,
        )


@dataclass(frozen=True)
class Latencies:
    """Seconds from the last image taken to the finished model.

    Args:
        central_s: all images go to the cloud and are trained there.
        flat_s: each vehicle trains what it saw; the cloud fuses one vehicle's model after the other.
        voronoi_s: vehicles, RSUs, cloud; each camera belongs to the nearest RSU.
        balanced_s: the same with boundaries moved by `shift_boundaries`.
    """

    central_s: float
    flat_s: float
    voronoi_s: float
    balanced_s: float

    @property
    def saved(self) -> float:
        """Share of the central way's time that the balanced hierarchy saves."""
        return 1 - self.balanced_s / self.central_s


def latencies(
    cameras_m: Float[ndarray, "n 2"],
    rsus: Sequence[Worker],
    vehicles: Mapping[str, Sequence[Worker]],
    assumptions: Assumptions,
) -> Latencies:
    """Completion times of the four ways.

    Which vehicle takes which view is planned before the drive, so no image goes from one to another. In the central
    and the flat way each RSU's vehicles took its Voronoi cell, in equal parts. In both hierarchical ways the vehicles
    of an RSU share its cell as well as possible, so that the two differ by the boundaries between RSUs alone.

    Args:
        cameras_m: east, north [n, 2].
        rsus: name, position, reach and `max_views` count; rates are those of the assumptions.
        vehicles: of each RSU by its name, at least one; see `Assumptions.vehicle`.
        assumptions: see there.

    Raises:
        ValueError: as `Problem.of`, or an RSU has no vehicles.
    """
    problem = Problem.of(cameras_m, [rsu_worker(rsu, vehicles.get(rsu.name, ()), assumptions) for rsu in rsus])
    voronoi = nearest(problem)
    held = {rsu.name: int(count) for rsu, count in zip(rsus, voronoi.counts, strict=True)}
    last_s = len(problem) * assumptions.border_share * assumptions.merge_s_per_view
    return Latencies(
        central_s=central_s(voronoi.counts, assumptions),
        flat_s=flat_s(held, vehicles, assumptions),
        voronoi_s=voronoi.makespan_s + last_s,
        balanced_s=shift_boundaries(problem).makespan_s + last_s,
    )


def rsu_worker(rsu: Worker, vehicles: Sequence[Worker], assumptions: Assumptions) -> Worker:
    """An RSU that waits for its vehicles, fuses their models and sends the result to the cloud.

    Raises:
        ValueError: there are no vehicles.
    """
    own = Worker(
        rsu.name,
        rsu.position_m,
        views_per_s=1 / assumptions.merge_s_per_view,
        uplink_bps=1 / (1 / assumptions.radio_bps + 1 / assumptions.backhaul_bps),  # one after the other
        reach_m=rsu.reach_m,
        max_views=rsu.max_views,
        upload_bytes_per_view=assumptions.model_bytes_per_view,
    )
    return with_vehicles(own, vehicles)


def central_s(counts: Int[ndarray, "m"], assumptions: Assumptions) -> float:
    """Upload of all images, then training in the cloud; `counts` are views by RSU."""
    speedup = 1 + assumptions.gpu_efficiency * (assumptions.gpus - 1)
    steps = float(counts.sum()) * assumptions.steps_per_view
    upload_s = _upload_s(counts, assumptions.image_bytes, assumptions)
    return upload_s + assumptions.start_s + steps / (assumptions.gpu_steps_per_s * speedup)


def flat_s(held: Mapping[str, int], vehicles: Mapping[str, Sequence[Worker]], assumptions: Assumptions) -> float:
    """Vehicles train what they hold, send it, and the cloud fuses all; `held` are views by RSU."""
    slowest_s = 0.0
    for name, views in held.items():
        if views:
            each = np.array([-(-views // len(vehicles[name]))])  # rounded up
            slowest_s = max(slowest_s, *(float(vehicle.completion_s(each)[0]) for vehicle in vehicles[name]))
    upload_s = _upload_s(np.array(list(held.values())), assumptions.model_bytes_per_view, assumptions)
    return slowest_s + upload_s + sum(held.values()) * assumptions.merge_s_per_view


def _upload_s(counts: Int[ndarray, "m"], bytes_per_view: float, assumptions: Assumptions) -> float:
    """Of so many views by RSU to the cloud; links work at the same time, so the slowest decides."""
    bits = 8.0 * bytes_per_view * counts
    cell_bps = min(assumptions.radio_bps, assumptions.backhaul_bps)
    return float(max(bits.max() / cell_bps, bits.sum() / assumptions.ingress_bps))
