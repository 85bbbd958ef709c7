import pytest

from megl_core.errors import UnavailableError
from megl_core.metrics import meteor
from megl_core.metrics.meteor import Meteor
from tests.unit.metrics.test_text import CANDIDATES, REFERENCES

needs_java = pytest.mark.skipif(
    meteor.why_unavailable() is not None, reason=f"METEOR: {meteor.why_unavailable()}"
)


@pytest.mark.slow
@needs_java
def test_meteor_matches_the_public_wrapper():
    """The same program, fed by pycocoevalcap with the same words; it takes seconds to start."""
    from pycocoevalcap.meteor.meteor import Meteor as Public

    theirs = (dict(enumerate(REFERENCES)), {place: [text] for place, text in enumerate(CANDIDATES)})
    public = Public()
    with Meteor() as program:
        expected, of_each = public.compute_score(*theirs)
        assert program.score(CANDIDATES, REFERENCES) == pytest.approx(expected)
        for place, own in enumerate(of_each):
            assert program.score(CANDIDATES[place : place + 1], REFERENCES[place : place + 1]) == own
        assert program.score(["", "the same"], [["a ring"], ["The same!"]]) < 1.0
        assert program.score(["the same"], [["other words", "the same"]]) == 1.0
        assert program.score(["grün"], [["grün"]]) == 1.0
        assert program.score(["nothing"], [["in common"]]) == 0.0
        assert program.score([], []) != program.score([], [])  # NaN


@needs_java
def test_a_program_that_ended_is_no_endless_wait():
    with Meteor() as program:
        program._program.kill()
        with pytest.raises(UnavailableError, match="ended early"):
            program.score(["a"], [["a"]])


def test_without_java_the_reason_is_given(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert meteor.why_unavailable() == "no Java on this machine"
    with pytest.raises(UnavailableError, match="no Java on this machine"):
        Meteor()
