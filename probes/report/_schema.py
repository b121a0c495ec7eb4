"""What a run folder says: the shape of probe.json, metrics.json and the rows of samples.csv.

    adapter/  probe.json  metrics.json  samples.csv  samples.png  report.html

NaN and infinities have no JSON: they are written as null, and every reader here takes null for "not measured".
"""
from __future__ import annotations

from typing import Any, Literal, TypedDict

Interval = list[float]  # [low, high], 95 %


class GeneratorInfo(TypedDict):
    name: str
    family: str
    weights: str  # "pretrained" or "random:SEED"
    fingerprint: str
    resolution: int
    parameters: int
    world: str  # what it draws: "scenes" or "photographs"


class IntrinsicInfo(TypedDict):
    name: str
    options: dict[str, Any]


class JudgeInfo(TypedDict):
    name: str
    version: str
    exact_errors: dict[str, Any] | None  # against exact ground truth, where there is any; strings are remarks


class TeacherInfo(JudgeInfo):
    licence: str
    fingerprint: str


class MethodInfo(TypedDict):
    name: str  # lora, linear, full, offset, token
    rank: int | None
    alpha: float | None
    scope: str | None
    sites: list[str]
    parameters: int


class BankInfo(TypedDict):
    samples: int
    key: str


class TrainingInfo(TypedDict):
    steps: int
    batch: int
    learning_rate: float
    seed: int
    seconds: float
    final_loss: float | None
    status: str


class ProbeInfo(TypedDict):
    """probe.json: where a probe came from, enough to train it again."""

    format: Literal["probes-run"]
    version: int
    generator: GeneratorInfo
    intrinsic: IntrinsicInfo
    teacher: TeacherInfo
    data: dict[str, Any] | None  # name and fingerprint of the images, for a generator that is driven by them
    method: MethodInfo
    bank: BankInfo
    training: TrainingInfo
    request: dict[str, Any]  # every argument of `fit`
    versions: dict[str, str]
    hardware: str


class Estimate(TypedDict):
    value: float | None
    ci95: Interval | None
    n: int


class ControlResult(Estimate):
    trivial: float | None  # on the control's own targets; the random generator draws other images
    skill: float | None
    skill_ci95: Interval | None


class MetricResult(Estimate):
    label: str
    unit: str
    better: Literal["lower", "higher"]
    trivial: Estimate
    skill: float | None
    skill_ci95: Interval | None
    controls: dict[str, ControlResult]


class Metrics(TypedDict):
    """metrics.json: one protocol's verdict on a probe, beside its controls."""

    protocol: str
    primary: str  # key into metrics
    seeds: list[int]  # [first, count]
    against: str  # name and version of the teacher that was scored against, or "exact …"
    judge: JudgeInfo  # the same teacher, and how wrong it is itself
    metrics: dict[str, MetricResult]


Row = dict[str, Any]  # {"seed": int, "<metric>": float, "trivial_<metric>": float, "<control>_<metric>": float}
