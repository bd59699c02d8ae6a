from .experts import on_their_devices as on_their_devices
from .layout import Layout as Layout
from .ring import in_a_ring as in_a_ring
from .ring import ring_attention as ring_attention
