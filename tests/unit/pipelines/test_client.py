"""What is checked before a server is asked: cron lines, zones, addresses, arguments."""

import pytest

from megl_core.errors import ConfigError
from pipelines.client import Server, fitting
from pipelines.schedules import Timing, six_fields, timing

PACKAGE = b"""
pipelineInfo: {name: megl-training}
root:
  inputDefinitions:
    parameters:
      data: {parameterType: STRING}
      stage: {parameterType: STRING, defaultValue: Staging}
"""


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("0 3 * * 1", "0 0 3 * * 1"),
        ("30 0 2 * * 0", "30 0 2 * * 0"),
        ("*/15 8-18 1,15 jan-mar MON-FRI", "0 */15 8-18 1,15 jan-mar MON-FRI"),
    ],
)
def test_a_line_of_five_fields_starts_at_second_0(given: str, sent: str) -> None:
    assert six_fields(given) == sent


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("0 3 * *", "4 fields"),
        ("60 3 * * 1", "minute"),
        ("0 24 * * 1", "hour"),
        ("0 3 0 * 1", "day"),
        ("0 3 * 13 1", "month"),
        ("0 3 * * 7", "weekday"),
        ("0 18-8 * * 1", "hour"),
        ("*/0 3 * * 1", "minute"),
        ("0 3 * * 1,", "weekday"),
        ("CRON_TZ=UTC 0 0 3 * * 1", "7 fields"),
    ],
)
def test_a_line_that_the_server_would_refuse_is_refused_here(line: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        six_fields(line)


def test_a_zone_is_taken_where_the_server_reads_in_it_and_refused_elsewhere() -> None:
    assert timing("0 3 * * 1", "Europe/Berlin", "Europe/Berlin") == Timing("0 0 3 * * 1", "Europe/Berlin")
    with pytest.raises(ConfigError, match="CRON_SCHEDULE_TIMEZONE=Europe/Berlin"):
        timing("0 3 * * 1", "Europe/Berlin", "UTC")
    with pytest.raises(ConfigError, match="no time zone 'Europe/Berlim'"):
        timing("0 3 * * 1", "Europe/Berlim", "UTC")


@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://host", "http://me:secret@host", "http://h?token=secret"]
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Server(url)
    assert "secret@" not in str(caught.value)
    assert "=secret" not in str(caught.value)


def test_a_package_gets_the_arguments_it_takes_and_no_others() -> None:
    assert fitting(PACKAGE, {"data": "{}", "code": "abc"}) == {"data": "{}"}
    with pytest.raises(ConfigError, match="needs data"):
        fitting(PACKAGE, {"stage": "Staging"})
