"""Reference models: Flax modules, each with the sizes that were published for it."""

from .alexnet import AlexNet as AlexNet
from .bert import BERT as BERT
from .bert import BERTClassifier as BERTClassifier
from .bert import BERTMaskedLM as BERTMaskedLM
from .bert import BERTTagger as BERTTagger
from .cnn import CNN as CNN
from .googlenet import GoogLeNet as GoogLeNet
from .gpt2 import GPT2 as GPT2
from .language import RecurrentLM as RecurrentLM
from .lenet import LeNet5 as LeNet5
from .llama import Llama as Llama
from .mlp import MLP as MLP
from .perceptron import Perceptron as Perceptron
from .perceptron import perceptron_update as perceptron_update
from .recommender import Ranker as Ranker
from .recommender import TwoTower as TwoTower
from .resnet import CIFARResNet as CIFARResNet
from .resnet import ResNet as ResNet
from .seq2seq import Transformer as Transformer
from .tabular import TabularMLP as TabularMLP
from .text import RecurrentClassifier as RecurrentClassifier
from .vgg import VGG as VGG
from .vit import ViT as ViT
