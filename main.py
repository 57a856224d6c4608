"""Self-training for detection: `python main.py --flagfile=configs/quickstart.cfg`.

Ends with 0; with 1 and one line that names the file or flag and the remedy; with 128 + the signal's number
when it was stopped (the same command goes on); or with 70 and a traceback, which is a bug of this program.
SELF_TRAINING_TRACEBACK=1 in the environment shows the traceback of the first kind of errors, too.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported
# keras-cv touches deprecated attributes of every layer whenever a model is listed.
warnings.filterwarnings("ignore", message=r".*(state_updates|layer\.updates).*")

from absl import app, flags, logging  # noqa: E402

from official import __version__  # noqa: E402
from official.catalog import ON_A_RUN  # noqa: E402
from official.errors import UserError, in_words  # noqa: E402
from official.flagfiles import expanded  # noqa: E402
from official.flags import define_flags, experiment_from_flags  # noqa: E402
from official.help_page import asked_for, page  # noqa: E402
from official.screen import called_as  # noqa: E402

BUG = 70  # exit code


def main(argv: list[str]) -> None:
    """Builds the experiment and runs its job; expected errors end without a traceback."""
    if len(argv) > 1:
        raise app.UsageError(f"not a flag: {argv[1:]}")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # saving a model chats at INFO
    with contextlib.redirect_stdout(io.StringIO()):  # "Using TensorFlow backend", says keras-core
        from official import jobs  # imports TensorFlow
    from official.training.stopping import Interrupted, StopAtOnce

    try:
        with StopAtOnce():
            jobs.run(experiment_from_flags(ON_A_RUN))
    except Interrupted as stop:
        print(f"\n{stop}", file=sys.stderr)
        sys.exit(128 + stop.signal_number)
    except Exception as error:
        sys.exit(_explain(error))


def _explain(error: Exception) -> int:
    """Prints what went wrong; returns the exit code."""
    text = str(error) if isinstance(error, UserError) else in_words(error)
    if text is None or os.environ.get("SELF_TRAINING_TRACEBACK"):
        traceback.print_exception(type(error), error, error.__traceback__)
    if text is None:
        print(
            "\nThis is a bug of this program, not of your data or flags: please report it with the lines "
            "above. The same command goes on from the last saved state.",
            file=sys.stderr,
        )
        return BUG
    print(f"\nerror: {text}", file=sys.stderr)
    return 1


def _stop_importing(number: int, frame: object) -> None:
    """Before the job starts there is nothing to save."""
    os.write(2, b"\nstopped before anything began\n")
    os._exit(128 + number)


def start(arguments: list[str] | None = None) -> None:
    """Parses flags (the command line's, unless `arguments` are given) and runs; ends the process."""
    signal.signal(signal.SIGINT, _stop_importing)
    signal.signal(signal.SIGTERM, _stop_importing)
    given = sys.argv if arguments is None else arguments
    if "--version" in given[1:]:
        print(f"self-training {__version__}")
        return
    if asked_for(given[1:]):
        print(page(asked_for(given[1:]), called_as(given[0])))
        return
    define_flags()
    try:
        given = [given[0], *expanded(given[1:])]
    except UserError as error:
        sys.exit(_explain(error))
    app.run(main, argv=given)


if __name__ == "__main__":
    start()
