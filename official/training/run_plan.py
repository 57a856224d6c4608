"""What a run will do, phase by phase, and how long that takes, from the first steps that were measured.

The work is counted in images of the network's input size that go forward and backward. One measured phase so
gives the time of all: labelling and evaluation, which go forward alone, are taken for a third of it, and a
classified image of joint training for its share of the pixels. The numbers are what a person plans an evening
by, not a benchmark.
"""

from __future__ import annotations

import dataclasses
from typing import Collection, Mapping

from official.experiment import Experiment
from official.screen import duration
from official.tasks.registry import task_class
from official.training.phases import CONTROL, LABELS, STUDENT, TEACHER

FORWARD = 1.0 / 3.0  # of the work of training on an image: backward is twice forward
OPERATIONS = 6.0  # per multiply-add of the network and image: two of them, forward and backward


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a run.

    Attributes:
      name: a phase, with its round behind it from the second on.
      steps: how many; 0 for labelling.
      streams: images of a step by stream, "human", "pseudo" and "joint".
      work: of all steps, or of labelling, in images forward and backward.
      evaluated: evaluations, the one at the end included.
    """

    name: str
    steps: int
    streams: dict[str, int]
    work: float
    evaluated: int = 0


class RunPlan:
    """The parts of a run in their order."""

    def __init__(
        self, experiment: Experiment, images: Mapping[str, int], *, done: Collection[str] = ()
    ) -> None:
        """Args:
        images: how many, by role: "labeled", "unlabeled", "eval", "joint"; absent or 0: none.
        done: phases that are finished.
        """
        self.experiment, self.images, self.done = (
            experiment,
            {k: v for k, v in images.items() if v},
            set(done),
        )
        self.parts = self._parts()
        self.round = 1  # that is being trained
        self._measured: dict[
            str, tuple[float, float]
        ] = {}  # by phase: seconds of the first step, and of one image's work

    # --- what ---------------------------------------------------------------------------------------

    def _parts(self) -> list[Part]:
        options, job = self.experiment.training, self.experiment.runtime.job
        human = {"human": options.teacher_batch_size or options.batch_size}
        both = {"human": options.batch_size, "pseudo": options.pseudo_batch_size}
        if job == "control":
            return [self._control(human)]
        found = [] if options.teacher else [self._phase(TEACHER, options.teacher_steps, human)]
        if job != "self_train":
            return found
        for number in range(1, options.rounds + 1):
            suffix = f" {number}" if number > 1 else ""
            found += [
                self._labelling(LABELS + suffix),
                self._phase(STUDENT + suffix, options.student_steps, both),
            ]
            if options.control:
                found.append(self._control(human, number))
        return found

    def _control(self, human: dict[str, int], number: int = 1) -> Part:
        options, suffix = self.experiment.training, f" {number}" if number > 1 else ""
        return self._phase(CONTROL + suffix, options.teacher_steps + number * options.student_steps, human)

    def _phase(self, name: str, steps: int, streams: dict[str, int]) -> Part:
        options, every = self.experiment.training, self.experiment.runtime.eval_every
        if self.images.get("joint"):
            streams = {**streams, "joint": options.joint_batch_size}
        small = (options.joint_image_size / self.experiment.model.image_size) ** 2
        a_step = sum(count * (small if stream == "joint" else 1.0) for stream, count in streams.items())
        evaluated = (1 + ((steps - 1) // every if every else 0)) if self.images.get("eval") else 0
        return Part(name, steps, streams, steps * a_step, evaluated)

    def _labelling(self, name: str) -> Part:
        views = task_class(self.experiment.model.task).labelling_views(self.experiment.pseudo_labels)
        return Part(name, 0, {}, self.images.get("unlabeled", 0) * views * FORWARD)

    def lines(self) -> list[str]:
        """The plan as text, a line a part."""
        return [f"  {part.name:<10} {self._described(part)}" for part in self.parts]

    def _described(self, part: Part) -> str:
        if part.name in self.done:
            return "done"
        if not part.steps:
            return (
                f"{self.images['unlabeled']:,} images"
                if "unlabeled" in self.images
                else "the unlabelled images"
            )
        named = {"human": "labelled", "pseudo": "pseudo-labelled", "joint": "classified"}
        sizes = {"human": "labeled", "pseudo": "unlabeled", "joint": "joint"}
        batch = " + ".join(f"{count} {named[stream]}" for stream, count in part.streams.items())
        passes = [
            f"{part.steps * count / self.images[sizes[s]]:,.1f}"
            for s, count in part.streams.items()
            if self.images.get(sizes[s])
        ]
        text = f"{part.steps:,} steps of {batch} images"
        text += f" ({' and '.join(passes)} times through the data)" if passes else ""
        every = self.experiment.runtime.eval_every
        often = f"every {every:,} steps and " if part.evaluated > 1 else ""
        return text + (f"; evaluated {often}at the end" if part.evaluated else "")

    # --- how long -----------------------------------------------------------------------------------

    def measured(self, phase: str, first: float, each: float, left: int) -> str:
        """What to say once the steps of a phase are measured.

        Args:
          first: seconds of the first step, which builds the graph; each: of one after it; left: steps of the
            phase.
        """
        phase += f" {self.round}" if self.round > 1 else ""
        part = next((part for part in self.parts if part.name == phase), None)
        if part is None:
            return ""
        self._measured[phase] = (first, each * part.steps / part.work)
        times = self.seconds(phase, left)
        said = ", ".join(f"{name} {duration(seconds)}" for name, seconds in times.items())
        guessed = [name for name in times if name not in self._measured]
        words = f"{phase}: a step takes {duration(each)}"
        if len(times) == 1:
            return f"{words}; about {said.removeprefix(phase).strip()} left"
        said += f"; {', '.join(guessed)} by the work in them" if guessed else ""
        return f"{words}; about {duration(self._whole(times))} left of the run ({said})"

    def seconds(self, phase: str, left: int) -> dict[str, float]:
        """Seconds of what is left, by part: of `phase`, which has `left` steps to take, and of what follows
        it.
        """
        found, began = {}, False
        for part in self.parts:
            began = began or part.name == phase
            if part.name == phase:
                found[part.name] = self._of(part, left / part.steps, graph=False)
            elif began and part.name not in self.done:
                found[part.name] = self._of(part, 1.0, graph=part.steps > 0)
        return found

    def _of(self, part: Part, share: float, *, graph: bool) -> float:
        first, unit = self._measured.get(part.name) or list(self._measured.values())[-1]
        evaluating = share * part.evaluated * self.images.get("eval", 0) * FORWARD
        return unit * (share * part.work + evaluating) + (first if graph else 0.0)

    def _whole(self, times: Mapping[str, float]) -> float:
        """The control may be trained beside the rest."""
        control = times.get(CONTROL, 0.0)
        rest = sum(times.values()) - control
        return max(control, rest) if self.experiment.runtime.parallel_phases else control + rest

    def accelerator_hours(self, multiply_adds: float, teraflops: float, devices: int = 1) -> dict[str, float]:
        """Hours of the run by part, from the operations of the network: the least that it takes.

        Args:
          multiply_adds: of the network and one image; teraflops: 10^12 operations per second that one device
            sustains.
        """
        rate = teraflops * 1e12 * devices / (multiply_adds * OPERATIONS)
        return {part.name: part.work / rate / 3600.0 for part in self.parts if part.name not in self.done}
