"""Area averaging."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.wrappers import resize_area


@pytest.mark.parametrize("factor", [1, 2, 5])
def test_a_whole_factor_averages_blocks(factor):
    image = np.random.default_rng(0).integers(0, 256, (8 * factor, 8 * factor, 3), np.uint8)
    blocks = image.reshape(8, factor, 8, factor, 3).mean(axis=(1, 3))
    assert np.abs(resize_area(image, 8) - blocks).max() <= 0.5 + 1e-3


def test_a_pixel_that_straddles_two_is_shared_between_them():
    image = np.zeros((3, 3, 3), np.uint8)
    image[:, 1] = 90
    # Each of the two new columns covers one and a half old ones: a third of it is bright.
    np.testing.assert_array_equal(resize_area(image, 2), np.full((2, 2, 3), 30))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0, 255))
def test_one_colour_stays_that_colour_at_any_size(height, width, size, value):
    image = np.full((height, width, 3), value, np.uint8)
    np.testing.assert_array_equal(resize_area(image, size), np.full((size, size, 3), value))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_the_mean_brightness_is_kept(height, width, size):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    assert resize_area(image, size).mean() == pytest.approx(image.mean(), abs=0.51)
