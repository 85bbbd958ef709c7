"""What a record says, from entries written by hand."""

import pytest

from megl_core.errors import IntegrityError
from megl_core.files import canonical_json
from megl_core.registry.history import GENESIS, Entry, check_chain
from megl_core.registry.state import RegistryState, entries_until, state_of
from megl_core.registry.vocabulary import Stage


def entries(*actions: tuple[str, int, dict[str, object]], actor: str = "ann") -> tuple[Entry, ...]:
    """A whole record, one entry a minute."""
    return check_chain(chain(*actions, actor=actor), "m")


def chain(*actions: tuple[str, int, dict[str, object]], actor: str = "ann") -> dict[int, str]:
    import hashlib

    stored: dict[int, str] = {}
    previous = GENESIS
    for number, (action, version, details) in enumerate(actions, start=1):
        fields = {
            "time": f"2026-11-24T10:{number:02d}:00.000+00:00",
            "actor": details.get("by", actor),
            "action": action,
            "version": version,
            "reason": "because",
            "details": {name: value for name, value in details.items() if name != "by"},
            "previous": previous,
        }
        stored[number] = canonical_json(fields).decode()
        previous = hashlib.sha256(stored[number].encode()).hexdigest()
    return stored


def to(stage: str) -> dict[str, object]:
    return {"to": stage}


def where(state: RegistryState) -> tuple[int | None, int | None, list[int]]:
    return state.production, state.staging, state.earlier


def test_a_version_that_enters_production_archives_the_one_before() -> None:
    state = state_of(entries(("promote", 1, to("Production")), ("promote", 2, to("Production"))))
    assert where(state) == (2, None, [1])
    assert state.stages == {1: Stage.ARCHIVED, 2: Stage.PRODUCTION}
    assert state.stage_of(3) is Stage.NONE


def test_the_last_to_enter_staging_holds_its_alias_until_it_leaves() -> None:
    moves = [("promote", 1, to("Staging")), ("promote", 2, to("Staging"))]
    assert where(state_of(entries(*moves))) == (None, 2, [])
    moves.append(("promote", 2, to("Production")))
    assert where(state_of(entries(*moves))) == (2, 1, [])
    moves.append(("promote", 1, to("Archived")))
    assert where(state_of(entries(*moves))) == (2, None, [])


def test_rollbacks_go_back_step_by_step() -> None:
    moves = [("promote", version, to("Production")) for version in (1, 2, 3)]
    moves.append(("rollback", 2, {"from": 3, "to": 2}))
    state = state_of(entries(*moves))
    assert where(state) == (2, None, [1])
    assert state.stages[3] is Stage.ARCHIVED
    moves.append(("rollback", 1, {"from": 2, "to": 1}))
    assert where(state_of(entries(*moves))) == (1, None, [])


def test_a_version_taken_out_of_production_by_hand_is_where_a_rollback_leads() -> None:
    moves = [("promote", 1, to("Production")), ("promote", 1, to("Archived"))]
    assert where(state_of(entries(*moves))) == (None, None, [1])
    moves.append(("rollback", 1, {"from": None, "to": 1}))
    state = state_of(entries(*moves))
    assert where(state) == (1, None, [])
    assert state.stages == {1: Stage.PRODUCTION}


def test_approvals_count_people_not_clicks_and_end_with_the_request() -> None:
    moves = [
        ("request", 1, to("Production")),
        ("approve", 1, {"to": "Production", "request": 1, "by": "bob"}),
        ("approve", 1, {"to": "Production", "request": 1, "by": "bob"}),
        ("approve", 1, {"to": "Production", "request": 1, "by": "cleo"}),
    ]
    asked = state_of(entries(*moves)).request_for(1, Stage.PRODUCTION)
    assert asked is not None
    assert (asked.requester, asked.approvers) == ("ann", ("bob", "cleo"))
    assert state_of(entries(*moves)).request_for(1, Stage.STAGING) is None
    rejected = state_of(entries(*moves, ("reject", 1, {"to": "Production", "request": 1})))
    assert rejected.request_for(1, Stage.PRODUCTION) is None
    moved = state_of(entries(*moves, ("promote", 1, to("Production"))))
    assert moved.requests == []


def test_the_requester_is_not_among_the_approvers() -> None:
    moves = [("request", 1, to("Staging")), ("approve", 1, {"to": "Staging", "request": 1})]
    asked = state_of(entries(*moves)).request_for(1, Stage.STAGING)
    assert asked is not None
    assert asked.approvers == ()


def test_a_record_that_begins_later_takes_over_what_it_found() -> None:
    found = {"Staging": [5, 3], "Production": [2], "Archived": [1]}
    moves = [("register", 6, {}), ("adopt", 2, {"stages": found})]
    state = state_of(entries(*moves))
    assert where(state) == (2, 3, [])
    assert {number: state.stage_of(number) for number in (1, 5, 6)} == {
        1: Stage.ARCHIVED,
        5: Stage.STAGING,
        6: Stage.NONE,
    }
    assert list(state.registered) == [6]
    moves.append(("promote", 3, to("Production")))
    assert where(state_of(entries(*moves))) == (3, 5, [2])


def test_a_number_that_is_registered_again_starts_without_a_stage() -> None:
    moves = [("register", 1, {"of": "a"}), ("register", 2, {"of": "b"})]
    moves += [("promote", 1, to("Production")), ("promote", 2, to("Production"))]
    moves += [("request", 1, to("Staging")), ("register", 1, {"of": "c"})]
    assert where(state_of(entries(*moves))) == (2, None, [])
    moves.append(("register", 2, {"of": "d"}))
    state = state_of(entries(*moves))
    assert where(state) == (None, None, [])
    assert (state.stages, state.requests) == ({}, [])
    assert {number: entry.details["of"] for number, entry in state.registered.items()} == {1: "c", 2: "d"}


def test_the_past_is_the_record_up_to_then() -> None:
    record = entries(("promote", 1, to("Production")), ("promote", 2, to("Production")))
    assert state_of(entries_until(record, "2026-11-24T10:01:30.000+00:00")).production == 1
    assert state_of(entries_until(record, "2026-11-24T10:02:00.000+00:00")).production == 2
    assert state_of(entries_until(record, "2026-11-23T10:00:00.000+00:00")).production is None


THREE = (("register", 1, {}), ("promote", 1, to("Staging")), ("promote", 1, to("Production")))


def test_an_edited_entry_breaks_the_chain_at_the_next() -> None:
    stored = chain(*THREE)
    stored[2] = stored[2].replace("because", "perhaps")
    with pytest.raises(IntegrityError, match=r"entry 3 .* 'm'"):
        check_chain(stored, "m")


def test_a_removed_entry_is_named() -> None:
    stored = chain(*THREE)
    del stored[2]
    with pytest.raises(IntegrityError, match=r"removed\n.*entry 2"):
        check_chain(stored, "m")


def test_swapped_entries_are_found() -> None:
    stored = chain(*THREE)
    stored[1], stored[2] = stored[2], stored[1]
    with pytest.raises(IntegrityError, match="entry 1"):
        check_chain(stored, "m")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"time": 1}', "not json"])
def test_what_is_no_entry_is_named(content: str) -> None:
    with pytest.raises(IntegrityError, match="no entry"):
        check_chain({1: content}, "m")
