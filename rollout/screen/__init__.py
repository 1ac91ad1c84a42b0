"""What people see: tables, and a rollout's live panel, made from the admin API's JSON. Pure."""

from rollout.screen.chronicle import audit_table, event_line
from rollout.screen.configs import config_lines, resources_table
from rollout.screen.evidence import against, progress, progress_words, verdict_text
from rollout.screen.following import awaited_words, choices, station
from rollout.screen.lines import (
    begun,
    deployed,
    drain_line,
    drain_of,
    drains_of,
    health_of,
    notes,
    queued_line,
    rollout_line,
)
from rollout.screen.locations import locations_table, steps, wave_words
from rollout.screen.panel import NOTES_LIMIT, WAITING_LIMIT, service_panel
from rollout.screen.records import operations_table, versions_table
from rollout.screen.tables import fleet_table, history_table, services_table, status_table
from rollout.screen.track import track
from rollout.screen.words import (
    duration,
    instant,
    milliseconds,
    move,
    percent,
    phase_words,
    plain,
    plural,
    seconds_between,
    share,
    style_of,
)

__all__ = [
    "NOTES_LIMIT",
    "WAITING_LIMIT",
    "against",
    "audit_table",
    "awaited_words",
    "begun",
    "choices",
    "config_lines",
    "deployed",
    "drain_line",
    "drain_of",
    "drains_of",
    "duration",
    "event_line",
    "fleet_table",
    "health_of",
    "history_table",
    "instant",
    "locations_table",
    "milliseconds",
    "move",
    "notes",
    "operations_table",
    "percent",
    "phase_words",
    "plain",
    "plural",
    "progress",
    "progress_words",
    "queued_line",
    "resources_table",
    "rollout_line",
    "seconds_between",
    "service_panel",
    "services_table",
    "share",
    "station",
    "status_table",
    "steps",
    "style_of",
    "track",
    "verdict_text",
    "versions_table",
    "wave_words",
]
