"""The dashboard Capacity: what the slots can do, what is asked of them, and how the replicas are."""
from .gpu import GPU
from .gpu import ROW as GPU_ROW
from .model import Dashboard, Panel, Row, Target, growth, quantiles, rate, series, total

QUEUE = (
    Panel("Slots", "In use by this gateway, and announced by ready replicas.", "short",
          (Target(total("slots_busy"), "busy"), Target(total("slots_total"), "all"))),
    Panel("Work that waits, and what is done in a second", "Both in units of cost: a prompt token that is not cached "
          "is one. Backlog divided by rate is the time to empty the queue.", "short",
          (Target(total("queue_backlog"), "waits"), Target(total("service_rate"), "can be done in a second"),
           Target(rate("service_total"), "was done in a second"))),
    Panel("Time to empty the queue", "If nothing came any more. Nothing is shown until the speed is known.", "s",
          (Target("%s / (%s > 0)" % (total("queue_backlog"), total("service_rate")), "time"),)),
    Panel("Requests in and out of the queue", "Arrivals above dispatches for long: the queue grows, or refuses.",
          "reqps",
          (Target(rate("queue_tickets_total"), "over, whatever way"),
           Target(rate("queue_tickets_total", match='outcome="dispatched"'), "got a slot"))),
    Panel("Waiting by class", "Requests that wait for a slot.", "short",
          (Target(total("queue_depth", "class"), "{{class}}"),), stacked=True),
    Panel("Expected wait by class", "The forecast for a request that came now, of a tenant with nothing waiting.", "s",
          (Target("max by (class) (%s)" % series("queue_expected_wait_seconds"), "{{class}}"),)),
    Panel("Real wait by forecast", "1: the forecast was right. Above 1, requests wait longer than they were told.",
          "short", quantiles("queue_wait_ratio", (0.5, 0.95))),
    Panel("Slots idle while somebody waits", "Seconds in the time shown. Must stay 0: anything else is a fault of the "
          "gateway.", "s", (Target(growth("slots_idle_with_backlog_seconds_total")),), "stat",
          thresholds=((None, "green"), (1, "red"))),
    Panel("Slots in use over the time shown", "The mean. Above 0.8 the wait grows fast with every further request.",
          "percentunit",
          (Target("sum(avg_over_time(%s[$__range])) / (sum(avg_over_time(%s[$__range])) > 0)" % (
              series("slots_busy"), series("slots_total"))),), "gauge", maximum=1,
          thresholds=((None, "green"), (0.8, "orange"), (0.95, "red"))),
)

SPEED = (
    Panel("Speed of prompts (prefill)", "Prompt tokens a second of a slot that computes a prompt, by llama-server's "
          "clock; cached ones are left out.", "short",
          (Target("%s / (%s > 0)" % (rate("llamacpp:prompt_tokens_total"), rate("llamacpp:prompt_seconds_total")),
                  "tokens a second"),)),
    Panel("Speed of output (decode)", "Output tokens a second of one stream, by llama-server's clock. Several streams "
          "at once are each slower. From a million tokens on, llama-server rounds its counters to six digits.", "short",
          (Target("%s / (%s > 0)" % (rate("llamacpp:tokens_predicted_total"),
                                     rate("llamacpp:tokens_predicted_seconds_total")), "tokens a second"),)),
    Panel("Output of all slots", "Output tokens a second, as the gateway counts them and as llama-server does. "
          "llama-server counts a request at its end.", "short",
          (Target(rate("tokens_total", match='kind="completion"'), "gateway"),
           Target(rate("llamacpp:tokens_predicted_total"), "llama-server"))),
    Panel("Prompt cache hits", "Part of the prompt tokens that did not have to be computed.", "percentunit",
          (Target("%s / (%s > 0)" % (rate("tokens_total", match='kind="cached"'),
                                     rate("tokens_total", match='kind="prompt"')), "cached"),), maximum=1),
    Panel("Passes of the model", "llama_decode calls a second. Output tokens divided by it tell how many streams share "
          "a pass.", "short", (Target(rate("llamacpp:n_decode_total"), "passes a second"),)),
    Panel("What an output token costs", "In prompt tokens that are not cached: the weight of output in the queue's "
          "arithmetic.", "short", (Target("max(%s)" % series("output_token_cost"), "prompt tokens"),)),
    Panel("llama-server's own queue", "Requests that it works on or keeps waiting. The gateway sends no more than "
          "there are slots: what waits there came from elsewhere.", "short",
          (Target(total("llamacpp:requests_processing"), "processing"),
           Target(total("llamacpp:requests_deferred"), "waiting"))),
    Panel("Counting prompts", "How the tokens of prompts were counted: exact, cached, or as an estimate because "
          "llama-server did not answer in time.", "reqps",
          (Target(rate("prompt_counts_total", "by"), "{{by}}"),), stacked=True),
    Panel("Time to count a prompt", "Where the count was not cached. It comes before the queue, so it is part of the "
          "time to first token.", "s", quantiles("prompt_count_seconds", (0.5, 0.95))),
)

REPLICAS = (
    Panel("State of replicas", "The state of each replica. wedged: a slot has made no progress for too long.", "short",
          (Target("max by (upstream, state) (%s) == 1" % series("upstream_state"), "{{upstream}} {{state}}"),),
          "state-timeline", width=12),
    Panel("Slots by replica", "In use by this gateway.", "short",
          (Target(total("slots_busy", "upstream"), "{{upstream}}"),), width=12, stacked=True),
    Panel("Restarts of replicas", "In the time shown, since the replica was first ready.", "short",
          (Target(growth("upstream_restarts_total", "upstream"), "{{upstream}}"),), "stat",
          thresholds=((None, "green"), (1, "orange"))),
    Panel("Work for others", "Requests on the replica that did not come through this gateway: nobody counts them.",
          "short", (Target(total("upstream_foreign_requests", "upstream"), "{{upstream}}"),)),
    Panel("Failed look-ups", "Look-ups of dns:// names that gave no address, a second.", "short",
          (Target(rate("upstream_lookup_failures_total"), "failed"),)),
)

CAPACITY = Dashboard(
    "capacity", "llama-gateway / Capacity",
    "What the slots can do, what is asked of them, and how the replicas are.",
    (Row("Slots and queue", QUEUE), Row("Speed of llama-server", SPEED), Row("Replicas", REPLICAS),
     Row(GPU_ROW, GPU, folded=True)))
