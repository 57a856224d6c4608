"""The original's SpineNet detector once more, out of TF1 layers that TF1 itself names; run as a program of
its own.

TF1 layers in a process disturb the Keras models that it has, so the tests start this one:
`python -m tests.models.tf1_networks FOLDER` writes FOLDER/model.ckpt with random values, and
FOLDER/case.npz with an input and what the network says of it. Tiny, but whole.

Source: tensorflow/tpu models/official/detection/modeling/architecture/{spinenet,heads,nn_blocks,nn_ops}.py.
"""

import os
import sys

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
SCALING = dict(endpoint_filters=26, filter_scale=0.1, resample_alpha=0.5, repeats=2)
HEAD = dict(head_filters=8, head_convs=2)
SIZE = 128
FILTERS = {2: 64, 3: 128, 4: 256, 5: 256, 6: 256, 7: 256}

# Level, kind, parents, output of the blocks 2 to 16: Figure 8 of arXiv 1912.05027 as released,
# spinenet.py:53-69.
TOPOLOGY = """2 B 0 1 -, 4 R 0 1 -, 3 B 2 3 -, 4 B 2 4 -, 6 R 3 5 -, 4 B 3 5 -, 5 R 6 7 -, 7 R 6 8 -,
5 B 8 9 -, 5 B 8 10 -, 4 B 5 10 O, 3 B 4 10 O, 5 B 7 12 O, 7 B 5 14 O, 6 B 12 14 O"""


class Detector:
    """RetinaNet on SpineNet; layers without a name are numbered by TF1."""

    def norm(self, x, name=None, act=True):
        x = v1.layers.batch_normalization(
            x, momentum=0.997, epsilon=1e-3, training=False, fused=True, name=name
        )
        return tf.nn.swish(x) if act else x

    def conv(self, x, filters, kernel, stride=1, act=True):
        if stride > 1:
            before = (kernel - 1) // 2
            x = tf.pad(x, [[0, 0], [before, kernel - 1 - before], [before, kernel - 1 - before], [0, 0]])
        x = v1.layers.conv2d(x, filters, kernel, stride, "same" if stride == 1 else "valid", use_bias=False)
        return self.norm(x, act=act)

    def group(self, x, filters, kind):
        out = 4 * filters if kind == "B" else filters
        for _ in range(SCALING["repeats"]):
            shortcut = x if x.shape[-1] == out else self.conv(x, out, 1, act=False)
            if kind == "B":
                y = self.conv(self.conv(self.conv(x, filters, 1), filters, 3), out, 1, act=False)
            else:
                y = self.conv(self.conv(x, filters, 3), out, 3, act=False)
            x = tf.nn.swish(y + shortcut)
        return x

    def resample(self, x, kind, target, out):
        filters = int((x.shape[-1] // 4 if kind == "B" else x.shape[-1]) * SCALING["resample_alpha"])
        width = x.shape[2]
        x = self.conv(x, filters, 1)
        if width > target:
            x = self.conv(x, filters, 3, 2)
            if width // target > 2:
                x = v1.layers.max_pooling2d(x, 3 if width // target <= 4 else 5, width // target // 2, "same")
        elif width < target:
            x = tf.repeat(tf.repeat(x, target // width, axis=1), target // width, axis=2)
        return self.conv(x, out, 1, act=False)

    def spinenet(self, images):
        scaled = {level: int(filters * SCALING["filter_scale"]) for level, filters in FILTERS.items()}
        with v1.variable_scope("spinenet"):
            x = v1.layers.max_pooling2d(self.conv(images, 64, 7, 2), 3, 2, "same")
            maps = [self.group(x, scaled[2], "B")]
            maps.append(self.group(maps[0], scaled[2], "B"))
            kinds, used, outputs = ["B", "B"], [0, 0], {}
            for i, spec in enumerate(TOPOLOGY.replace("\n", " ").split(",")):
                level, kind, first, second, output = spec.split()
                level, target = int(level), images.shape[2] // 2 ** int(level)
                out = scaled[level] * (4 if kind == "B" else 1)
                with v1.variable_scope(f"sub_policy{i}"):
                    merged = 0.0
                    for place, parent in enumerate((int(first), int(second))):
                        with v1.variable_scope(f"resample_with_alpha_resample_{i}_{place}"):
                            merged += self.resample(maps[parent], kinds[parent], target, out)
                        used[parent] += 1
                    for j, other in enumerate(maps):
                        if (
                            output == "O"
                            and not used[j]
                            and other.shape[2] == target
                            and other.shape[3] == out
                        ):
                            merged += other
                            used[j] += 1
                    with v1.variable_scope(f"scale_permuted_block_{len(maps)}"):
                        maps.append(self.group(tf.nn.swish(merged), scaled[level], kind))
                kinds.append(kind)
                used.append(0)
                if output == "O":
                    outputs[level] = maps[-1]
            return {
                level: self.conv(outputs[level], SCALING["endpoint_filters"], 1) for level in sorted(outputs)
            }

    def tower(self, features, kind, values):
        flat = []
        for level, x in features.items():
            with v1.variable_scope(f"{kind}_net", reuse=v1.AUTO_REUSE):
                for i in range(HEAD["head_convs"]):
                    x = v1.layers.conv2d(x, HEAD["head_filters"], 3, padding="same", name=f"{kind}-{i}")
                    x = self.norm(x, name=f"{kind}-{i}-{level}")
                x = v1.layers.conv2d(x, 9 * values, 3, padding="same", name=f"{kind}-predict")
            flat.append(tf.reshape(x, [x.shape[0], -1, values]))
        return tf.concat(flat, axis=1)

    def detector(self, images):
        features = self.spinenet(images)
        with v1.variable_scope("retinanet"):
            return {
                "classification": self.tower(features, "class", 91),
                "box": self.tower(features, "box", 4),
            }


def write(folder, session):
    """Random values in every variable of the graph, batch norm's statistics among them, and a checkpoint as
    TF1 leaves one.
    """
    generator, variables = np.random.default_rng(3), v1.global_variables()
    step = v1.train.get_or_create_global_step()
    slot = v1.get_variable(variables[0].name.split(":")[0] + "/Momentum", [1])
    values = {step.initializer.inputs[1]: 5, slot.initializer.inputs[1]: [0.0]}
    for variable in variables:
        if "kernel" in variable.name:
            value = generator.normal(0, np.sqrt(1.0 / np.prod(variable.shape[:-1])), variable.shape)
        else:
            low, high = (0.5, 1.5) if variable.name.endswith(("gamma:0", "variance:0")) else (-0.3, 0.3)
            value = generator.uniform(low, high, variable.shape)
        values[variable.initializer.inputs[1]] = value
    session.run([variable.initializer for variable in (*variables, step, slot)], values)
    v1.train.Saver([*variables, step, slot]).save(session, os.path.join(folder, "model.ckpt"))


def detector(folder):
    """A SpineNet RetinaNet on an image."""
    images = np.random.default_rng(1).normal(size=(1, SIZE, SIZE, 3)).astype(np.float32)
    with tf.Graph().as_default(), v1.Session() as session:
        outputs = Detector().detector(tf.constant(images))
        write(folder, session)
        np.savez(os.path.join(folder, "case.npz"), images=images, **session.run(outputs))


if __name__ == "__main__":
    detector(sys.argv[1])
