"""The joint loss of self-training: the normalised one of the paper's Appendix B, and the standard one.

    standard     L = L_h + alpha * L_p
    normalised   L = 1 / (1 + alpha) * (L_h + alpha * (mean(L_h) / mean(L_p)) * L_p)

The means are exponential moving averages over training steps. The paper leaves three things open;
the choices are: the ratio is a constant for the gradient, the averages take in the current step
before they are used (so step one is defined), and they start at zero. A zero start needs no bias
correction, because the factor 1 - decay^t is the same in both and cancels in the ratio.
"""

from __future__ import annotations

import tensorflow as tf


def standard_joint_loss(human_loss: tf.Tensor, pseudo_loss: tf.Tensor, alpha: float) -> tf.Tensor:
    """`L_h + alpha * L_p`; its size moves with alpha (paper, Appendix B). Scalars in, scalar out."""
    return human_loss + alpha * pseudo_loss


def normalized_joint_loss(
    human_loss: tf.Tensor, pseudo_loss: tf.Tensor, alpha: float, loss_ratio: tf.Tensor
) -> tf.Tensor:
    """`1/(1+alpha) * (L_h + alpha * loss_ratio * L_p)` (paper, Appendix B). Scalars in, scalar out."""
    ratio = tf.stop_gradient(loss_ratio)
    return (human_loss + alpha * ratio * pseudo_loss) / (1.0 + alpha)


class LossAverages(tf.Module):
    """Exponential moving averages of the human and the pseudo loss.

    The variables are kept per replica, and read and saved from the first; every replica feeds them the
    same global losses, so the copies agree.

    Attributes:
      human, pseudo: float32 scalars.
    """

    def __init__(self, decay: float = 0.9997) -> None:
        """Args: decay: in [0, 1); 0.9997 is the paper's (a time constant of 3,333 steps)."""
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"ema_decay={decay} is not in [0, 1)")
        super().__init__(name="loss_averages")
        self.decay = decay
        self.human = _average_variable("human")
        self.pseudo = _average_variable("pseudo")

    def update(self, human_loss: tf.Tensor, pseudo_loss: tf.Tensor) -> tf.Tensor:
        """Takes in one step's global losses and returns the ratio `mean(L_h) / mean(L_p)`.

        A non-finite loss leaves the averages as they were. While the pseudo average is still zero
        (no pseudo batch has had a loss yet) the ratio is 1.

        Args:
          human_loss, pseudo_loss: float32 scalars, equal on every replica.

        Returns:
          float32 scalar, without gradient.
        """
        human, pseudo, ratio = self.after(human_loss, pseudo_loss)
        self.human.assign(human)
        self.pseudo.assign(pseudo)
        return ratio

    def after(self, human_loss: tf.Tensor, pseudo_loss: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Both averages with these losses taken in, and their ratio; changes nothing. See `update`."""
        finite = tf.math.is_finite(human_loss) & tf.math.is_finite(pseudo_loss)
        human, pseudo = (
            self._advanced(self.human, human_loss, finite),
            self._advanced(self.pseudo, pseudo_loss, finite),
        )
        return (
            human,
            pseudo,
            tf.stop_gradient(tf.where(pseudo > 0.0, human / tf.where(pseudo > 0.0, pseudo, 1.0), 1.0)),
        )

    def _advanced(self, average: tf.Variable, loss: tf.Tensor, finite: tf.Tensor) -> tf.Tensor:
        advanced = self.decay * average + (1.0 - self.decay) * tf.stop_gradient(loss)
        return tf.where(finite, advanced, average)


def _average_variable(name: str) -> tf.Variable:
    return tf.Variable(
        0.0,
        trainable=False,
        name=name,
        synchronization=tf.VariableSynchronization.ON_READ,
        # All replicas hold the same bits; the mean of three of them may be another number.
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
