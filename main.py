"""Self-training for detection: `python main.py --flagfile=configs/quickstart.cfg`."""

from __future__ import annotations

import os
import sys
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported
# keras-cv touches deprecated attributes of every layer whenever a model is listed.
warnings.filterwarnings("ignore", message=r".*(state_updates|layer\.updates).*")

from absl import app, flags, logging  # noqa: E402

from official.flags import define_flags, experiment_from_flags  # noqa: E402


def main(argv: list[str]) -> None:
    """Builds the experiment and runs its job; expected errors end without a traceback."""
    if len(argv) > 1:
        raise app.UsageError(f"not a flag: {argv[1:]}")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # saving a model chats at INFO
    from official import jobs  # imports TensorFlow
    from official.data.source import DataError
    from official.training.recovery import Interrupted
    from official.training.trainer import NonFiniteError

    try:
        jobs.run(experiment_from_flags(jobs.USES_RUN))
    except Interrupted as stop:
        print(f"\n{stop}", file=sys.stderr)
        sys.exit(128 + stop.signal_number)
    except (DataError, NonFiniteError, ValueError) as error:
        if os.environ.get("SELF_TRAINING_TRACEBACK"):
            raise
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
