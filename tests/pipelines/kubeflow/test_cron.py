"""Cron as people write it, as Kubeflow takes it."""

import pytest

from paring.errors import ParameterError
from paring_pipelines.kubeflow.cron import read_cron, said


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("0 30 3 * * *", "0 30 3 * * *"),
        ("30 3 * * *", "0 30 3 * * *"),
        ("  */15   8-17 * * mon-FRI ", "0 */15 8-17 * * mon-FRI"),
        ("0 0 9 ? * 2-6", "0 0 9 ? * 2-6"),
        ("0,30 1/5 * 1,15 JAN,jul *", "0,30 1/5 * 1,15 JAN,jul *"),
        ("@daily", "0 0 0 * * *"),
        ("30 3 * * 7", "0 30 3 * * 0"),
        ("30 3 * * 5-7", "0 30 3 * * 0,5,6"),
        ("30 3 * * 1-7/2,WED", "0 30 3 * * 0,1,3,5,WED"),
        ("0 0 29 2 *", "0 0 0 29 2 *"),
        ("0 0 31 2 1", "0 0 0 31 2 1"),
        ("0 0 31,30 */2 ?", "0 0 0 31,30 */2 ?"),
        ("*/60 */24 */31 */12 */7", "0 */60 */24 */31 */12 */7"),
    ],
)
def test_six_fields_five_and_nicknames_are_read(text: str, read: str) -> None:
    assert read_cron(text) == read


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "six fields"),
        ("* * * *", "six fields"),
        ("0 0 0 * * * 2030", "six fields"),
        ("@reboot", "six fields"),
        ("60 * * * *", "'60' is no minute"),
        ("0 24 * * *", "'24' is no hour"),
        ("0 0 0 * *", "'0' is no day of month"),
        ("0 0 * 13 *", "'13' is no month"),
        ("0 0 * * 8", "'8' is no day of week"),
        ("0 0 * * 6-1", "'6-1' is no day of week"),
        ("² * * * *", "'²' is no minute"),
        ("٣ * * * *", "'٣' is no minute"),
        ("TZ=UTC 30 3 * * *", "Kubeflow takes no time zone"),
        ("CRON_TZ=Asia/Tokyo 0 30 3 * * *", "Kubeflow takes no time zone"),
        ("0 0 31 2 *", "no month that is named has this day"),
        ("0 0 31 4,6,9-9,NOV ?", "no month that is named has this day"),
        ("0 0 30/1 feb *", "no month that is named has this day"),
        ("0 17-8 * * *", "'17-8' is no hour"),
        ("*/0 * * * *", "'\\*/0' is no minute"),
        ("0 0 * fun *", "'fun' is no month"),
        ("1,,2 * * * *", "'' is no minute"),
        ("*/90 * * * *", r"step of 90, and there are 60 values of minute, .* mean minute 0 alone"),
        ("*/61 * * * * *", "would mean second 0 alone"),
        ("0 8/25 * * *", "there are 24 values of hour, so it would mean hour 8 alone"),
        ("0 0 */32 * *", "would mean day of month 1 alone"),
        ("0 0 1 JAN-jun/13 *", "would mean month JAN alone"),
        ("0 0 * * 1-5/8", "there are 7 values of day of week, so it would mean .* 1 alone"),
    ],
)
def test_what_is_no_cron_is_named_by_its_field(text: str, named: str) -> None:
    with pytest.raises(ParameterError, match=named):
        read_cron(text)


def test_it_is_said_back_by_field() -> None:
    assert said("0 30 3 * * *") == (
        "second 0, minute 30, hour 3, day of month *, month *, day of week *"
    )
