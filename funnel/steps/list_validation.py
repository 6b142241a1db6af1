"""The choice of a run: how its final lists are ordered, by what lists of the validation window
would have held.

The validation window lies between a tower's instant, `since`, and test_start, and is as long as the
test window or longer. Its lists are recall's as of `since`, blended by what was fitted on other
instants and ordered by the ranker that was trained on the rows before it. They are evaluated as
lists: by the off-policy estimate where the log has propensities, else by the seconds (or watches)
that they hold of what their users went on to watch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from features.arrays import Flags, Float64, Int32, Int64
from features.histories import Histories
from features.random_streams import Stream, rng_of
from funnel.context import VALIDATION, StepContext, logs_impressions, saved_candidates
from funnel.evaluation.evaluation_data import JUDGED_AT, clicks_between, cutoffs
from funnel.evaluation.list_metrics import gains_of
from funnel.evaluation.off_policy_report import logged_slots
from funnel.steps.ordering import CHOICE, lists_of, taking_part, unreserved
from ranking.list_order import CHANCE_WEIGHTS, RECALLS_ORDER, Gains, ListOrder
from ranking.model import Ranker
from ranking.off_policy import evaluated
from ranking.policies import Logged, Policy, softmax_of_places
from ranking.recommend import Ordered, ordered, recommender_of
from recall import labelled_lists
from recall.candidates import Candidates
from recall.generators.popular import counts_by_span, popular_lists_by_span
from recall.metrics import RelevantItems
from recall.tower import Tower

FLAGS = "validation.npy"
# What validates a ranker: rows of the window, rows of some users, or nothing.
WINDOW, USERS, NOTHING = "window", "users", "nothing"
# Where all lists are of one instant, so many of the users validate.
VALIDATION_SHARE = 0.2
REPLAY, OFF_POLICY = "what lists hold", "off-policy"


def validation_tower(context: StepContext) -> Tower:
    """The tower whose instant the validation window starts from."""
    return labelled_lists.validation_tower(context.towers, context.split.label_start)


def validation_rows(
    context: StepContext, users: Int32, timestamps_us: Int64, clicked: Flags
) -> tuple[Flags, str]:
    """Which training rows [n] validate, and what they are: those of the validation `window`, or,
    where all rows are lists of one instant, those of a fifth of the `users`; `nothing` where the
    others could teach nothing.
    """
    since = validation_tower(context).shape.as_of
    earlier = timestamps_us < since
    flags = ~earlier if earlier.any() else validation_users(context)[users]
    taught = clicked[~flags]
    if not flags.any() or taught.sum() < 2 or taught.all():
        return np.zeros(len(users), bool), NOTHING
    return flags, WINDOW if earlier.any() else USERS


def validation_users(context: StepContext) -> Flags:
    """A fifth of all users at random, by index."""
    draws = rng_of(context.config.seed, Stream.VALIDATION_USERS).random(len(context.ids.users))
    fifth: Flags = draws < VALIDATION_SHARE
    return fifth


@dataclass(frozen=True)
class OrderTrial:
    """One way to order lists on the validation window.

    `value` is what is compared: the mean logarithm of the seconds held at 10 and 50 places, or the
    lower bound of the off-policy estimate. `behind` is by how much the best is ahead, and `error`
    the standard error of that (0 for lower bounds, which are cautious already). An order that holds
    less than recall's at some length, by more than a standard error, is not `harmless` and never
    chosen: no stage may do harm.
    """

    order: ListOrder
    value: float
    shares: Mapping[str, float]
    behind: float
    error: float
    harmless: bool = True


def choose_order(context: StepContext) -> dict[str, Any]:
    """The order of the run's lists, and why: the measure, every trial, and the rivals on the same
    window.
    """
    validates = json.loads((context.inputs["ranking_rows"] / "summary.json").read_text())[
        "validates"
    ]
    if validates == NOTHING:
        return _settled(_default(context), "the log before the validation window teaches no ranker")
    validation = Validation(context, validates)
    if not len(validation.candidates) or not validation.clicks[1].sum():
        return _settled(
            _default(context), "nobody with a list watched anything in the validation window"
        )
    return validation.choice()


def _default(context: StepContext) -> ListOrder:
    return orders_to_try(context, saved_candidates(context.inputs["candidates"]))[0]


def _settled(order: ListOrder, reason: str) -> dict[str, Any]:
    return {
        "order": order.model_dump(),
        "described": order.described,
        "measure": None,
        "reason": reason,
        "trials": [],
    }


@dataclass(frozen=True)
class Validation:
    """The validation window's lists and what became of them; `validates` says which rows no ranker
    learnt from.
    """

    context: StepContext
    validates: str

    @property
    def tower(self) -> Tower:
        return validation_tower(self.context)

    @cached_property
    def candidates(self) -> Candidates:
        saved = saved_candidates(self.context.inputs["candidates"] / VALIDATION)
        rows = (
            validation_users(self.context)[saved.users]
            if self.validates == USERS
            else np.ones(len(saved), bool)
        )
        return saved.take(np.flatnonzero(rows))

    @cached_property
    def clicks(self) -> tuple[RelevantItems, Float64]:
        """What the users of the lists clicked in the window, and T."""
        since, until = self.tower.shape.as_of, self.context.split.test_start
        return clicks_between(self.context, self.candidates.users, since, until)

    @cached_property
    def seconds(self) -> Float64:
        """What the ranker that never saw the window expects of each candidate, [n, k]."""
        ranker = Ranker.load(self.context.inputs["ranker"] / VALIDATION)
        as_of = self.tower.shape.as_of
        recommender = recommender_of(
            ranker, self.context.features, as_of, len(self.context.ids.items)
        )
        return recommender.expected_seconds(lists_of(self.context, self.candidates, self.tower))

    def ordered(self, order: ListOrder) -> Ordered:
        """The lists in an order, as long as final ones."""
        candidates = taking_part(self.candidates, order)
        lists = lists_of(self.context, candidates, self.tower, order.chance_of)
        return ordered(
            lists, self.seconds[:, : lists.items.shape[1]], order, self.context.config.ranking.top_k
        )

    def choice(self) -> dict[str, Any]:
        """The chosen order, and every trial."""
        orders = orders_to_try(self.context, self.candidates, cut=self.slots is None)
        lists = [self.ordered(order) for order in orders]
        bounds = self._bounds(lists)
        trials = (
            self._replayed(orders, lists)
            if bounds is None
            else self._bounded(orders, lists, bounds)
        )
        chosen = first_within_an_error(trials)
        return {
            "order": orders[chosen].model_dump(),
            "described": orders[chosen].described,
            "measure": REPLAY if bounds is None else OFF_POLICY,
            "users": len(self.candidates),
            "trials": [
                _row(trial) | {"chosen": number == chosen} for number, trial in enumerate(trials)
            ],
            "rivals": [
                {"list": name, **self.shares(items)} for name, items in self.popular.items()
            ],
        }

    def gains(self, items: Int32) -> Gains:
        """What lists hold of what their users went on to watch."""
        clicks, seconds = self.clicks
        return gains_of(self._lengths, items, clicks, seconds)

    def shares(self, items: Int32) -> dict[str, float]:
        """Share of all watch seconds of the window that lists hold, by length."""
        total = float(self.clicks[1].sum())
        return {
            f"watch_seconds_share@{k}": float(held.sum()) / total
            for k, held in self.gains(items).by_length.items()
        }

    @cached_property
    def popular(self) -> Mapping[str, Int32]:
        """What was most watched before the window, by span, for the same users."""
        context, as_of = self.context, self.tower.shape.as_of
        seen, size = (
            Histories.load(context.inputs["histories"] / "clicks"),
            context.ids.items.size_as_of(as_of),
        )
        counts = counts_by_span(
            context.user_inputs.histories, size, as_of, context.split.clock == "time"
        )
        return popular_lists_by_span(
            counts, self.candidates.users, seen, as_of, context.config.ranking.top_k
        )

    @property
    def _lengths(self) -> list[int]:
        return cutoffs(JUDGED_AT, self.context.config.ranking.top_k)

    def _replayed(self, orders: Sequence[ListOrder], lists: Sequence[Ordered]) -> list[OrderTrial]:
        gains = [self.gains(each.items) for each in lists]
        recalls = next(
            (g for o, g in zip(orders, gains, strict=True) if o.described == RECALLS_ORDER), None
        )
        harmless = [recalls is None or not held.harms(recalls) for held in gains]
        best = max(
            (g for g, allowed in zip(gains, harmless, strict=True) if allowed),
            key=lambda each: each.log_total,
        )
        return [
            OrderTrial(
                order,
                held.log_total,
                self.shares(each.items),
                best.log_total - held.log_total,
                held.standard_error(best),
                allowed,
            )
            for order, each, held, allowed in zip(orders, lists, gains, harmless, strict=True)
        ]

    def _bounded(
        self, orders: Sequence[ListOrder], lists: Sequence[Ordered], bounds: Sequence[float]
    ) -> list[OrderTrial]:
        best = max(bounds)
        pairs = zip(orders, lists, bounds, strict=True)
        return [
            OrderTrial(order, bound, self.shares(each.items), best - bound, 0.0)
            for order, each, bound in pairs
        ]

    @cached_property
    def slots(self) -> Logged | None:
        """The window's slots with their propensities; None where the log has none."""
        since, until = self.tower.shape.as_of, self.context.split.test_start
        return logged_slots(self.context, self.candidates.users, since, until)

    def _bounds(self, lists: Sequence[Ordered]) -> list[float] | None:
        """The lower bound of each list's off-policy estimate in the window's slots; None where
        there is none.
        """
        context, slots = self.context, self.slots
        config = context.config.off_policy
        if slots is None:
            return None
        bounds = []
        for each in lists:
            items = each.items[:, : config.k]
            policy = Policy(
                each.users,
                items,
                softmax_of_places(items, config.temperature),
                each.seconds[:, : config.k],
            )
            # The same draws of users for every list, so that chance does not tell them apart.
            found = evaluated(
                policy,
                slots,
                config.least_effective_sample,
                rng_of(context.config.seed, Stream.VALIDATION_BOOTSTRAP),
            )
            bounds.append(found.doubly_robust.low)
        return None if np.isnan(bounds).any() else bounds


def orders_to_try(
    context: StepContext, candidates: Candidates, cut: bool = True
) -> list[ListOrder]:
    """The orders, the preferred first: seconds times chance, recall's, each generator's alone.

    Recall's comes first where the log does not say what was shown: the ranker has then learnt from
    recall's own lists, and has to show that it adds to them. The ranker orders all candidates, and
    where they are also to be `cut` all but those in kept places, or fewer. With
    `ranking.chance_weight` only that is chosen.
    """
    given, top_k = context.config.ranking.chance_weight, context.config.ranking.top_k
    own, all_of_them = unreserved(context.config, candidates), candidates.items.shape[1]
    depths = dict.fromkeys(
        (own, min(2 * top_k, own), min(top_k, own), all_of_them) if cut else (all_of_them,)
    )
    weights = CHANCE_WEIGHTS if given is None else (given,)
    orders = [
        ListOrder(chance_weight=weight, depth=depth) for weight in weights for depth in depths
    ]
    if given is not None:
        return orders
    recalls = [ListOrder(seconds_weight=0)]
    alone = [ListOrder(seconds_weight=0, chance_of=name) for name in candidates.ranks]
    shown = logs_impressions(context)
    return orders + recalls + alone if shown else recalls + orders + alone


def first_within_an_error(trials: Sequence[OrderTrial]) -> int:
    """The first harmless trial, in order of preference, that is not behind the best by more than a
    standard error.

    Seconds are heavy-tailed, validation users few, and each day has its own items: what is not
    clearly better is no reason to leave the preferred. The preferred one, too, where no list holds
    anything.
    """
    fit = (trial.harmless and (trial.behind <= trial.error or not trial.behind) for trial in trials)
    return next((number for number, chosen in enumerate(fit) if chosen), 0)


def _row(trial: OrderTrial) -> dict[str, Any]:
    return {
        "list": trial.order.described,
        "value": trial.value,
        "behind_best": trial.behind,
        "standard_error": trial.error,
        "harmless": trial.harmless,
        **trial.shares,
    }


def choice_of(folder: Path) -> dict[str, Any]:
    """What an artefact `list_order` says of the choice."""
    choice: dict[str, Any] = json.loads((folder / CHOICE).read_text())
    return choice


def choice_text(choice: Mapping[str, Any]) -> str:
    """The choice in a sentence: the order, by what, ahead of what."""
    if choice["measure"] is None:
        return f"lists are ordered by {choice['described']}: {choice['reason']}"
    chosen = next(trial for trial in choice["trials"] if trial["chosen"])
    recall = [trial for trial in choice["trials"] if trial["list"] == RECALLS_ORDER]
    shares = ", ".join(f"{name} {chosen[name]:.4f}" for name in chosen if "@" in name)
    beside = "".join(
        f" (recall's order {', '.join(f'{t[n]:.4f}' for n in t if '@' in n)})" for t in recall
    )
    why = (
        "none is ahead of it by more than a standard error" if chosen["behind_best"] else "the best"
    )
    return (
        f"lists are ordered by {choice['described']}, chosen by {choice['measure']} ({why}): "
        f"{shares}{beside}"
    )
