"""Figures of scores over the time of training."""

from nbflows import plotting


def test_training_curve_draws_training_and_validation():
    history = [{"step": step, "bits_per_dim": 3.0 - step} for step in range(3)]
    history.append({"step": 2, "validation_bits_per_dim": 2.0})
    (axes,) = plotting.training_curve(history, title="falling").axes
    assert len(axes.lines) == 2 and axes.get_title() == "falling" and axes.get_xlabel() == "training step"
    (axes,) = plotting.training_curve(history, references={"guessing": 4.0}).axes
    assert axes.lines[2].get_label() == "guessing: 4.00" and axes.get_ylim()[1] > 4


def test_scores_over_minutes_keep_kinds_apart_and_draw_the_reference_in_both():
    scores = {"bounds": {"a": {2: (1.2, 0.01), 5: (1.1, 0.01)}, "b": {5: (1.3, 0.01)}}, "exact": {"c": {2: (1.0, 0)}}}
    figure = plotting.scores_over_minutes(scores, ("counts", 1.15), "c is below counts")
    assert [axes.get_title() for axes in figure.axes] == ["bounds", "exact"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["counts", "b", "a", "c"]
    assert [[line.get_ydata()[0] for line in axes.lines].count(1.15) for axes in figure.axes] == [1, 1]
