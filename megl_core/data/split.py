"""Splitting by group, stratified by label: seeded, and blind to the order of the rows."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from megl_core.config import SplitConfig
from megl_core.data.contract import TEST, TRAIN, VAL


@dataclass(slots=True)
class _Group:
    """Rows that must stay together."""

    order: str
    rows: list[int] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)
    declared: Counter[str] = field(default_factory=Counter)

    @property
    def label(self) -> str:
        return _most_common(self.labels)


def assign_splits(
    ids: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[str | None],
    declared: Sequence[str | None],
    config: SplitConfig,
) -> list[str]:
    """The split of every row.

    A declared split is kept. The other rows follow the declared members of their group, if there
    are any (the most frequent split among them); the rest is divided so that no group crosses
    splits, each label keeps its shares as nearly as its groups allow, and each label keeps a group
    in `train`. A row without group stands alone, under its id.
    """
    by_label: defaultdict[str, list[_Group]] = defaultdict(list)
    splits = [split or "" for split in declared]
    for group in _collect(ids, labels, groups, declared, config.seed):
        if group.declared:
            _put(group, _most_common(group.declared), splits)
        else:
            by_label[group.label].append(group)
    trained = {label for label, split in zip(labels, splits, strict=True) if split == TRAIN}
    carry = dict.fromkeys(_shares(config), 0.0)
    for label in sorted(by_label):
        carry = _divide(by_label[label], carry, splits, config, train_first=label not in trained)
    return splits


def _collect(
    ids: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[str | None],
    declared: Sequence[str | None],
    seed: int,
) -> list[_Group]:
    collected: dict[tuple[str, str], _Group] = {}
    rows = zip(ids, labels, groups, declared, strict=True)
    for row, (identifier, label, name, split) in enumerate(rows):
        key = ("id", identifier) if name is None else ("group", name)
        if key not in collected:
            order = hashlib.sha256("\0".join((str(seed), *key)).encode()).hexdigest()
            collected[key] = _Group(order)
        group = collected[key]
        group.rows.append(row)
        group.labels[label] += 1
        if split is not None:
            group.declared[split] += 1
    return list(collected.values())


def _divide(
    groups: list[_Group],
    carry: dict[str, float],
    splits: list[str],
    config: SplitConfig,
    *,
    train_first: bool,
) -> dict[str, float]:
    """Give each group, largest first, to the split that lacks most; return the rounding that is left.

    At most one row of rounding passes on, so that rare labels add up to the shares while the
    groups of one label cannot unbalance the next.
    """
    total = sum(len(group.rows) for group in groups)
    need = {split: carry[split] + share * total for split, share in _shares(config).items()}
    for group in sorted(groups, key=lambda group: (-len(group.rows), group.order)):
        split = TRAIN if train_first else max(need, key=lambda name: need[name])
        train_first = False
        need[split] -= len(group.rows)
        _put(group, split, splits)
    return {split: min(max(rest, -1.0), 1.0) for split, rest in need.items()}


def _shares(config: SplitConfig) -> dict[str, float]:
    shares = {TRAIN: 1.0 - config.val - config.test, VAL: config.val, TEST: config.test}
    return {split: share for split, share in shares.items() if share > 0}


def _put(group: _Group, split: str, splits: list[str]) -> None:
    for row in group.rows:
        splits[row] = splits[row] or split


def _most_common(counts: Counter[str]) -> str:
    return min(counts, key=lambda name: (-counts[name], name))
