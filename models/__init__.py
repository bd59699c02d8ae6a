"""Reference models: Flax modules, each with the sizes that were published for it."""

from .cnn import CNN as CNN
from .language import RecurrentLM as RecurrentLM
from .lenet import LeNet5 as LeNet5
from .mlp import MLP as MLP
from .perceptron import Perceptron as Perceptron
from .perceptron import perceptron_update as perceptron_update
from .tabular import TabularMLP as TabularMLP
from .text import RecurrentClassifier as RecurrentClassifier
