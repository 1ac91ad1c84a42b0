"""Notifications: who is told of which events, in which words, how often, and through Apprise."""
