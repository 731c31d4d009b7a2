"""The search, on machines whose throughput is a formula."""

from collections.abc import Callable

import pytest

from paring.benchmarking.batch_search import Bounds, Search, Setting, Trial

Machine = Callable[[Setting], Trial]
WIDE = Bounds(min_batch=1, max_batch=1024, max_instances=8, cores=8)


def _machine(setting: Setting, best_batch: int = 1 << 20) -> Trial:
    """A call costs 10 ms and 1 ms for each example; threads help by half."""
    speed = 1 + (setting.threads - 1) / 2
    batch = setting.batch_size
    milliseconds = (10 + batch + max(0, batch - best_batch) ** 2) / speed
    return Trial(
        setting,
        milliseconds,
        milliseconds,
        setting.instances * batch * 1e3 / milliseconds,
        setting.instances * (100 + batch),
    )


def _search(
    machine: Machine, bounds: Bounds = WIDE, max_trials: int = 100, seconds: int = 100
) -> tuple[list[Trial], Search]:
    left = iter(range(seconds))
    search = Search(
        machine, bounds, max_trials=max_trials, may_go_on=lambda: next(left, None) is not None
    )
    return search.run(), search


def _limited(fits: Callable[[Trial], bool]) -> Machine:
    def attempt(setting: Setting) -> Trial:
        trial = _machine(setting)
        if fits(trial):
            return trial
        return Trial(
            setting, trial.p50_ms, trial.p99_ms, trial.throughput, why_not="over the limit"
        )

    return attempt


def test_processes_are_chosen_where_threads_help_less() -> None:
    (best, *_), search = _search(_machine)
    assert (best.setting.threads, best.setting.instances) == (1, 8)
    # Beyond this, twice the batch gives less than the 3% that count.
    assert best.setting.batch_size >= 256
    assert len(search.trials) < 40
    assert "neighbouring" in search.ended


def test_the_batch_stops_where_throughput_does() -> None:
    (best, *_), _ = _search(lambda setting: _machine(setting, best_batch=50))
    assert 40 <= best.setting.batch_size <= 60


def test_the_batch_is_refined_below_a_limit() -> None:
    (best, *_), _ = _search(_limited(lambda trial: (trial.p99_ms or 0) <= 10 + 60))
    # Doubling alone would end at 32.
    assert 32 < best.setting.batch_size <= 60
    assert best.why_not == ""


def test_what_does_not_fit_rules_out_what_asks_for_more() -> None:
    _, search = _search(_limited(lambda trial: (trial.peak_memory_bytes or 0) < 300))
    unfit = [item.setting for item in search.trials.values() if item.why_not]
    assert unfit
    for index, item in enumerate(unfit):
        for later in unfit[index + 1 :]:
            assert not (
                later.threads == item.threads
                and later.batch_size >= item.batch_size
                and later.instances >= item.instances
            )


def test_more_threads_are_tried_where_one_is_too_slow() -> None:
    (best, *_), search = _search(_limited(lambda trial: (trial.p99_ms or 0) <= 5))
    assert next(iter(search.trials)) == Setting(1, 1, 1)
    assert best.setting.threads >= 4
    assert best.p99_ms is not None
    assert best.p99_ms <= 5


def test_nothing_is_found_where_nothing_fits() -> None:
    result, search = _search(_limited(lambda trial: False))
    assert result == []
    assert [item.threads for item in search.trials] == [1, 2, 4, 8]


def test_a_fixed_batch_stays() -> None:
    (best, *_), search = _search(_machine, Bounds(4, 4, 8, 8))
    assert best.setting == Setting(4, 1, 8)
    assert {trial.batch_size for trial in search.trials} == {4}


@pytest.mark.parametrize("cores", [1, 2, 3, 6])
def test_threads_times_processes_never_exceed_the_cores(cores: int) -> None:
    _, search = _search(_machine, Bounds(1, 64, cores, cores))
    assert max(trial.threads * trial.instances for trial in search.trials) <= cores


def test_the_bounds_of_trials_and_time_are_kept() -> None:
    _, few = _search(_machine, max_trials=5)
    assert (len(few.trials), few.ended) == (5, "max_trials were tried")
    result, late = _search(_machine, seconds=0)
    assert (len(late.trials), late.ended) == (1, "budget_seconds were over")
    assert [item.setting for item in result] == [Setting(1)]


def test_no_setting_is_tried_twice() -> None:
    tried: list[Setting] = []

    def attempt(setting: Setting) -> Trial:
        tried.append(setting)
        return _machine(setting, best_batch=20)

    _search(attempt)
    assert len(tried) == len(set(tried))
