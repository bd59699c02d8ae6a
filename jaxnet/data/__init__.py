"""Sources of data, their parts and their order."""

from jaxnet.data.arrays import Arrays as Arrays
from jaxnet.data.arrays import check_classes as check_classes
from jaxnet.data.idx import load_fashion_mnist as load_fashion_mnist
from jaxnet.data.idx import load_mnist as load_mnist
from jaxnet.data.idx import read_idx as read_idx
from jaxnet.data.order import batches as batches
from jaxnet.data.order import epoch_order as epoch_order
from jaxnet.data.order import steps_per_epoch as steps_per_epoch
from jaxnet.data.scaling import Scale as Scale
from jaxnet.data.scaling import fit_range as fit_range
from jaxnet.data.scaling import fit_standard as fit_standard
from jaxnet.data.splits import split as split
from jaxnet.data.toy import load_digits as load_digits
