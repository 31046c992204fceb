"""What a model is worth: collapse gauges, calibration, probes."""

from gje_world.evaluation.calibration import NOMINAL, observed_coverage
from gje_world.evaluation.collapse import collapse_gauges
from gje_world.evaluation.probe import linear_probe_r2

__all__ = ["NOMINAL", "collapse_gauges", "linear_probe_r2", "observed_coverage"]
