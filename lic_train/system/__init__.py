"""Atomic writes, machine facts, memory settings and terminal output."""
