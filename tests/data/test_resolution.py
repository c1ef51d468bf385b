import pytest

from lora_tta.data.resolution import image_size


@pytest.mark.parametrize(
    ("resolution", "aspect_ratio", "size"),
    [
        ("256px", "16:9", (192, 336)),
        ("256px", "1:1", (256, 256)),
        ("256px", "9:16", (336, 192)),
        ("768px", "16:9", (576, 1024)),
        ("768px", "1:1", (768, 768)),
    ],
)
def test_published_sizes(resolution, aspect_ratio, size):
    assert image_size(resolution, aspect_ratio) == size


@pytest.mark.parametrize("aspect_ratio", ["4:3", "3:2", "21:9", "5:8"])
def test_other_ratios_are_multiples_of_16_within_the_pixel_budget(aspect_ratio):
    height, width = image_size("256px", aspect_ratio)
    across, down = map(int, aspect_ratio.split(":"))
    assert height % 16 == width % 16 == 0
    assert 0.85 * 256**2 < height * width <= 256**2
    assert width / height == pytest.approx(across / down, rel=0.1)
