"""Imported once by the server that the processes are forked from: everything that takes long to import."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: times are those of one thread
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import torch_pruning  # noqa: F401
from transformers import AutoModelForCausalLM, AutoModelForImageClassification  # noqa: F401 (these are imported lazily)

from zoo import networks

torch.set_num_threads(1)
networks.catalogue()
