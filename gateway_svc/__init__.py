"""The gateway: the public gRPC service, its SSJF queue and its links to predictor and engines."""
