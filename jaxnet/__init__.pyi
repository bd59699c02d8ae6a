from . import bundle as bundle
from . import compute as compute
from . import data as data
from . import layers as layers
from . import losses as losses
from . import metrics as metrics
from . import numerics as numerics
from . import optimizers as optimizers
from . import parallel as parallel
from . import schedules as schedules
from . import summary as summary
from . import training as training
from . import trees as trees
from .bundle import Bundle as Bundle
from .training import Checkpoints as Checkpoints
from .training import EarlyStopping as EarlyStopping
from .training import Supervised as Supervised
from .training import Trainer as Trainer

__version__: str
