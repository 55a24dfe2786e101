"""Images on their way into a model, batch by batch."""

import math

import keras
import numpy as np
from keras import ops

from support import memory

LARGE = 200  # images in a batch where nothing learns; of 1,000 each step's copies take 3 MB


class Batches(keras.utils.PyDataset):
    """Some rows of an array of images as batches for Keras, made float32 on the way.

    The array stays as it was read: as float32 it would be four times as large.

    Args:
        images: array of images in grey levels.
        rows: which of them, in this order; all, if None.
        batch_size: images in a batch; the last one may be smaller.
        noise: a `UniformNoise` to add; None for images as they are.
        seed: which draw of the noise; it is the same whenever a batch is read.
    """

    def __init__(self, images, rows=None, batch_size=LARGE, noise=None, seed=0):
        super().__init__()
        self.images = images
        self.rows = np.arange(len(images)) if rows is None else rows
        self.batch_size = batch_size
        self.noise = noise
        self.seed = seed

    def __len__(self):
        return math.ceil(len(self.rows) / self.batch_size)

    def __getitem__(self, index):
        rows = self.rows[index * self.batch_size : (index + 1) * self.batch_size]
        x = self.images[rows].astype("float32")
        if self.noise is not None:
            seed = (self.seed * len(self) + index) % 2**32  # of which no backend takes more
            x = self.noise.add_to(ops.convert_to_tensor(x), seed)
            x = ops.convert_to_numpy(x)
        return (x,)

    def through(self, model):
        """What a model makes of them, batch by batch: all codes take more memory than images."""
        for index in range(len(self)):
            if index % 10 == 0:  # what batches free is scattered, and adds up
                memory.trim()
            yield model.predict_on_batch(*self[index])

    def feed(self):
        """What `fit` should be given: on TensorFlow a tf.data pipeline, elsewhere this itself.

        Keras would make one there of a generator. With it TensorFlow asks the system for fresh
        memory in every step, which doubles the time of a step.
        """
        if keras.backend.backend() != "tensorflow":
            return self
        import tensorflow as tf

        def read(index):
            x = tf.numpy_function(lambda i: self[i][0], [index], tf.float32)
            return (tf.ensure_shape(x, (None, *self.images.shape[1:])),)

        options = tf.data.Options()
        options.autotune.enabled = False  # it tunes while training, and at its cost
        return tf.data.Dataset.range(len(self)).map(read).prefetch(1).with_options(options)
