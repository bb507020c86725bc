"""Checks what a training begins with: an earlier part of its run, or the weights of another model."""

from pathlib import Path

from torch import Tensor

from nbflows import pretrained, provenance, ranks, recipes
from nbflows.flow import Flow
from nbflows.recipes import Recipe
from nbflows.training.runs import read_log
from nbflows.training.schedule import Budget


def require_same_run(before: dict, recipe: Recipe, trained_on: dict, out: Path) -> None:
    """Raises ValueError if a run cannot go on with these data or with this recipe, naming both sides."""
    another = f"or begin another run with its weights, --start-from {out} and another --out"
    if not provenance.same(before["data"], trained_on):
        raise ValueError(
            f"the run in {out} is of other data: {provenance.against(before['data'], trained_on)}. Resume it with its "
            f"own, {another}"
        )
    fixed = [change for change in _changes(before["recipe"], recipe.to_json()) if change[0] not in recipes.CHANGEABLE]
    if fixed:
        listed = ", ".join(f"{name} is {old!r} there and {new!r} here" for name, old, new in fixed[:3])
        raise ValueError(f"the run in {out} is of another recipe: {listed}. Resume it with its own, {another}")


def _changes(before: dict, now: dict) -> list[tuple[str, object, object]]:
    return [(name, before[name], value) for name, value in now.items() if name in before and before[name] != value]


def say_changes(before: dict, now: dict) -> None:
    """Prints the settings in which a resumed run differs from its earlier part."""
    sides = ({**run["recipe"], "precision": run["precision"]} for run in (before, now))
    changes = [change for change in _changes(*sides) if change[0] not in ("description", "data")]
    if changes:
        print("resuming with " + ", ".join(f"{name} {new!r} (before: {old!r})" for name, old, new in changes))


def require_unscored(out: Path, step: int, seconds: float, budget: Budget) -> None:
    """Raises ValueError if a run whose budget is used has its test score too: then there is nothing left to do."""
    if not any(row["step"] == step - 1 and "test_bits_per_dim" in row for row in read_log(out)):
        return
    if step >= budget.steps:
        raise ValueError(
            f"the run is at step {step} already, and it was asked to end at {budget.steps}; nothing to train, give "
            "more --max-steps or epochs"
        )
    raise ValueError(
        f"the run has been trained for {seconds / 60:.1f} minutes already, and it was asked to end after "
        f"{budget.seconds / 60:g}; nothing to train, give more --max-minutes"
    )


def require_same_tensors(theirs: dict[str, Tensor], ours: dict[str, Tensor], whose: str) -> None:
    """Raises ValueError if weights do not fit a model, naming some that differ."""
    different = [
        f"{name} is {' against '.join(str(list(s[name].shape)) if name in s else 'missing' for s in (theirs, ours))}"
        for name in {**theirs, **ours}
        if name not in theirs or name not in ours or theirs[name].shape != ours[name].shape
    ]
    if different:
        raise ValueError(
            f"the weights of {whose} do not fit this recipe's model: {len(different)} of {len(ours)} tensors differ, "
            f"there against here {'; '.join(different[:3])}. Take a model of the same recipe and size"
        )


def take_weights(model: str | Path, flow: Flow, trained_on: dict) -> dict:
    """Gives a flow the weights of another model; returns what its JSON says of that. ValueError if they do not fit."""
    theirs, known = pretrained.load(model), pretrained.describe(model)
    require_same_tensors(theirs.state_dict(), flow.state_dict(), str(model))
    levels = theirs.num_grey_levels, flow.num_grey_levels
    if levels[0] != levels[1]:
        raise ValueError(
            f"the weights of {model} are for images of {levels[0]} grey levels, these have {levels[1]}; start from a "
            "model of the same data"
        )
    flow.load_state_dict(theirs.state_dict())
    data = provenance.part(known, "trained_on", model)
    if ranks.is_first() and not (
        provenance.same(data, trained_on) if data else known.get("data") == trained_on["variant"]
    ):
        # Not refused: to go on with other images is what a small set of them needs.
        print(
            f"starting from a model of other data: {model} was trained on {known.get('data', 'data unknown')}, this "
            f"training is on {trained_on['variant']}. If test images of these were among its training images, the "
            "test score means nothing"
        )
    kept = ("data", "steps", "seconds", "started_from")
    # An absolute path is of this machine alone: its last part says which model it was.
    name = Path(model).name if Path(model).is_absolute() else str(model)
    return {"model": name, **{key: known[key] for key in kept if key in known}}
