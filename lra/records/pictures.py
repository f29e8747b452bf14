"""Small pictures as PNG files in base64, from arrays."""

import base64
import io

import numpy as np
from PIL import Image

# a colour on either side of zero, and how many shades of it
BELOW, ABOVE, SHADES = (214, 96, 20), (20, 110, 200), 15


def grey(pixels: np.ndarray, *, most: int = 64) -> str:
    """uint8 (H, W) in shades of grey; averaged over squares where a side has more than `most` pixels."""
    squares = blocks(pixels, most)
    return encoded(Image.fromarray(np.rint(squares.mean((1, 3))).astype(np.uint8), "L"))


def signed(values: np.ndarray, *, most: int = 32) -> str:
    """Floats (H, W) in two colours, for below and above zero, transparent at zero; of each square the strongest."""
    squares = blocks(values, most).transpose(0, 2, 1, 3)
    flat = squares.reshape(*squares.shape[:2], -1)
    strongest = np.take_along_axis(flat, abs(flat).argmax(-1)[..., None], -1)[..., 0]
    levels = np.rint(strongest / (abs(strongest).max() or 1.0) * SHADES).astype(int) + SHADES
    image = Image.fromarray(levels.astype(np.uint8), "P")
    image.putpalette([*BELOW * SHADES, 0, 0, 0, *ABOVE * SHADES])
    alpha = [round(255 * abs(i - SHADES) / SHADES) for i in range(2 * SHADES + 1)]
    return encoded(image, transparency=bytes(alpha))


def blocks(pixels: np.ndarray, most: int) -> np.ndarray:
    """(H, W) -> (H', b, W', b) with the least b for which H' and W' are at most `most`; what is over is cut off."""
    b = -(-max(pixels.shape) // most)
    height, width = (side // b for side in pixels.shape)
    return pixels[: height * b, : width * b].reshape(height, b, width, b)


def encoded(image: Image.Image, **options: object) -> str:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True, **options)
    return base64.b64encode(out.getvalue()).decode()
