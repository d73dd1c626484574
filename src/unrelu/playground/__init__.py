"""A page on this machine: draw a picture, hide parts of it, and see what a generator makes of it.

It takes nothing beyond the standard library: pages and scripts are files of this package, a browser decodes pictures,
and Python's ``http.server`` answers, on 127.0.0.1 alone.
"""

from unrelu.playground._local_server import serving
from unrelu.playground._picture_generators import PictureGenerator, bundled

__all__ = ["PictureGenerator", "bundled", "serving"]
