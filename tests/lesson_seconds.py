"""A pytest plugin for notebooks: prints how many seconds each took."""

from collections import defaultdict


def pytest_terminal_summary(terminalreporter):
    seconds = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if ".ipynb" in getattr(report, "nodeid", "") and hasattr(report, "duration"):
                seconds[report.nodeid.split("::")[0]] += report.duration
    terminalreporter.section("seconds per notebook")
    for name in sorted(seconds):
        terminalreporter.line(f"{seconds[name]:6.1f} s  {name}")
    terminalreporter.line(f"{sum(seconds.values()):6.1f} s  in all")
