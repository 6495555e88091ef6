"""Trains a tagger on PyTorch in several processes, which share every batch.

    torchrun --standalone --nproc-per-node 2 examples/distributed_torch.py [--check]

`DistributedDataParallel` takes a Keras model as it takes any module. With `--check` one process
trains on whole batches, too, and the weights must be the same, to rounding.
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from keras_struct import layers

BATCH, LENGTH, WORDS, TAGS, STEPS = 32, 12, 50, 5, 8


def batches():
    """Words, 0 for padding, and tags that follow from neighbouring words."""
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        words = rng.integers(1, WORDS, (BATCH, LENGTH))
        tags = (words + np.roll(words, 1, axis=1)) % TAGS
        yield words * (np.arange(LENGTH) < rng.integers(3, LENGTH + 1, (BATCH, 1))), tags


def new_model():
    keras.utils.set_random_seed(0)  # every process starts from the same weights
    words = keras.Input((LENGTH,), dtype="int32")
    states = keras.layers.Embedding(WORDS, 16, mask_zero=True)(words)
    states = keras.layers.Bidirectional(keras.layers.LSTM(16, return_sequences=True))(states)
    return keras.Model(words, layers.CRF(TAGS)(states))


def train(model, rank, processes):
    """Of each batch every process takes its rows; gradients are means over the processes."""
    module = DistributedDataParallel(model) if processes > 1 else model
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    loss_of, losses = layers.StructuredNLL(), []
    for words, tags in batches():
        loss = loss_of(tags[rank::processes], module(torch.as_tensor(words[rank::processes])))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with one process")
    check = parser.parse_args().check
    dist.init_process_group("gloo")  # "nccl" where each process has a GPU
    rank, processes = dist.get_rank(), dist.get_world_size()
    model = new_model()
    losses = train(model, rank, processes)
    mean = losses[-1] / processes
    dist.all_reduce(mean)
    if rank == 0:
        print(f"{processes} processes, loss {float(mean):.4f}")
        if check:
            alone = new_model()
            print(f"one process, loss {float(train(alone, 0, 1)[-1]):.4f}")
            pairs = zip(model.get_weights(), alone.get_weights(), strict=True)
            most = max(float(np.max(np.abs(x - y))) for x, y in pairs)
            print(f"weights differ by at most {most:.1e}")
            if most > 1e-5:
                raise SystemExit("the processes did not train the same model")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
