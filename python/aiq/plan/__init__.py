"""Plans: a format for every layer, with predictions, proof and provenance."""

from aiq.plan.certificate import PlanCertificate, SolveSummary
from aiq.plan.plan import Accuracy, Plan, PlannedLayer, Prediction
from aiq.plan.timed import Shortlist, TimedPlan
from aiq.plan.workload import InputSpec, Workload

__all__ = [
    "Accuracy",
    "InputSpec",
    "Plan",
    "PlanCertificate",
    "PlannedLayer",
    "Prediction",
    "Shortlist",
    "SolveSummary",
    "TimedPlan",
    "Workload",
]
