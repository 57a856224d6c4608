"""Learning-rate schedules and optimizers.

A step that is not to be taken leaves every weight and its state as they are (`_Optimizer.step`): one
condition for all of them. Each weight is updated by one fused kernel, on every replica by itself: gradients
are summed before. Stock Keras optimizers would take a NaN in, take dozens of operations a weight, and merge
the replicas for each.
"""

from __future__ import annotations

import math
from typing import Any, Sequence, Union

import tensorflow as tf
from tensorflow import keras

from official.errors import FlagError
from official.experiment import Optimizer as Options

# A number, or a schedule of numbers by step.
Rate = Union[float, keras.optimizers.schedules.LearningRateSchedule]


@keras.saving.register_keras_serializable("self_training")
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then cosine decay to 0, steps, constant, or exponential decay.

    Source: tensorflow/tpu models/official/detection/modeling/learning_rates.py:28-63;
    models/official/efficientnet/utils.py:41-75 (exponential, a staircase).
    """

    def __init__(
        self,
        learning_rate: float,
        total_steps: int,
        *,
        schedule: str = "cosine",
        warmup_steps: int = 0,
        warmup_learning_rate: float = 0.0,
        boundaries: Sequence[float] = (),
        rates: Sequence[float] = (),
        decay_every: float = 0,
        decay_factor: float = 0.97,
    ) -> None:
        """Builds the schedule.

        Args:
          learning_rate: after warm-up.
          total_steps: where the cosine reaches 0.
          schedule: "cosine", "step", "constant" or "exponential".
          warmup_steps, warmup_learning_rate: length and start of the warm-up.
          boundaries, rates: for "step": from step boundaries[i] on the rate is rates[i].
          decay_every, decay_factor: for "exponential": factor ** (step // decay_every).

        Raises:
          ValueError: warm-up longer than training, boundaries and rates of different length, or an
            exponential schedule without decay_every.
        """
        if schedule == "exponential" and decay_every < 1:
            raise FlagError("schedule=exponential needs --decay_every, the steps between decays")
        if warmup_steps > total_steps:
            raise FlagError(f"warmup_steps={warmup_steps} is more than the {total_steps} steps of training")
        if len(boundaries) != len(rates):
            raise FlagError(f"{len(boundaries)} decay_boundaries but {len(rates)} decay_rates")
        self.config: dict[str, Any] = {
            "learning_rate": learning_rate,
            "total_steps": total_steps,
            "schedule": schedule,
            "warmup_steps": warmup_steps,
            "warmup_learning_rate": warmup_learning_rate,
            "boundaries": tuple(boundaries),
            "rates": tuple(rates),
            "decay_every": decay_every,
            "decay_factor": decay_factor,
        }

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        options = self.config
        step = tf.cast(step, tf.float32)
        warmup, peak = float(options["warmup_steps"]), options["learning_rate"]
        rate = tf.constant(peak, tf.float32)
        if options["schedule"] == "cosine":
            progress = (step - warmup) / max(1.0, options["total_steps"] - warmup)
            rate = peak * 0.5 * (1.0 + tf.cos(math.pi * tf.clip_by_value(progress, 0.0, 1.0)))
        elif options["schedule"] == "step":
            for boundary, value in zip(options["boundaries"], options["rates"]):
                rate = tf.where(step >= boundary, value, rate)
        elif options["schedule"] == "exponential":
            rate = peak * tf.pow(options["decay_factor"], tf.floor(step / options["decay_every"]))
        start = options["warmup_learning_rate"]
        rising = start + (peak - start) * step / max(1.0, warmup)
        return tf.where(step < warmup, rising, rate)

    def get_config(self) -> dict[str, Any]:
        return dict(self.config)


class _Optimizer(keras.optimizers.Optimizer):
    """What the optimizers share: a schedule, settings that are saved, state variables per weight.

    Attributes:
      STATE: name of the list -> name of its variables.
    """

    STATE: dict[str, str] = {"velocities": "velocity"}

    def __init__(self, learning_rate: Rate, name: str, settings: dict, **kwargs: Any) -> None:
        super().__init__(name=name, jit_compile=False, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.settings = settings

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        super().build(var_list)
        for attribute, name in self.STATE.items():
            if not getattr(self, attribute, None):
                made = [
                    self.add_variable_from_reference(v, name, initial_value=self.first_value(name, v))
                    for v in var_list
                ]
                setattr(self, attribute, made)

    def first_value(self, name: str, variable: tf.Variable) -> tf.Tensor | None:
        """What a state variable starts from; None for zeros."""
        return None

    def place(self, variable: tf.Variable) -> int:
        """Where a weight's state is in the lists."""
        return self._index_dict[self._var_key(variable)]

    def step(self, gradients: list[tf.Tensor], variables: list[tf.Variable], good: tf.Tensor) -> None:
        """Updates the weights if `good`, and counts the step in any case.

        Args:
          gradients: already summed over replicas, one per variable.
          good: bool scalar, equal on every replica.
        """
        self._compute_current_learning_rate()
        rate = current_learning_rate(self)
        number = tf.cast(self.iterations + 1, tf.float32)

        def taken():
            settings = self.scalars(rate, number)
            for gradient, variable in zip(gradients, variables):
                self.update(gradient, variable, settings)
            return tf.constant(True)

        tf.cond(good, taken, lambda: tf.constant(False))
        self.iterations.assign_add(1)

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Keras' own entry, for `apply_gradients`."""
        rate = tf.cast(self.learning_rate, variable.dtype)
        self.update(gradient, variable, self.scalars(rate, tf.cast(self.iterations + 1, variable.dtype)))

    def scalars(self, rate: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor]:
        """What the updates of all weights share, from the learning rate and the step's number (1 for the
        first).
        """
        return {"rate": rate}

    def update(self, gradient: tf.Tensor, variable: tf.Variable, scalars: dict[str, tf.Tensor]) -> None:
        """Updates one weight and its state."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        rate = self._serialize_hyperparameter(self._learning_rate)
        return {**super().get_config(), "learning_rate": rate, **self.settings}


@keras.saving.register_keras_serializable("self_training")
class Momentum(_Optimizer):
    """v = m v + g; w -= lr v, as in TF1; with `nesterov` w -= lr (g + m v).

    Keras' SGD keeps lr inside v, which differs whenever the learning rate changes.
    """

    def __init__(
        self,
        learning_rate: Rate = 0.1,
        momentum: float = 0.9,
        nesterov: bool = False,
        name: str = "momentum",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, name, {"momentum": momentum, "nesterov": nesterov}, **kwargs)
        self.momentum, self.nesterov = momentum, nesterov

    def update(self, gradient: tf.Tensor, variable: tf.Variable, scalars: dict[str, tf.Tensor]) -> None:
        velocity = self.velocities[self.place(variable)]
        _move(variable, velocity, gradient, scalars["rate"], self.momentum, nesterov=self.nesterov)


@keras.saving.register_keras_serializable("self_training")
class RMSprop(_Optimizer):
    """s = d s + (1 - d) g^2; v = m v + lr g / sqrt(s + eps); w -= v; s starts at one, as in TF1.

    Keras' own starts s at zero and adds epsilon outside the root. Source: EfficientNet's settings
    (decay 0.9, momentum 0.9, epsilon 0.001), models/official/efficientnet/utils.py:78-110.
    """

    STATE = {"squares": "square", "velocities": "velocity"}

    def __init__(
        self,
        learning_rate: Rate = 0.016,
        decay: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1e-3,
        name: str = "rmsprop",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate, name, {"decay": decay, "momentum": momentum, "epsilon": epsilon}, **kwargs
        )
        self.decay, self.momentum, self.epsilon = decay, momentum, epsilon

    def first_value(self, name: str, variable: tf.Variable) -> tf.Tensor | None:
        return tf.ones(variable.shape, variable.dtype) if name == "square" else None

    def update(self, gradient: tf.Tensor, variable: tf.Variable, scalars: dict[str, tf.Tensor]) -> None:
        place = self.place(variable)
        square = self.squares[place].assign(self.decay * self.squares[place] + (1 - self.decay) * gradient**2)
        moved = scalars["rate"] * gradient * tf.math.rsqrt(square + self.epsilon)
        _move(variable, self.velocities[place], moved, 1.0, self.momentum)


@keras.saving.register_keras_serializable("self_training")
class LARS(_Optimizer):
    """v = m v + lr trust g; w -= v, where trust = c |w| / |g| for kernels and 1 for all else.

    g holds the weight decay already. Biases, batch norm and the online linear evaluation have
    trust 1. tensorflow-addons has no LARS. Source: google-research/simclr lars_optimizer.py:83-137.
    """

    def __init__(
        self,
        learning_rate: Rate = 0.3,
        momentum: float = 0.9,
        coefficient: float = 1e-3,
        name: str = "lars",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, name, {"momentum": momentum, "coefficient": coefficient}, **kwargs)
        self.momentum, self.coefficient = momentum, coefficient

    def update(self, gradient: tf.Tensor, variable: tf.Variable, scalars: dict[str, tf.Tensor]) -> None:
        moved = scalars["rate"] * self._trust(gradient, variable) * gradient
        _move(variable, self.velocities[self.place(variable)], moved, 1.0, self.momentum)

    def _trust(self, gradient: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        if not adapted(variable.name):
            return tf.ones([], variable.dtype)
        weight, slope = tf.norm(variable), tf.norm(gradient)
        usual = (weight > 0.0) & (slope > 0.0)
        return tf.where(usual, self.coefficient * weight / tf.where(usual, slope, 1.0), 1.0)


@keras.saving.register_keras_serializable("self_training")
class Adam(_Optimizer):
    """Adam with bias correction (Kingma & Ba, algorithm 1)."""

    STATE = {"first_moments": "m", "second_moments": "v"}

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str = "adam",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate, name, {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon}, **kwargs
        )
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def scalars(self, rate: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor]:
        powers = {f"beta{i}_power": tf.pow(beta, number) for i, beta in ((1, self.beta_1), (2, self.beta_2))}
        return {"lr": rate, **powers}

    def update(self, gradient: tf.Tensor, variable: tf.Variable, scalars: dict[str, tf.Tensor]) -> None:
        place = self.place(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self.first_moments[place].handle,
            v=self.second_moments[place].handle,
            grad=gradient,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            **scalars,
        )


def _move(
    variable: tf.Variable,
    velocity: tf.Variable,
    gradient: tf.Tensor,
    rate: Any,
    momentum: float,
    *,
    nesterov: bool = False,
) -> None:
    """v = m v + g; w -= rate v, with `nesterov` w -= rate (g + m v): on a replica those of its own copies."""
    tf.raw_ops.ResourceApplyMomentum(
        var=variable.handle,
        accum=velocity.handle,
        lr=rate,
        grad=gradient,
        momentum=momentum,
        use_nesterov=nesterov,
    )


def take_step(
    optimizer: keras.optimizers.Optimizer,
    gradients: list[tf.Tensor],
    variables: list[tf.Variable],
    good: tf.Tensor,
) -> None:
    """`_Optimizer.step` of any Keras optimizer: one update if `good`, and the step is counted in any case.

    Args:
      gradients: already summed over replicas, one per variable; good: bool scalar, equal on every replica.
    """
    if isinstance(optimizer, _Optimizer):
        return optimizer.step(gradients, variables, good)

    def skipped():
        optimizer.iterations.assign_add(1)
        return tf.constant(False)

    def taken():
        optimizer.apply_gradients(zip(gradients, variables), skip_gradients_aggregation=True)
        return tf.constant(True)

    def merged(strategy, gradients, good):
        return tf.cond(
            _first(strategy, good), lambda: _update_all(strategy, optimizer, gradients, variables), skipped
        )

    # Stock optimizers merge the replicas, which is not allowed inside a condition: there the condition is
    # inside the merge.
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        tf.cond(good, taken, skipped)
    else:
        context.merge_call(merged, args=(optimizer._clip_gradients(gradients), good))


def _first(strategy: tf.distribute.Strategy, value: Any) -> tf.Tensor:
    return strategy.experimental_local_results(value)[0]


def _update_all(
    strategy: tf.distribute.Strategy,
    optimizer: keras.optimizers.Optimizer,
    gradients: list,
    variables: list[tf.Variable],
) -> tf.Tensor:
    """`apply_gradients` on all replicas, from outside of them: learning rate, weight decay, update."""
    optimizer._compute_current_learning_rate()
    for variable in variables if optimizer.weight_decay else ():
        if optimizer._use_weight_decay(variable):
            shrink = tf.cast(optimizer.weight_decay, variable.dtype) * tf.cast(
                optimizer.learning_rate, variable.dtype
            )
            strategy.extended.update(
                variable, lambda v, by: v.assign_sub(v * by), args=(shrink,), group=False
            )
    optimizer._distributed_apply_gradients_fn(strategy, list(zip(gradients, variables)))
    return tf.constant(True)


def adapted(name: str) -> bool:
    """Whether LARS scales the step of a variable."""
    return "kernel" in name and "head_supervised" not in name


def build_schedule(
    options: Options, total_steps: int, stretch: float = 1.0, learning_rate: float = 0.0
) -> WarmupSchedule:
    """The learning rate that the options describe.

    Args:
      total_steps: of this phase.
      stretch: multiplies --decay_boundaries and --decay_every, for a phase that is that much longer than the
        one that they are meant for.
      learning_rate: replaces `options.learning_rate` when above 0.

    Raises:
      FlagError: boundaries or rates that cannot be read, or that do not fit together.
    """
    boundaries = _numbers("decay_boundaries", options.decay_boundaries)
    if any(later <= earlier for earlier, later in zip(boundaries, boundaries[1:])):
        raise FlagError(
            f"--decay_boundaries={options.decay_boundaries}: every boundary must be after the one before it"
        )
    return WarmupSchedule(
        learning_rate or options.learning_rate,
        total_steps,
        schedule=options.schedule,
        warmup_steps=min(options.warmup_steps, total_steps),
        warmup_learning_rate=options.warmup_learning_rate,
        boundaries=[round(boundary * stretch) for boundary in boundaries],
        rates=_numbers("decay_rates", options.decay_rates),
        decay_every=options.decay_every * stretch,
        decay_factor=options.decay_factor,
    )


def build_optimizer(
    options: Options, total_steps: int, *, learning_rate: float = 0.0, stretch: float = 1.0
) -> keras.optimizers.Optimizer:
    """The optimizer that the options describe; for the arguments see `build_schedule`."""
    schedule = build_schedule(options, total_steps, stretch, learning_rate)
    if options.optimizer == "adam":
        return Adam(schedule)
    if options.optimizer == "rmsprop":
        return RMSprop(schedule, momentum=options.momentum)
    if options.optimizer == "lars":
        return LARS(schedule, options.momentum, options.lars_coefficient)
    return Momentum(schedule, options.momentum, options.optimizer == "nesterov")


def _numbers(flag: str, text: str) -> list[float]:
    """The numbers of a list; raises FlagError for anything else."""
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = [math.nan]
    if not all(math.isfinite(number) and number >= 0.0 for number in found):
        raise FlagError(f"--{flag}={text}: numbers are needed, comma separated, none below 0")
    return found


def current_learning_rate(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """The rate of the step about to be taken (the optimizer's own attribute is that of the last one)."""
    rate = optimizer._learning_rate
    return tf.cast(rate(optimizer.iterations) if callable(rate) else rate, tf.float32)


def clip_by_global_norm(gradients: list[tf.Tensor], clip_norm: float) -> tuple[list[tf.Tensor], tf.Tensor]:
    """(gradients scaled to a norm of at most `clip_norm`, their norm before); 0 turns clipping off."""
    norm = tf.linalg.global_norm(gradients)
    if clip_norm <= 0.0:
        return gradients, norm
    factor = clip_norm / tf.maximum(norm, clip_norm)
    return [gradient * factor for gradient in gradients], norm
