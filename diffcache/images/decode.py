"""Decoding one image file with Pillow, which is the border to files that nobody vouches for."""

from __future__ import annotations

import functools
import io

from PIL import Image

from diffcache.errors import ImageError
from diffcache.images.source import shown

# EPS runs Ghostscript, a program, on the file; the others are known to Pillow by name only and cannot be decoded.
_NOT_DECODED = frozenset({"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"})


@functools.cache
def formats() -> tuple[str, ...]:
    """Names of the formats that are decoded, in the order in which Pillow tries them."""
    Image.preinit()  # first, so that the common formats are tried first
    Image.init()
    common = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
    return tuple(sorted(set(Image.OPEN) - _NOT_DECODED, key=lambda name: (name not in common, name)))


@functools.cache
def extensions() -> frozenset[str]:
    """File name extensions of images, in lower case with the dot, as Pillow registers them."""
    known = {*formats(), "MPO"}  # several JPEGs in one file, which the JPEG reader passes on
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


def decode(data: bytes, *, where: str) -> Image.Image:
    """The image in a file's bytes, its first frame where there are several, in the mode it is stored in.

    The format is told by the content, not by the name. EXIF orientation is left as it is, but for the formats whose
    Pillow reader applies it by itself (TIFF).

    Args:
        data: the file.
        where: its path, for errors.

    Raises:
        ImageError: it is not an image, is cut off or damaged, or has more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=formats())
        check_pixels(image.width, image.height, where)
        image.load()
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        found = "an empty file" if not data else f"a file that begins with {data[:8].hex(' ')}"
        raise ImageError(f"{shown(where)}: expected an image of a format that Pillow reads, found {found}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{shown(where)}: refused as a decompression bomb: {_reason(error)}") from None
    except Exception as error:
        # Its decoders raise nearly anything on damaged bytes: OSError, SyntaxError, struct.error, KeyError, ...
        raise ImageError(f"{shown(where)}: cannot be decoded as an image: {_reason(error)}") from error
    return image


def check_pixels(width: int, height: int, where: str) -> None:
    """Raise ImageError for more pixels than Pillow's limit; Pillow itself only warns, up to twice of it."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ImageError(
            f"{shown(where)}: expected at most {limit} pixels, found {width}x{height}; "
            "if the image is to be trusted, raise PIL.Image.MAX_IMAGE_PIXELS"
        )


def _reason(error: Exception) -> str:
    return shown(str(error)) or type(error).__name__
