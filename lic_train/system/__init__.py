"""Atomic writes, bounded reads, machine facts, memory settings and terminal output."""
