"""`gje-video`: predict many futures of a film, and know how sure you are."""

from __future__ import annotations

import sys
from typing import Any

from gje_world.command import run_command
from gje_world.data.clips import ClipsError
from gje_world.networks.exported import PretrainedError
from gje_world.training.means import NonFiniteError
from gje_world.video.benchmark import BENCHMARK_ABOUT, BenchmarkConfig, benchmark
from gje_world.video.config import VideoConfig
from gje_world.video.recording import RecordConfig, record
from gje_world.video.train import train

ERRORS = (ClipsError, PretrainedError, NonFiniteError)

ABOUT = """
gje-video: train a model that tells several futures of a film, measure how sure it may be, and show them.

The report in the run directory holds sampled futures beside the true one, scores at each step ahead,
calibration, surprise and probes. The same command on the same run directory goes on where it stopped.

  gje-video                                                a generated world, whose law of the future is known
  gje-video data=films data.path=DIR                       a folder of video files, or of folders of images
  gje-video record task=dmc/cartpole-swingup out=DIR       episodes of an environment, with their actions
  gje-video data=clips data.path=DIR                       what was recorded
  gje-video data=hdf5 data.path=FILE                       episodes as offline world-model datasets keep them
  gje-video encoder.path=DIR encoder.frozen=true frame_stack=1     on embeddings learnt elsewhere
  gje-video benchmark                                      several futures, in worlds whose law is known

`gje-video record --help` and `gje-video benchmark --help` tell theirs.
""".strip()

RECORD_ABOUT = """
gje-video record: episodes of any environment, with actions and true states, as clips or as one HDF5 file.

  gje-video record task=dmc/reacher-easy episodes=200
  gje-video record task=dmc/cartpole-swingup policy=runs/dmc-cartpole-swingup/gje_conditional-seed1
  gje-video record task=dmc/cartpole-swingup out=recordings/cartpole.h5
""".strip()

COMMANDS: dict[str, tuple[str, type, Any, str]] = {
    "train": ("video", VideoConfig, train, ABOUT),
    "benchmark": ("benchmark", BenchmarkConfig, benchmark, BENCHMARK_ABOUT),
    "record": ("record", RecordConfig, record, RECORD_ABOUT),
}


def main() -> None:
    """Entry point of `gje-video`: `train` where no subcommand is named."""
    arguments = sys.argv[1:]
    name = arguments.pop(0) if arguments and arguments[0] in COMMANDS else "train"
    command, schema, work, about = COMMANDS[name]
    sys.exit(run_command(command, schema, work, about, arguments=arguments, errors=ERRORS))
