"""Objective, trajectory and methods of adaptation at test time."""
