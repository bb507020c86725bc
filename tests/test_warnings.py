"""Which warnings stop a test: all of our own code, and of other packages those that are no deprecations."""

import warnings

import pytest

DEPRECATIONS = [DeprecationWarning, PendingDeprecationWarning, FutureWarning]
OURS = ["nbflows", "nbflows.layers.coupling", "tests.test_flow", "benchmarks.harness", "tools.check_notebooks"]
OTHERS = ["matplotlib.rcsetup", "pyparsing", "other.nbflows", "nbflows_like", "testsuite.tools"]


def _warn_in(module: str, category: type[Warning]) -> None:
    # As code of that module does: Python finds the filter by the name of the module that the warning points to.
    exec("import warnings; warnings.warn('about to go', category)", {"__name__": module, "category": category})


@pytest.mark.parametrize("category", [*DEPRECATIONS, UserWarning])
@pytest.mark.parametrize("module", OURS)
def test_every_warning_of_our_code_is_an_error(module, category):
    with pytest.raises(category, match="about to go"):
        _warn_in(module, category)


@pytest.mark.parametrize("category", DEPRECATIONS)
@pytest.mark.parametrize("module", OTHERS)
def test_a_deprecation_within_another_package_is_shown_and_stops_nothing(module, category):
    # Recorded under the filters of the configuration: what they make an error is raised all the same.
    with warnings.catch_warnings(record=True) as shown:
        _warn_in(module, category)
    assert [str(warning.message) for warning in shown] == ["about to go"]


def test_any_other_warning_of_another_package_is_an_error():
    with pytest.raises(UserWarning, match="about to go"):
        _warn_in("matplotlib.rcsetup", UserWarning)


def test_a_deprecated_call_counts_as_ours_where_we_make_it(tmp_path, monkeypatch):
    # A package that names its caller, as packages do: the warning is then of whoever calls.
    (tmp_path / "old_package.py").write_text(
        "import warnings\ndef old():\n    warnings.warn('call new()', DeprecationWarning, stacklevel=2)\n"
        "def within():\n    old()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import old_package

    with pytest.raises(DeprecationWarning, match="call new"):
        old_package.old()
    with warnings.catch_warnings(record=True) as shown:
        old_package.within()
    assert len(shown) == 1
