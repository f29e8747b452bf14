"""Small PNG pictures in base64, from arrays."""

import base64
import io

import numpy as np
from PIL import Image

# colours of negative and positive values, and the number of shades of each
NEGATIVE, POSITIVE, SHADES = (214, 96, 20), (20, 110, 200), 15


def grey(pixels: np.ndarray, *, max_side: int = 64) -> str:
    """uint8 (H, W) in shades of grey; averaged over blocks if a side is longer than `max_side`."""
    means = blocks(pixels, max_side).mean((1, 3))
    return encoded(Image.fromarray(np.rint(means).astype(np.uint8), "L"))


def colour(pixels: np.ndarray) -> str:
    """uint8 (H, W, 3)."""
    return encoded(Image.fromarray(pixels, "RGB"))


def signed(values: np.ndarray, *, max_side: int = 32) -> str:
    """Floats (H, W) in two colours by sign, transparent at zero; each block shows its value of largest magnitude."""
    squares = blocks(values, max_side).transpose(0, 2, 1, 3)
    flat = squares.reshape(*squares.shape[:2], -1)
    strongest = np.take_along_axis(flat, abs(flat).argmax(-1)[..., None], -1)[..., 0]
    levels = np.rint(strongest / (abs(strongest).max() or 1.0) * SHADES).astype(int) + SHADES
    image = Image.fromarray(levels.astype(np.uint8), "P")
    image.putpalette([*NEGATIVE * SHADES, 0, 0, 0, *POSITIVE * SHADES])
    alpha = [round(255 * abs(i - SHADES) / SHADES) for i in range(2 * SHADES + 1)]
    return encoded(image, transparency=bytes(alpha))


def blocks(pixels: np.ndarray, max_side: int) -> np.ndarray:
    """(H, W) -> (H', b, W', b) with the smallest b for which H', W' <= max_side; the remainder is cut off."""
    b = -(-max(pixels.shape) // max_side)
    height, width = (side // b for side in pixels.shape)
    return pixels[: height * b, : width * b].reshape(height, b, width, b)


def encoded(image: Image.Image, **options: object) -> str:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True, **options)
    return base64.b64encode(out.getvalue()).decode()
