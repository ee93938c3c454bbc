"""A request to stop is deferred while there is something to save, and at no other time."""

import pytest

from alexnet_tf.training import stopping


def test_request_takes_effect_immediately_if_nothing_has_to_be_saved():
    stop = stopping.Stop()
    assert not stop.is_requested()
    with pytest.raises(SystemExit) as caught:
        stop.request(15, None)
    assert caught.value.code == 143
    assert "resumes from the newest checkpoint" in str(caught.value)


def test_request_is_deferred_to_the_end_of_a_step():
    stop = stopping.Stop()
    with stop.deferred():
        stop.request()
        assert stop.is_requested()


def test_deferred_request_takes_effect_when_nothing_has_to_be_saved():
    stop = stopping.Stop()
    with stop.deferred():
        stop.request()
        with pytest.raises(stopping.Stopped):
            with stop.deferred(False):
                pytest.fail("An evaluation started.")
        # The last steps still have to be saved.
        stop.request()


def test_request_during_an_evaluation_ends_it():
    stop = stopping.Stop()
    with stop.deferred():
        with pytest.raises(stopping.Stopped):
            with stop.deferred(False):
                stop.request()
        assert stop.is_requested()
