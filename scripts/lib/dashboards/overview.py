"""One page of what matters most, for places with one page: OpenShift's console, and Prometheus without Grafana."""
from .capacity import CAPACITY
from .model import Dashboard, Row
from .service import SERVICE
from .tenants import TENANTS


def _chosen(dashboard, *titles):
    return tuple(dashboard.panel(title) for title in titles)


OVERVIEW = Dashboard(
    "llama-gateway", "llama-gateway", "Is it up, who waits and why, and what is left.",
    (Row("Now", SERVICE.rows[0].panels),
     Row("Objectives and alerts", SERVICE.rows[1].panels),
     Row("Requests", _chosen(SERVICE, "Requests by surface", "How requests end", "What is refused, and why")),
     Row("Waiting and speed, as clients see it", _chosen(
         SERVICE, "Time to first token", "Time between tokens", "Wait in the queue", "Where requests are",
         "Tokens a second", "Duration of requests")),
     Row("Tenants", _chosen(
         TENANTS, "Tokens a second by tenant", "Slots by tenant", "Share of the work", "Who waits", "For how long",
         "Who got no slot", "Use in the time shown", "Tokens a minute: left", "Quotas: used", "What limits refuse")),
     Row("Capacity", _chosen(
         CAPACITY, "Slots", "Work that waits, and what is done in a second", "Time to empty the queue",
         "Expected wait by class", "Speed of prompts (prefill)", "Speed of output (decode)", "Prompt cache hits",
         "Slots by replica", "Work for others")),
     Row("The gateway itself", _chosen(
         SERVICE, "Ledger: age of what is not written", "Data volume: free", "Accounting drift"))),
    by_tenant=True)
