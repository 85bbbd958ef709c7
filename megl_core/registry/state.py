"""What the record of a model says: a replay of its entries, without a look at MLflow."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from megl_core.registry.history import Entry
from megl_core.registry.vocabulary import Stage


@dataclass(frozen=True)
class Request:
    """A promotion that somebody asked for and that is not decided yet.

    Attributes:
        number: of the entry.
        approvers: who approved it; each counts once, and the requester not at all.
    """

    number: int
    version: int
    stage: Stage
    requester: str
    approvers: tuple[str, ...] = ()


@dataclass
class RegistryState:
    """Where every version of a model stands after some entries.

    Attributes:
        stages: of the versions that were ever moved; all others are in `Stage.NONE`.
        production: the version in Production.
        staging: the last of the versions in Staging.
        earlier: versions that were in Production before, the last one last: where a rollback leads.
        registered: the entry of each version's last registration.
        requests: undecided promotions.
    """

    stages: dict[int, Stage] = field(default_factory=dict)
    production: int | None = None
    staging: int | None = None
    earlier: list[int] = field(default_factory=list)
    registered: dict[int, Entry] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def stage_of(self, version: int) -> Stage:
        return self.stages.get(version, Stage.NONE)

    def holder_of(self, stage: Stage) -> int | None:
        """The version that the aliases of Staging or Production are for."""
        return {Stage.STAGING: self.staging, Stage.PRODUCTION: self.production}.get(stage)

    def request_for(self, version: int, stage: Stage) -> Request | None:
        """The undecided request for this promotion."""
        return next((one for one in self.requests if (one.version, one.stage) == (version, stage)), None)


def state_of(entries: Iterable[Entry]) -> RegistryState:
    """Replay a record from its beginning."""
    state = RegistryState()
    for entry in entries:
        _ACTIONS.get(entry.action, _nothing)(state, entry)
    return state


def state_without_record(stages: Mapping[str, Sequence[int]]) -> RegistryState:
    """What a registry says that has no record: the versions of each stage, its holder last."""
    state = RegistryState()
    for stage, versions in stages.items():
        for version in versions:
            _enter(state, version, Stage(stage))
    return state


def entries_until(entries: Sequence[Entry], time: str) -> list[Entry]:
    """The entries up to and including a moment (ISO 8601, UTC)."""
    return [entry for entry in entries if entry.time <= time]


def _registered(state: RegistryState, entry: Entry) -> None:
    """A number that comes again is another version: the registered model was deleted and made anew."""
    number = entry.version
    if number in state.registered:
        state.stages.pop(number, None)
        state.production = None if state.production == number else state.production
        state.staging = _last(state, Stage.STAGING)
        state.earlier = [version for version in state.earlier if version != number]
        state.requests = [one for one in state.requests if one.version != number]
    state.registered[number] = entry


def _adopted(state: RegistryState, entry: Entry) -> None:
    found = state_without_record(entry.details["stages"])
    state.stages, state.production, state.staging = found.stages, found.production, found.staging


def _promoted(state: RegistryState, entry: Entry) -> None:
    stage = Stage(entry.details["to"])
    if stage is Stage.PRODUCTION or entry.version == state.production:
        _leave_production(state)
    _enter(state, entry.version, stage)
    state.requests = [one for one in state.requests if one.version != entry.version]


def _rolled_back(state: RegistryState, entry: Entry) -> None:
    if state.production is not None:
        state.stages[state.production] = Stage.ARCHIVED
    while state.earlier and state.earlier.pop() != entry.version:
        pass
    _enter(state, entry.version, Stage.PRODUCTION)


def _leave_production(state: RegistryState) -> None:
    if state.production is not None:
        state.earlier.append(state.production)
        state.stages[state.production] = Stage.ARCHIVED
        state.production = None


def _enter(state: RegistryState, version: int, stage: Stage) -> None:
    state.stages.pop(version, None)  # the last to enter stands last
    state.stages[version] = stage
    if stage is Stage.PRODUCTION:
        state.production = version
    state.staging = _last(state, Stage.STAGING)


def _last(state: RegistryState, stage: Stage) -> int | None:
    found = [number for number, where in state.stages.items() if where is stage]
    return found[-1] if found else None


def _requested(state: RegistryState, entry: Entry) -> None:
    stage = Stage(entry.details["to"])
    if state.request_for(entry.version, stage) is None:
        state.requests.append(Request(entry.number, entry.version, stage, entry.actor))


def _approved(state: RegistryState, entry: Entry) -> None:
    for place, request in enumerate(state.requests):
        counted = (request.requester, *request.approvers)
        if request.number == entry.details["request"] and entry.actor not in counted:
            state.requests[place] = replace(request, approvers=(*request.approvers, entry.actor))


def _rejected(state: RegistryState, entry: Entry) -> None:
    state.requests = [one for one in state.requests if one.number != entry.details["request"]]


def _nothing(state: RegistryState, entry: Entry) -> None:
    """Entries that move nothing."""


_ACTIONS = {
    "adopt": _adopted,
    "register": _registered,
    "promote": _promoted,
    "rollback": _rolled_back,
    "request": _requested,
    "approve": _approved,
    "reject": _rejected,
}
