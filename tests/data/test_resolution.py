from fractions import Fraction

import pytest

from lora_tta.data.resolution import size_for, sizes

PUBLISHED = {
    "256px": {
        Fraction(100, 239): (160, 384),
        Fraction(1, 2): (176, 352),
        Fraction(100, 185): (192, 336),
        Fraction(9, 16): (192, 336),
        Fraction(5, 8): (192, 336),
        Fraction(2, 3): (208, 304),
        Fraction(3, 4): (224, 288),
        Fraction(1): (256, 256),
    },
    "768px": {
        Fraction(100, 239): (496, 1184),
        Fraction(1, 2): (544, 1072),
        Fraction(100, 185): (560, 1040),
        Fraction(9, 16): (576, 1024),
        Fraction(5, 8): (592, 992),
        Fraction(2, 3): (624, 928),
        Fraction(3, 4): (656, 880),
        Fraction(1): (768, 768),
    },
}


@pytest.mark.parametrize("resolution", PUBLISHED)
def test_the_published_sizes_lying_and_standing(resolution):
    lying = PUBLISHED[resolution]
    standing = {1 / shape: (width, height) for shape, (height, width) in lying.items()}
    assert sizes(resolution) == lying | standing
    pixels = int(resolution.removesuffix("px")) ** 2
    for height, width in sizes(resolution).values():
        assert height % 16 == width % 16 == 0
        assert 0.93 * pixels < height * width <= pixels


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (240, 320, (224, 288)),  # UCF-101
        (1080, 1920, (192, 336)),
        (1920, 1080, (336, 192)),
        (720, 720, (256, 256)),
        (1080, 2560, (160, 384)),
        (100, 1000, (160, 384)),  # wider than any published shape
        (1000, 100, (384, 160)),
    ],
)
def test_a_video_gets_the_size_of_the_nearest_shape(height, width, size):
    assert size_for("256px", Fraction(height, width)) == size
