"""A study's numbers for Prometheus, by Ray's own exporter, which a cluster's dashboard and Grafana read.

    ray_wavedp_trials           trials by status: done, failed, infeasible, running, waiting
    ray_wavedp_stages_running   stages that a worker has taken up, by name
    ray_wavedp_epsilon_spent    ε of the study's private releases, composed
    ray_wavedp_gpu_seconds      seconds × num_gpus of all its stages

Each has a label `study`. They are set in the command's process, whose display has composed ε already: in the
coordinator that would hold up every trial (a second for 17 releases). Where Ray has no exporter nobody reads them.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge

from sweeps.watchers import Spent


class Gauges:
    """The gauges of one study."""

    def __init__(self, study: str) -> None:
        self.study = {"study": ascii(study)[1:-1]}  # Ray takes no other letters, here and in the descriptions
        self.trials = Gauge("wavedp_trials", "Trials of a study, by status.", ("study", "status"))
        self.stages = Gauge("wavedp_stages_running", "Stages that a worker has taken up.", ("study", "stage"))
        self.epsilon = Gauge("wavedp_epsilon_spent", "Composed epsilon of the private releases of a study.", ("study",))
        self.gpu_seconds = Gauge("wavedp_gpu_seconds", "Seconds x num_gpus of all stages of a study.", ("study",))
        self.seen: dict[str, int] = {}

    def show(self, trials: Mapping[str, int], stages: Mapping[str, int], spent: Spent) -> None:
        """Set them all. trials: {status: how many}; stages: {name: how many run}."""
        for status, count in trials.items():
            self.trials.set(count, {**self.study, "status": status})
        self.seen = {**dict.fromkeys(self.seen, 0), **stages}  # a stage that ran and does not run is 0
        for stage, count in self.seen.items():
            self.stages.set(count, {**self.study, "stage": stage})
        self.epsilon.set(spent.epsilon, self.study)
        self.gpu_seconds.set(spent.gpu_hours * 3600, self.study)
