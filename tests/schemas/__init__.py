"""Tests of requests and results."""
