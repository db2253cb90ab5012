"""The dashboard Tenants: who uses what, whether the shares are fair, who waits and why, and what is left of limits."""
from .model import TENANT, Dashboard, Panel, Row, Target, growth, largest, quantile, rate, series, total

USE = (
    Panel("Tokens a second by tenant", "Prompt and completion, the ten largest.", "short",
          (Target(largest(10, rate("tokens_total", "tenant", TENANT + ', kind=~"prompt|completion"')), "{{tenant}}"),),
          width=12, stacked=True),
    Panel("Slots by tenant", "Slots that each tenant's requests hold, the ten largest.", "short",
          (Target(largest(10, total("tenant_slots_busy", "tenant", TENANT)), "{{tenant}}"),), width=12, stacked=True),
    Panel("Use in the time shown", "Prompt tokens hold the cached ones. Slot time is that of all slots together: two "
          "slots for a second are two seconds.", "short",
          tuple(Target(growth("tokens_total", "tenant", '%s, kind="%s"' % (TENANT, kind)), column)
                for kind, column in (("prompt", "Prompt tokens"), ("cached", "of them cached"),
                                     ("completion", "Completion tokens")))
          + (Target(growth("slot_seconds_total", "tenant", TENANT), "Slot seconds"),
             Target(growth("queue_tickets_total", "tenant", TENANT), "Requests for a slot")),
          "table", width=24, columns=("tenant",)),
)

FAIRNESS = (
    Panel("Share of the work", "Each tenant's part of all work, in units of cost: what the scheduler shares out by "
          "weight. Who wants less than its share leaves it to the others.", "percentunit",
          (Target(largest(10, "%s / ignoring (tenant) group_left sum(%s)" % (
              rate("service_total", "tenant", TENANT), rate("service_total"))), "{{tenant}}"),),
          stacked=True, maximum=1),
    Panel("Fairness (Jain's index)", "1: everybody who waited in the last 5 minutes got what was due by weight. 1/n: "
          "one of n got everything. Lower for a while after large requests.", "short",
          (Target("min(%s)" % series("fairness_jain_index"), "index"),), maximum=1),
    Panel("Distance in virtual time", "Between the most and the least served tenant who have something to run, in "
          "units of cost by weight. Growing: somebody is held back by a cap.", "short",
          (Target("max(%s)" % series("virtual_time_spread"), "distance"),)),
)

WAITING = (
    Panel("Who waits", "Requests that wait for a slot, by tenant and class, the ten largest.", "short",
          (Target(largest(10, total("queue_depth", "tenant, class", TENANT)), "{{tenant}} ({{class}})"),),
          stacked=True),
    Panel("For how long", "95 of 100 requests of the tenant waited less, the ten longest.", "s",
          (Target(largest(10, quantile(0.95, "queue_wait_seconds", "tenant", TENANT)), "{{tenant}}"),)),
    Panel("Expected wait", "How long a request would probably wait if it came now, of a tenant with nothing waiting, "
          "by class. Nothing is shown while nothing is known.", "s",
          (Target("max by (class) (%s)" % series("queue_expected_wait_seconds"), "{{class}}"),)),
    Panel("Why they wait: slots taken", "Slots held by each tenant, and all slots. A tenant may wait although slots "
          "are free, if its policy allows it no more.", "short",
          (Target(largest(10, total("tenant_slots_busy", "tenant", TENANT)), "{{tenant}}"),
           Target(total("slots_total"), "all slots"))),
    Panel("What came of waiting", "dispatched: got a slot. full: as many waited as may. too_long: refused by forecast. "
          "expired: no slot in time. left: the client went away.", "reqps",
          (Target(rate("queue_tickets_total", "outcome", TENANT), "{{outcome}}"),), stacked=True),
    Panel("Who got no slot", "Requests that were refused by the queue or gave up, by tenant and outcome, the ten "
          "largest.", "reqps",
          (Target(largest(10, rate("queue_tickets_total", "tenant, outcome",
                                   TENANT + ', outcome!="dispatched"')), "{{tenant}}: {{outcome}}"),)),
)

QUOTA_LEFT = "(%s - %s)" % (series("quota_limit_tokens", TENANT), series("quota_used_tokens", TENANT))

LIMITS = (
    Panel("Tokens a minute: left", "Level of each tenant's bucket as a part of its size, the ten lowest. Below 0 is a "
          "debt: nothing is let in until it is paid.", "percentunit",
          (Target("bottomk(10, %s / %s)" % (total("token_bucket_level", "tenant", TENANT),
                                            total("token_bucket_capacity", "tenant", TENANT)), "{{tenant}}"),),
          maximum=1),
    Panel("Quotas: used", "Part of the day's and the month's tokens that is used, the ten highest.", "percentunit",
          (Target(largest(10, "%s / %s" % (
              total("quota_used_tokens", "tenant, period", TENANT),
              total("quota_limit_tokens", "tenant, period", TENANT))), "{{tenant}}, {{period}}"),),
          maximum=1),
    Panel("What limits refuse", "By tenant and limit, the ten largest.", "reqps",
          (Target(largest(10, rate("limit_refusals_total", "tenant, limit", TENANT)), "{{tenant}}: {{limit}}"),)),
    Panel("Limits and what is left", "Tokens. Open reservations are what running requests hold until they are over.",
          "short",
          (Target(total("token_bucket_capacity", "tenant", TENANT), "A minute"),
           Target(total("token_bucket_level", "tenant", TENANT), "left now"),
           Target(total("token_reservations_open", "tenant", TENANT), "reserved"),
           Target(total("quota_limit_tokens", "tenant", TENANT + ', period="day"'), "A day"),
           Target(total("quota_used_tokens", "tenant", TENANT + ', period="day"'), "used today"),
           Target(total("quota_limit_tokens", "tenant", TENANT + ', period="month"'), "A month"),
           Target(total("quota_used_tokens", "tenant", TENANT + ', period="month"'), "used this month")),
          "table", width=16, columns=("tenant",)),
    Panel("Quota lasts for", "At the pace of the time shown, the ten shortest. A quota that ends before its day or "
          "month does will refuse requests.", "s",
          (Target("bottomk(10, sum by (tenant, period) (%s) / on (tenant) group_left () (%s > 0))" % (
              QUOTA_LEFT, "sum by (tenant) (rate(%s[$__range]))" % series(
                  "tokens_total", TENANT + ', kind=~"prompt|completion"')), "{{tenant}}, {{period}}"),)),
    Panel("Keys that expire", "Keys that expire within 30 days, or did within the last day (below 0).", "s",
          (Target("min by (tenant, key_id) (%s) - time()" % series("api_key_expiry_timestamp_seconds", TENANT),
                  "Time left"),), "table", width=24, height=6, columns=("tenant", "key_id")),
)

CACHE = (
    Panel("Prompt cache by tenant", "Part of the prompt tokens that llama-server had in its cache, the ten largest "
          "users. Near 0 with long prompts: each request begins with something else, such as the time.", "percentunit",
          (Target("%s / (%s > 0)" % (
              rate("tokens_total", "tenant", TENANT + ', kind="cached"'),
              largest(10, rate("tokens_total", "tenant", TENANT + ', kind="prompt"'))), "{{tenant}}"),),
          width=12, maximum=1),
    Panel("Time in slots by tenant and phase", "prefill: to the first token. Much of it: long prompts that are not "
          "cached. The ten largest.", "short",
          (Target(largest(10, rate("slot_seconds_total", "tenant, phase", TENANT)), "{{tenant}} {{phase}}"),),
          width=12),
)

TENANTS = Dashboard(
    "tenants", "llama-gateway / Tenants",
    "Who uses what, whether shares are fair, who waits, why and for how long, and what is left of limits.",
    (Row("Use", USE), Row("Fairness", FAIRNESS), Row("Waiting", WAITING), Row("Limits", LIMITS),
     Row("Prompt cache", CACHE)), by_tenant=True)
