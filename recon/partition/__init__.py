"""Which roadside unit (RSU) trains which cameras' views, and within an RSU which vehicle; see docs/partition.md."""

from recon.partition.exact import exact, exact_within, optimum_s
from recon.partition.latency import Assumptions, Latencies, latencies
from recon.partition.levels import Share, split_among_vehicles, with_vehicles
from recon.partition.model import Partition, PartitionReport, Problem, Worker, partition_of, report
from recon.partition.picture import save_picture
from recon.partition.replan import Few, Replan, owner_names, replan
from recon.partition.voronoi_shift import ShiftConfig, nearest, repair, shift_boundaries

__all__ = [
    "Assumptions",
    "Few",
    "Latencies",
    "Partition",
    "PartitionReport",
    "Problem",
    "Replan",
    "Share",
    "ShiftConfig",
    "Worker",
    "exact",
    "exact_within",
    "latencies",
    "nearest",
    "optimum_s",
    "owner_names",
    "partition_of",
    "repair",
    "replan",
    "report",
    "save_picture",
    "shift_boundaries",
    "split_among_vehicles",
    "with_vehicles",
]
