"""Talking with a guest's init over a channel that only its host has: heartbeat, statistics, commands, snapshots."""
