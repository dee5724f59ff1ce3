"""Signals to a training: what is asked for, and that everything is as before afterwards."""

import signal

import pytest

from engine.signals import Requests, Stopped, requests_by_signal, saving_needs_a_run


def test_signals_are_noted_and_handlers_put_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    with requests_by_signal() as requests:
        assert requests == Requests(stop=0, save=False)
        signal.raise_signal(signal.SIGUSR1)
        assert requests == Requests(stop=0, save=True)
        signal.raise_signal(signal.SIGTERM)
        assert requests.stop == signal.SIGTERM
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_second_ctrl_c_stops_at_once() -> None:
    with requests_by_signal() as requests:
        signal.raise_signal(signal.SIGINT)
        assert requests.stop == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_request_to_save_before_the_run_does_no_harm() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with saving_needs_a_run():
        signal.raise_signal(signal.SIGUSR1)  # would end this process
        with requests_by_signal() as requests:
            signal.raise_signal(signal.SIGUSR1)
        assert requests.save
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_has_the_usual_exit_status(number: int, status: int) -> None:
    assert Stopped(number).code == status
