"""A request to stop is deferred while there is something to save, and at no other time."""

import signal

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


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGTERM, 143)])
def test_the_status_is_that_of_the_first_signal(number, status):
    stop = stopping.Stop("stopped; text")
    assert stop.status == 143
    with pytest.raises(stopping.Stopped, match="^stopped; text$") as caught:
        stop.request(number, None)
    assert caught.value.code == status
    # While it takes effect, others do not interrupt it.
    stop.request(signal.SIGTERM, None)
    stop.request(signal.SIGHUP, None)
    assert stop.stopped("later").code == status


def test_a_second_interrupt_is_not_deferred(capfd):
    stop = stopping.Stop()
    with stop.deferred():
        stop.request(signal.SIGTERM)
        stop.request(signal.SIGINT)
        assert capfd.readouterr().err.strip() == "stopping after this step; Ctrl-C again stops at once"
        stop.request(signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            stop.request(signal.SIGINT)
    assert stop.status == 143
