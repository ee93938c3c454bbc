"""A wish to stop waits while something has to be saved, and at no other time."""

import pytest

from alexnet_tf.training import stopping


def test_it_stops_at_once_where_nothing_has_to_be_saved():
    stop = stopping.Stop()
    assert not stop.is_asked()
    with pytest.raises(SystemExit) as caught:
        stop.ask(15, None)
    assert caught.value.code == 143
    assert "goes on from the newest checkpoint" in str(caught.value)


def test_a_wish_waits_for_the_end_of_a_step():
    stop = stopping.Stop()
    with stop.waiting():
        stop.ask()
        assert stop.is_asked()


def test_a_wish_that_waited_is_fulfilled_where_nothing_has_to_be_saved():
    stop = stopping.Stop()
    with stop.waiting():
        stop.ask()
        with pytest.raises(stopping.Stopped):
            with stop.waiting(False):
                pytest.fail("An evaluation began.")
        # What was learnt is still to be saved.
        stop.ask()


def test_a_wish_in_the_midst_of_an_evaluation_ends_it():
    stop = stopping.Stop()
    with stop.waiting():
        with pytest.raises(stopping.Stopped):
            with stop.waiting(False):
                stop.ask()
        assert stop.is_asked()
