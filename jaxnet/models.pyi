# What type checkers read of `jaxnet.models` in a checkout, where it lies beside this package.
from models import *  # noqa: F403
from models import alexnet as alexnet
from models import autoencoder as autoencoder
from models import bert as bert
from models import cnn as cnn
from models import gan as gan
from models import googlenet as googlenet
from models import gpt2 as gpt2
from models import language as language
from models import lenet as lenet
from models import llama as llama
from models import mlp as mlp
from models import perceptron as perceptron
from models import recommender as recommender
from models import resnet as resnet
from models import seq2seq as seq2seq
from models import tabular as tabular
from models import text as text
from models import vgg as vgg
from models import vit as vit
