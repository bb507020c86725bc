"""Tests of nbflows.explorer."""
