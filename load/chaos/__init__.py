"""Faults brought about at named steps of a request, one after another, and at random under mixed traffic."""
