"""Training: tasks, techniques, the trainer."""

from jaxnet.training.callbacks import Callback as Callback
from jaxnet.training.callbacks import RunWriter as RunWriter
from jaxnet.training.checkpoints import Checkpoints as Checkpoints
from jaxnet.training.early_stopping import EarlyStopping as EarlyStopping
from jaxnet.training.history import History as History
from jaxnet.training.network import Network as Network
from jaxnet.training.state import TrainState as TrainState
from jaxnet.training.task import GradientTask as GradientTask
from jaxnet.training.task import Supervised as Supervised
from jaxnet.training.task import Task as Task
from jaxnet.training.trainer import FitResult as FitResult
from jaxnet.training.trainer import Trained as Trained
from jaxnet.training.trainer import Trainer as Trainer
from jaxnet.training.transforms import accumulate as accumulate
from jaxnet.training.transforms import clip as clip
from jaxnet.training.transforms import freeze as freeze
from jaxnet.training.transforms import freeze_except as freeze_except
from jaxnet.training.transforms import guard_nonfinite as guard_nonfinite
from jaxnet.training.transforms import mixed_precision as mixed_precision
from jaxnet.training.transforms import remat as remat
from jaxnet.training.transforms import with_ema as with_ema
