"""The gateway's Prometheus series."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

SECONDS: Final = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

REQUESTS: Final = Counter(
    "ssjf_gateway_requests_total", "Accepted requests by how they ended", ["outcome"]
)
REFUSED: Final = Counter(
    "ssjf_gateway_refused_total", "Requests refused before the queue, by reason", ["reason"]
)
WAITING: Final = Gauge("ssjf_gateway_waiting_requests", "Requests in the queue")
RUNNING: Final = Gauge("ssjf_gateway_running_requests", "Requests at engines")
ENGINES: Final = Gauge("ssjf_gateway_engines", "Engines connected")
PREDICTOR_DEGRADED: Final = Gauge(
    "ssjf_gateway_predictor_degraded", "1 while predictions fail or come late"
)
PREDICTIONS: Final = Counter(
    "ssjf_gateway_predictions_total", "Predictions by what became of them", ["result"]
)
QUEUE_WAIT: Final = Histogram(
    "ssjf_gateway_queue_wait_seconds",
    "Time in the queue of requests that were started, by class",
    ["priority"],
    buckets=SECONDS,
)
WAIT_BY_REASON: Final = Counter(
    "ssjf_gateway_wait_seconds_total",
    "Time that requests have waited, all together, by class and what they waited for",
    ["priority", "reason"],
)
WAITING_BY_REASON: Final = Gauge(
    "ssjf_gateway_waiting_requests_by_reason",
    "Requests in the queue, by class and what they wait for",
    ["priority", "reason"],
)
WAITING_TOKENS: Final = Gauge(
    "ssjf_gateway_waiting_predicted_tokens", "Predicted output tokens of what waits"
)
PREDICTED_WAIT: Final = Gauge(
    "ssjf_gateway_predicted_wait_seconds", "Predicted time to work off what waits"
)
TENANT_WAITING: Final = Gauge(
    "ssjf_gateway_tenant_waiting_requests", "Requests in the queue, by tenant", ["tenant"]
)
TENANT_RUNNING: Final = Gauge(
    "ssjf_gateway_tenant_running_requests", "Requests at engines, by tenant", ["tenant"]
)
TENANT_OUTPUT_TOKENS: Final = Counter(
    "ssjf_gateway_tenant_output_tokens_total",
    "Output tokens of finished requests, by tenant",
    ["tenant"],
)
TENANT_REFUSED: Final = Counter(
    "ssjf_gateway_tenant_refused_total",
    "Requests that met a limit, by tenant and limit",
    ["tenant", "limit"],
)
BOUND_VIOLATIONS: Final = Gauge(
    "ssjf_gateway_bound_violations", "Broken bounds on being overtaken: 0 unless there is a bug"
)
ENGINE_FREE_PLACES: Final = Gauge(
    "ssjf_gateway_engine_free_sequences", "Places that engines say are free", ["engine"]
)
ENGINE_FREE_KV: Final = Gauge(
    "ssjf_gateway_engine_free_kv_tokens", "KV tokens that engines say are free", ["engine"]
)
FALLBACK: Final = Gauge(
    "ssjf_gateway_policy_fallback", "1 while predictions are not trusted to order the queue"
)
PREDICTION_COUNT: Final = Gauge(
    "ssjf_gateway_prediction_window_requests", "Finished requests that tau-b is taken over"
)
PREDICTION_TAU_B: Final = Gauge(
    "ssjf_gateway_prediction_tau_b", "Kendall's tau-b of predicted against actual tokens, lately"
)
PREDICTION_BIAS: Final = Gauge(
    "ssjf_gateway_prediction_bias", "Sum of predicted over sum of actual tokens, lately"
)
PREDICTION_P90_COVERAGE: Final = Gauge(
    "ssjf_gateway_prediction_p90_coverage",
    "Share of requests within the predicted 90th percentile, lately; 0.9 is right",
)
TTFT: Final = Histogram(
    "ssjf_gateway_time_to_first_token_seconds",
    "Receipt to first token, by class",
    ["priority"],
    buckets=SECONDS,
)
JCT: Final = Histogram(
    "ssjf_gateway_job_completion_seconds",
    "Receipt to end of finished requests, by class",
    ["priority"],
    buckets=SECONDS,
)
OUTPUT_TOKENS: Final = Counter(
    "ssjf_gateway_output_tokens_total", "Output tokens of finished requests"
)
PREDICTION_RATIO: Final = Histogram(
    "ssjf_gateway_predicted_to_actual_ratio",
    "Predicted over actual output tokens of finished requests",
    buckets=(0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1, 1.2, 1.4, 2, 3, 5, 10),
)
DROPPED_MESSAGES: Final = Counter(
    "ssjf_gateway_dropped_engine_messages_total",
    "Engine output about unknown, ended or repeated sequences",
)
