"""A local web page: draw a picture, hide parts of it, and see the nearest picture that a generator draws.

The server needs only the standard library. The page and its scripts are files of this package, the browser decodes
pictures, and Python's ``http.server`` answers on 127.0.0.1 only.
"""

from unrelu.playground._local_server import serving
from unrelu.playground._picture_generators import PictureGenerator, bundled

__all__ = ["PictureGenerator", "bundled", "serving"]
