"""Runs steps one after the other within a given time; standard library only."""
