from __future__ import annotations

import signal
import threading

import pytest

from l1bn.recipes.machine.interrupt import deferred_interrupt


def test_the_first_signal_is_noted_and_the_second_stops(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as stop:
        assert not stop.made
        signal.raise_signal(signal.SIGINT)
        assert stop.made
        assert "stopping after this step" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_is_noted_as_ctrl_c_is() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with deferred_interrupt() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.made
        assert stop.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_may_train() -> None:
    made: list[bool] = []

    def work() -> None:
        with deferred_interrupt() as stop:
            made.append(stop.made)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert made == [False]
