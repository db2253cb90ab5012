"""The dashboard Service: is it up, how fast does it answer, what fails or is refused, and why."""
from .gpu import BUSY
from .gpu import ROW as GPU_ROW
from .model import Dashboard, Panel, Row, Target, growth, quantile, quantiles, rate, series, total

# Endings and reasons that are the gateway's or llama-server's fault, not the client's. The rules use the same.
FAULTS = ('first_token_timeout|stream_idle_timeout|total_timeout|backend_unavailable|model_loading|backend_error|'
          'ledger_unavailable|internal_error|drained')
FAILED = 'ending=~"%s"' % FAULTS
CREDENTIALS = 'reason=~"invalid_api_key|invalid_token|ip_not_authorized|endpoint_not_allowed|model_not_allowed"'

WATCH = (
    Panel("Requests a second", "Requests that ended, whatever way.", "reqps",
          (Target(rate("requests_total")),), "stat", 4, 4),
    Panel("Failed part", "Part of the requests that failed by the gateway's or llama-server's fault. Refusals are no "
          "failures.", "percentunit",
          (Target("%s / %s" % (rate("requests_total", match=FAILED), rate("requests_total"))),), "stat", 4, 4,
          thresholds=((None, "green"), (0.005, "orange"), (0.05, "red"))),
    Panel("First token, 95 of 100", "95 of 100 requests had their first token within this time.", "s",
          (Target(quantile(0.95, "time_to_first_token_seconds")),), "stat", 4, 4,
          thresholds=((None, "green"), (30, "orange"), (120, "red"))),
    Panel("Waiting now", "Requests that wait for a slot.", "short", (Target(total("queue_depth")),), "stat", 4, 4),
    Panel("Slots busy", "Part of the slots of ready replicas that work for this gateway.", "percentunit",
          (Target("%s / (%s > 0)" % (total("slots_busy"), total("slots_total"))),), "gauge", 4, 4, maximum=1,
          thresholds=((None, "green"), (0.8, "orange"), (0.99, "red"))),
    Panel("Replicas ready", "Replicas of llama-server that have loaded their model.", "short",
          (Target(total("upstream_ready")),), "stat", 4, 4, thresholds=((None, "red"), (1, "green"))),
)

REQUESTS = (
    Panel("Requests by surface", "Requests that ended, by API surface.", "reqps",
          (Target(rate("requests_total", "surface"), "{{surface}}"),), stacked=True),
    Panel("How requests end", "complete: the client has everything. client_left: it went away first. cut_at_quota: its "
          "quota was used up. All others are refusals and failures by their reason.", "reqps",
          (Target(rate("requests_total", "ending"), "{{ending}}"),), stacked=True),
    Panel("What is refused, and why", "Refusals and failures by reason, those without a valid key included. The "
          "reasons are explained in docs/TROUBLESHOOTING.md.", "reqps",
          (Target(rate("refused_total", "reason"), "{{reason}}"),), stacked=True),
    Panel("Failures by reason", "Only what is the gateway's or llama-server's fault.", "reqps",
          (Target(rate("requests_total", "ending", FAILED), "{{ending}}"),), stacked=True),
    Panel("Duration of requests", "From arrival to end. Long answers take long: look at the first token for the wait.",
          "s", quantiles("request_duration_seconds")),
    Panel("Refused credentials", "Keys and tokens that are wrong, expired, or not for this address, API or model. A "
          "jump is somebody who tries, or a key that has expired.", "reqps",
          (Target(rate("refused_total", "reason", CREDENTIALS), "{{reason}}"),)),
)

WAITS = (
    Panel("Time to first token", "As the client sees it, from the request's arrival: waiting in the queue and "
          "computing the prompt.", "s", quantiles("time_to_first_token_seconds")),
    Panel("First token: how many took how long", "Each column is a span of time, each row a time to first token. Two "
          "bands are mostly two kinds of prompts: cached and not, or short and long.", "s",
          (Target("sum by (le) (increase(%s[$__rate_interval]))" % series("time_to_first_token_seconds_bucket"),
                  "{{le}}"),), "heatmap"),
    Panel("Time between tokens", "The gap between two reads that held output. It grows with the number of busy slots, "
          "and while another slot computes a prompt.", "s", quantiles("inter_token_latency_seconds")),
    Panel("Wait in the queue", "From entering the queue to getting a slot, or giving up.", "s",
          quantiles("queue_wait_seconds")),
    Panel("Where requests are", "How many requests are in each stage on average: waiting, computing the prompt, "
          "generating. Those with two slots count twice in the latter two.", "short",
          (Target(rate("queue_wait_seconds_sum"), "waiting"),
           Target(rate("slot_seconds_total", "phase"), "{{phase}}")), stacked=True),
    Panel("Time between tokens: how many took how long", "Most gaps lie in one band; gaps of seconds are those in "
          "which llama-server computed another prompt.", "s",
          (Target("sum by (le) (increase(%s[$__rate_interval]))" % series("inter_token_latency_seconds_bucket"),
                  "{{le}}"),), "heatmap"),
)


def burn(ratio, objective):
    """How many times faster than allowed an error budget is used up, over three windows."""
    return tuple(Target("max by (namespace) (%s / on (namespace) (1 - %s))" % (
        series(":%s%s" % (ratio, window)), series(":%s:objective" % objective)), "{{namespace}} " + name)
        for window, name in (("1h", "1 hour"), ("6h", "6 hours"), ("3d", "3 days")))


OBJECTIVES = (
    Panel("Errors: budget burn", "How many times faster than the objective allows requests fail, by the gateway's or "
          "llama-server's fault. 1: exactly as much as is allowed. See docs/alerts.md.", "short",
          burn("requests:error_ratio", "requests")),
    Panel("First token: budget burn", "How many times faster than the objective allows first tokens come late.",
          "short",
          burn("time_to_first_token:slow_ratio", "time_to_first_token")),
    Panel("Alerts", "Those that fire, and those that will if it lasts (pending). Each has a section in "
          "docs/TROUBLESHOOTING.md.", "short",
          (Target('count by (alertname, severity, alertstate) '
                  '(ALERTS{namespace=~"$namespace", alertname=~"LlamaGateway.+|LlamaServer.+"})', "How many"),),
          "table", columns=("alertname", "severity", "alertstate")),
)

TOKENS = (
    Panel("Tokens a second", "prompt holds the cached ones too, completion holds thoughts.", "short",
          (Target(rate("tokens_total", "kind"), "{{kind}}"),), width=12),
    Panel("Slots computing", "How many slots llama-server computes in at a time, by its own clock: with a prompt, or "
          "with output. Near the number of slots means that the GPU has no pauses.", "short",
          (Target(rate("llamacpp:prompt_seconds_total"), "prompt"),
           Target(rate("llamacpp:tokens_predicted_seconds_total"), "output")), width=12, stacked=True),
)

GATEWAY = (
    Panel("Running versions", "The gateway's version, by pod.", "short",
          (Target("max by (namespace, pod, version) (%s)" % series("build_info"), "running"),), "table",
          columns=("namespace", "pod", "version")),
    Panel("Up since", "How long the gateway has been running. Back to 0 means a restart.", "s",
          (Target("time() - max by (namespace, pod) (%s)" % series("start_time_seconds"), "{{namespace}} {{pod}}"),)),
    Panel("Connections", "Open client connections, and how many were cut off because the client did not read.", "short",
          (Target(total("open_connections"), "open"),
           Target(rate("slow_readers_total"), "cut off a second"))),
    Panel("Ledger: age of what is not written", "The oldest message that is not yet on the disk. Grows when the disk "
          "is slow or full.", "s", (Target("max(%s)" % series("ledger_lag_seconds"), "oldest"),)),
    Panel("Ledger: commits and failures", "Transactions a second. Any failure is worth a look at the log.", "short",
          (Target(rate("ledger_commits_total"), "commits"), Target(rate("ledger_failures_total"), "failures"),
           Target(total("ledger_unsettled_entries"), "entries kept in memory"))),
    Panel("Data volume: free", "Part of the file system of ledger and keys that is free. When it is full, requests are "
          "refused.", "percentunit",
          (Target("min by (namespace) (%s / %s)" % (series("data_volume_free_bytes"),
                                                     series("data_volume_size_bytes")), "{{namespace}}"),), maximum=1),
    Panel("Certificate and keys: time left", "Until the certificate of the public port expires, and the first of the "
          "keys that expire within 30 days. Nothing is shown of what there is not.", "s",
          (Target("min by (file) (%s) - time()" % series("tls_certificate_expiry_timestamp_seconds"), "{{file}}"),
           Target("min(%s) - time()" % series("api_key_expiry_timestamp_seconds"), "first key"))),
    Panel("Accounting drift", "llama-server's count of tokens less the ledger's, in the last 24 hours, by replica and "
          "kind. See docs/audit.md.", "short",
          (Target(total("accounting_drift_tokens", "upstream, kind"), "{{upstream}} {{kind}}"),)),
    Panel("Export: waiting events", "What was settled and not yet told to the export's receiver, and how old the "
          "oldest is. 0 where no export is configured.", "short",
          (Target(total("export_pending"), "events"),
           Target("max(%s)" % series("export_oldest_seconds"), "seconds of the oldest"))),
    Panel("Faults and lost spans", "Panics of the gateway, and spans of traces that could not be exported, in the time "
          "shown.", "short",
          (Target(growth("panics_total"), "panics"), Target(growth("traces_export_failures_total"), "spans lost")),
          "stat", thresholds=((None, "green"), (1, "red"))),
)

SERVICE = Dashboard(
    "service", "llama-gateway / Service",
    "Is it up, how fast does it answer, what fails or is refused, and why.",
    (Row("Now", WATCH), Row("Objectives and alerts", OBJECTIVES), Row("Requests", REQUESTS),
     Row("Waiting and speed, as clients see it", WAITS), Row("Tokens", TOKENS), Row("The gateway itself", GATEWAY),
     Row(GPU_ROW, (BUSY,), folded=True)))
