"""Data augmentation: pure functions `(key, batch) -> batch`, inside the compiled training step.

    from jaxnet.data import augmentation as aug
    from jaxnet.training import augment

    task = augment(task, aug.crop(4), aug.flip_left_right(), aug.mixup(0.2))

A batch is a dict of arrays with the example as leading axis: `inputs` (B, H, W, C), `labels`,
`mask`, perhaps `weights`. Every example draws for itself. Inputs keep their shape and type:
integers are rounded and stay within their type's range, floats are not clipped, because only their
owner knows their range. The functions expect images as they are stored, before normalisation:
`Supervised.preprocess` comes after them.

A function of your own is a function of the key and the batch; `on_images` makes one of a function
of the key and the images.
"""

from jaxnet.data.augmentation.base import Augmentation as Augmentation
from jaxnet.data.augmentation.base import compose as compose
from jaxnet.data.augmentation.base import on as on
from jaxnet.data.augmentation.base import on_images as on_images
from jaxnet.data.augmentation.base import one_of as one_of
from jaxnet.data.augmentation.colour import brightness as brightness
from jaxnet.data.augmentation.colour import contrast as contrast
from jaxnet.data.augmentation.colour import gaussian_noise as gaussian_noise
from jaxnet.data.augmentation.colour import grayscale as grayscale
from jaxnet.data.augmentation.colour import hue as hue
from jaxnet.data.augmentation.colour import saturation as saturation
from jaxnet.data.augmentation.geometry import affine as affine
from jaxnet.data.augmentation.geometry import crop as crop
from jaxnet.data.augmentation.geometry import flip_left_right as flip_left_right
from jaxnet.data.augmentation.geometry import flip_up_down as flip_up_down
from jaxnet.data.augmentation.geometry import resized_crop as resized_crop
from jaxnet.data.augmentation.geometry import rotate as rotate
from jaxnet.data.augmentation.geometry import translate as translate
from jaxnet.data.augmentation.mixing import cutmix as cutmix
from jaxnet.data.augmentation.mixing import mixup as mixup
from jaxnet.data.augmentation.occlusion import cutout as cutout
from jaxnet.data.augmentation.occlusion import erase as erase
from jaxnet.data.augmentation.tokens import IGNORED as IGNORED
from jaxnet.data.augmentation.tokens import mask_tokens as mask_tokens
from jaxnet.data.augmentation.tokens import masked_once as masked_once
