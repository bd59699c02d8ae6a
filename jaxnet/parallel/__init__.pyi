from .layout import Layout as Layout
