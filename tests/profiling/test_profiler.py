"""The steps to profile."""

import pytest

from alexnet_tf.profiling import profiler


@pytest.mark.parametrize("steps", [(1, 1), (10, 20), ()])
def test_valid_steps_to_profile(steps):
    profiler.check_profile_steps(steps)


@pytest.mark.parametrize("steps", [(10,), (0, 3), (20, 10), (1, 2, 3)])
def test_invalid_steps_to_profile_are_rejected(steps):
    with pytest.raises(
        ValueError, match=r"^Expected the first and the last step to profile, such as 10,20\. Received: "
    ):
        profiler.check_profile_steps(steps)
