"""Distillation on two devices that mirror each other is that on one, for losses of single images."""

import pytest
from masks import run_python

ON_TWO_DEVICES = """
import tensorflow as tf
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import distilling, keras, numpy as np
from keras import layers
from tfcompress import distillation

LOSSES = {
    "outputs": lambda: [distillation.SoftTargets(2.0), distillation.AttentionTransfer("t1", "s1")],
    "features": lambda: [distillation.Hints("t1", "s1"), distillation.GradientAttention(10.0)],
}

def network(name, widths):
    keras.utils.set_random_seed(0)
    x = i = keras.Input((8, 8, 3))
    for number, width in enumerate(widths):
        settings = {"strides": 2, "padding": "same", "activation": "tanh", "kernel_regularizer": "l2"}
        x = layers.Conv2D(width, 3, **settings, name=f"{name}{number}")(x)
    return keras.Model(i, layers.Dense(distilling.CLASSES, name=f"{name}_head")(layers.Flatten()(x)))

def trained(losses, scope):
    with scope:
        student = network("s", (3, 4))
        teacher = network("t", (6, 8))
        distiller = distillation.Distiller(teacher, student, LOSSES[losses](), student_loss_weight=0.3)
        keras.utils.set_random_seed(1)
        distiller.compile(keras.optimizers.SGD(0.1), distilling.loss_of_labels(), metrics=["accuracy"])
    history = distiller.fit(*distilling.data(16), batch_size=8, epochs=2, shuffle=False, verbose=0).history
    return {key: values[-1] for key, values in history.items()}, student.get_weights()

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
for losses in LOSSES:
    one, weights = trained(losses, tf.distribute.get_strategy().scope())
    two, others = trained(losses, strategy.scope())
    assert one.keys() == two.keys(), (one, two)
    for key in one:
        np.testing.assert_allclose(one[key], two[key], rtol=1e-4, err_msg=key)
    for weight, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-3, atol=1e-5)
    print(losses, *one)
"""


def test_it_is_training_on_one_device(tmp_path):
    pytest.importorskip("tensorflow")
    lines = run_python(ON_TWO_DEVICES, tmp_path).splitlines()
    assert [line.split()[0] for line in lines] == ["outputs", "features"]
