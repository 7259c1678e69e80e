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
    "ssjf_gateway_queue_wait_seconds", "Time in the queue", buckets=SECONDS
)
TTFT: Final = Histogram(
    "ssjf_gateway_time_to_first_token_seconds", "Receipt to first token", buckets=SECONDS
)
JCT: Final = Histogram(
    "ssjf_gateway_job_completion_seconds", "Receipt to end of finished requests", buckets=SECONDS
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
